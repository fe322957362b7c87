"""Which dataset of the Hugging Face hub is read, and where from: OpenWebText unless a run says
otherwise. Loads no client."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "Skylion007/openwebtext"
REVISION = "79d93d786212f7344586290adb811d4ae6a1762c"  # the text as 80 parquet shards
BY_HAND = "shards"  # the folder, beside those of what is under way, for files that a person brings


@dataclass(frozen=True)
class Source:
    """What is read. documents: how many from the beginning, 0 for all

    endpoint: another hub than the public one; by_hand: a folder whose parquet files, if it has
    some, are taken instead
    """

    documents: int = 0
    repository: str = REPOSITORY
    revision: str = REVISION
    endpoint: str | None = None
    by_hand: Path | None = None

    @property
    def key(self) -> str:
        content = json.dumps([self.documents, self.repository, self.revision])
        return hashlib.sha256(content.encode()).hexdigest()[:12]
