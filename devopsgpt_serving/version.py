"""One version of the registered model: what the registry says of it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Version:
    """A model version as the registry describes it. created: Unix seconds"""

    name: str
    number: str
    source: str
    created: int
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its folder's name. The hash keeps registries apart: a fresh one counts from 1 again."""
        return f"{self.number}-{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Version":
        """Read what was noted on disk; earlier builds wrote `version` for `number`.

        raises: TypeError or ValueError for anything else
        """
        fields = dict(content)
        if "version" in fields:
            fields["number"] = fields.pop("version")
        return cls(**fields)
