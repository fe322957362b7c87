"""Whether what an up-to-date asset rests on is still there: its files, its runs, its versions.

Dagster remembers that an asset was made, not that somebody deleted it since. What is damaged counts
as out of date, so the chain makes it anew; what cannot be made anew says so in its own step.
"""

import hashlib
import json
from collections.abc import Callable, Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors import SafetensorError, safe_open

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.defs.datasets import TOKEN_BINS
from devopsgpt_pipeline.defs.leaderboard import PICTURE, TABLE
from devopsgpt_pipeline.defs.sources import key_of
from devopsgpt_pipeline.evaluation.comparison import Comparison
from devopsgpt_pipeline.home import BOOKS, Home
from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.text.corpus import read_texts, text_version
from devopsgpt_pipeline.tracking.client import CHAMPION, model_versions, version_of_alias
from devopsgpt_pipeline.tracking.runs import find_leaderboard_run
from devopsgpt_pipeline.tracking.versions import check_stored, checkpoint_sha256

PNG_END = b"IEND\xaeB`\x82"
NO_CHAMPION = "none"  # the data version of an asset `champion` whose challenger was not promoted


class Whole:
    """What the assets of one home's chain rest on. client: of the MLflow server over the home"""

    def __init__(self, home: Home, client: MlflowClient, books: Sequence[Book]) -> None:
        self.home, self.client = home, client
        self._checks: dict[str, Callable[[str], str]] = {
            TOKEN_BINS.to_user_string(): self._token_bins,
            "finetuned_checkpoint": self._finetuned,
            "evaluation": self._evaluation,
            "registered_model": self._registered,
            "champion": self._champion,
            "leaderboard": self._leaderboard,
        }
        for book in books:
            self._checks[key_of("chapters", book).to_user_string()] = self._chapters(book)
            self._checks[key_of("clean_text", book).to_user_string()] = self._clean_text(book)

    def damage(self, asset: str, data_version: str) -> str:
        """What an asset made as this data version lacks; empty where it is whole."""
        try:
            found = self._checks[asset](data_version)
        except (ValueError, KeyError, OSError, MlflowException) as error:
            return str(error)
        if found != data_version:
            return f"its files are of data version {found}, and it was made as {data_version}"
        return ""

    def has_pretrained(self, size: str) -> bool:
        """Whether the released weights of a size are there, and no file of theirs is cut short."""
        folder = self.home.pretrained / size
        try:
            for name in ("config.json", "tokenizer.json"):
                json.loads((folder / name).read_text())
            with safe_open(folder / "model.safetensors", "np") as weights:
                return bool(weights.keys())
        except (OSError, ValueError, SafetensorError):
            return False

    def _chapters(self, book: Book) -> Callable[[str], str]:
        def check(_: str) -> str:
            archive = ChapterArchive(self.home.chapters / book.name)
            with archive.held():
                for row in archive.rows():
                    archive.read(row)
                return archive.data_version[:16]

        return check

    def _clean_text(self, book: Book) -> Callable[[str], str]:
        def check(_: str) -> str:
            return text_version([row for row, _ in read_texts(self.home.text / book.name)])[:16]

        return check

    def _token_bins(self, _: str) -> str:
        bins = TokenBins.open(self.home.tokens / BOOKS)
        bins.check()
        if bins.tokenizer.vocab_size != bins.meta.vocab_size:
            raise ValueError(f"{bins.folder}: the tokenizer is not the one of meta.json")
        return bins.meta.data_version

    def _finetuned(self, _: str) -> str:
        folder = self.home.finetuned
        for name in ("generation_config.json", "tokenizer_config.json", "lineage.json"):
            json.loads((folder / name).read_text())
        self.client.get_run(self.home.finetuned_facts()["mlflow_run_id"])
        return checkpoint_sha256(folder)[:16]

    def _evaluation(self, _: str) -> str:
        comparison = Comparison.read(self.home.evaluation)
        run = self.client.get_run(self.home.finetuned_facts()["mlflow_run_id"])
        if f"val_loss/{comparison.dataset}" not in run.data.metrics:
            raise ValueError(f"MLflow's run {run.info.run_id} does not have its measurements")
        return f"{comparison.checkpoint_sha256[:16]}-{comparison.data_version}"

    def _registered(self, data_version: str) -> str:
        tag = "checkpoint_sha256"
        versions = model_versions(self.client)
        own = [one for one in versions if one.tags.get(tag, "")[:16] == data_version]
        if not own:
            raise ValueError("no version of it is in the registry")
        self._check_version(str(own[0].version))
        return data_version

    def _champion(self, data_version: str) -> str:
        version = version_of_alias(self.client, CHAMPION)
        if version is not None:  # a person may have chosen another one than the gate
            self._check_version(version)
        elif data_version != NO_CHAMPION:
            raise ValueError("the registry has no champion any more")
        return data_version

    def _check_version(self, version: str) -> None:
        check_stored(self.client, version, self.home.mlflow / "artifacts")

    def _leaderboard(self, _: str) -> str:
        picture = self.home.leaderboard / PICTURE
        if not picture.read_bytes().endswith(PNG_END):
            raise ValueError(f"{picture} is cut off")
        if not find_leaderboard_run(self.client):
            raise ValueError("MLflow does not have its run any more")
        table = (self.home.leaderboard / TABLE).read_bytes()
        return hashlib.sha256(table).hexdigest()[:16]
