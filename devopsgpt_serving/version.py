"""One version of the registered model: what the registry says of it."""

import hashlib
from dataclasses import asdict, dataclass, field
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
        """What to_json wrote. raises: TypeError, ValueError or KeyError for anything else"""
        fields = dict(content)
        return cls(number=fields.pop("version"), **fields)

    def to_json(self) -> dict[str, Any]:
        """As it is noted on disk, where replicas of other builds read it: the number is `version`
        there."""
        fields = asdict(self)
        return {"version": fields.pop("number"), **fields}
