"""One version of the registered model: what the registry says of it."""

import hashlib
import re
from dataclasses import asdict, dataclass, field
from typing import Any

NUMBER = re.compile("[0-9]{1,18}")  # \d would take digits of every script


@dataclass(frozen=True)
class Version:
    """A model version as the registry describes it. created: Unix seconds

    raises: ValueError for a number that is none: it becomes part of a path and of a header
    """

    name: str
    number: str
    source: str
    created: int
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NUMBER.fullmatch(self.number):
            raise ValueError(
                f"a version's number must have 1..18 digits 0-9, got {self.number!r:.60}"
            )

    @property
    def key(self) -> str:
        """Its folder's name. The hash keeps registries apart: a fresh one counts from 1 again."""
        source = self.source.encode(errors="backslashreplace")
        return f"{self.number}-{hashlib.sha256(source).hexdigest()[:12]}"

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


def printable(text: str) -> str:
    """A text that others wrote, fit for headers, logs and terminals.

    Line breaks become spaces; control characters, marks of direction and halves of surrogate pairs
    become U+FFFD.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text
    )
