"""Where everything that a run writes lies: one folder, DEVOPSGPT_HOME."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOOKS = "books"  # the dataset that the chain makes of the books
OLD_BOOKS = "sre"  # its name in homes from before it was renamed


class HomeError(ValueError):
    """A home that cannot be written."""


@dataclass(frozen=True)
class Home:
    """The folders of a home. Nothing is created before `prepare`."""

    path: Path

    @property
    def chapters(self) -> Path:
        return self.path / "chapters"

    @property
    def text(self) -> Path:
        return self.path / "text"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    def bins(self, dataset: str) -> Path:
        """The folder of a dataset's token bins; of the books, an older home's until it has new."""
        if dataset not in (BOOKS, OLD_BOOKS):
            return self.tokens / dataset
        new, old = self.tokens / BOOKS, self.tokens / OLD_BOOKS
        return old if old.exists() and not new.exists() else new

    def remove_old_books(self) -> None:
        """Remove the token bins that stood under the books' old name, once new ones are there."""
        old = self.tokens / OLD_BOOKS
        if old.is_symlink():
            content = old.resolve()
            old.unlink()
            shutil.rmtree(content, ignore_errors=True)

    @property
    def pretrained(self) -> Path:
        return self.path / "pretrained"

    @property
    def hub(self) -> Path:
        """Models of the Hugging Face hub, by repository and commit."""
        return self.pretrained / "hub"

    @property
    def downloads(self) -> Path:
        """What is fetched and encoded piece by piece, until it is whole."""
        return self.path / "downloads"

    @property
    def training(self) -> Path:
        return self.path / "training"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finetuned(self) -> Path:
        """The newest fine-tuned checkpoint."""
        return self.checkpoints / "finetuned"

    def finetuned_facts(self) -> dict[str, Any]:
        """How the newest fine-tuned checkpoint came to be: its training.json.

        raises: ValueError where there is none yet
        """
        path = self.finetuned / "training.json"
        if not path.exists():
            raise ValueError(
                f"no fine-tuned checkpoint at {self.finetuned}; materialize "
                "`finetuned_checkpoint` first"
            )
        facts: dict[str, Any] = json.loads(path.read_text())
        return facts

    @property
    def evaluation(self) -> Path:
        """What the newest fine-tuned checkpoint measured, a JSON file."""
        return self.checkpoints / "evaluation.json"

    @property
    def leaderboard(self) -> Path:
        """The table of everything that was measured, and its picture."""
        return self.path / "leaderboard"

    @property
    def promotion_lock(self) -> Path:
        """Held by whoever moves the champion's alias."""
        return self.path / "promotion.lock"

    @property
    def up_lock(self) -> Path:
        """Held by the one `devopsgpt up` that serves this home; says where it is."""
        return self.path / "up.lock"

    @property
    def mlflow(self) -> Path:
        return self.path / "mlflow"

    @property
    def dagster(self) -> Path:
        return self.path / "dagster"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def temporary(self) -> Path:
        """What lives no longer than a step. In containers TMPDIR names it: their /tmp is small."""
        return self.path / "tmp"

    def prepare(self) -> "Home":
        """Create the home. raises: HomeError where it cannot be written, with the remedy"""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
            for folder in (self.dagster, self.mlflow, self.logs):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise HomeError(
                f"the home {self.path} cannot be written ({error.strerror}); "
                "set DEVOPSGPT_HOME to a folder that you may write"
            ) from error
        return self
