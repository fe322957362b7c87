"""A book's archive to its clean text on disk: `<home>/text/<book>/<slug>.txt` and a manifest beside
them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from devopsgpt_model.atomic import finish_switch, switch_files
from devopsgpt_pipeline.sources.archive import MANIFEST, ChapterArchive
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.text.page_to_text import extract_chapter


class DamagedText(ValueError):
    """A folder of text whose manifest and files do not fit together."""


class NoChapters(ValueError):
    """A book that was not scraped yet."""


@dataclass(frozen=True)
class TextRow:
    """One chapter's text: a row of the manifest. chars: characters, notes included.

    url and content_sha256: of the page that it was read from; empty where an earlier version of
    this code wrote it
    """

    order: int
    slug: str
    title: str
    chars: int
    sha256: str
    url: str = ""
    content_sha256: str = ""


@dataclass(frozen=True)
class TextReport:
    """What the cleaning wrote. data_version covers every text and its slug, in order."""

    book: str
    data_version: str
    chapters: tuple[TextRow, ...]
    written: tuple[str, ...]
    removed: tuple[str, ...]
    notes: int

    @property
    def chars(self) -> int:
        return sum(row.chars for row in self.chapters)


def clean_book(archive_dir: Path, out_dir: Path, book: Book) -> TextReport:
    """Write the text of every chapter in use, and take away the texts of chapters that are gone.

    The folder changes as a whole: where one chapter cannot be read, nothing changes.
    raises: NoChapters, EmptyChapter, UncleanText, DamagedArchive
    """
    archive = ChapterArchive(archive_dir)
    texts: dict[str, str] = {}
    rows: list[TextRow] = []
    notes = 0
    with archive.held():
        for page in archive.rows():
            chapter = extract_chapter(archive.read(page), book, page.title, page.charset)
            texts[page.slug] = chapter.whole
            notes += len(chapter.notes)
            sha256 = hashlib.sha256(chapter.whole.encode()).hexdigest()
            found = (chapter.title, len(chapter.whole), sha256)
            rows.append(TextRow(page.order, page.slug, *found, page.url, page.content_sha256))
    if not rows:
        raise NoChapters(f"{book.name}: no chapters in {archive_dir}; scrape the book first")
    written, removed = _write(out_dir, texts, rows)
    return TextReport(book.name, text_version(rows), tuple(rows), written, removed, notes)


def text_version(rows: list[TextRow]) -> str:
    """The data version of texts in this order."""
    return hashlib.sha256(json.dumps([(row.slug, row.sha256) for row in rows]).encode()).hexdigest()


def _write(
    folder: Path, texts: dict[str, str], rows: list[TextRow]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        finish_switch(folder, MANIFEST)
        new = {slug: text.encode() for slug, text in texts.items()}
        on_disk = {path.stem: path for path in folder.glob("*.txt")}
        written = tuple(
            s for s, data in new.items() if s not in on_disk or on_disk[s].read_bytes() != data
        )
        removed = tuple(sorted(on_disk.keys() - new.keys()))
        files = {f"{slug}.txt": new[slug] for slug in written}
        manifest = (
            json.dumps({"chapters": [asdict(row) for row in rows]}, indent=1, ensure_ascii=False)
            + "\n"
        )
        files[MANIFEST] = manifest.encode()
        switch_files(folder, files, [f"{slug}.txt" for slug in removed], last=MANIFEST)
    return written, removed


def read_texts(folder: Path) -> list[tuple[TextRow, str]]:
    """Every chapter's text in reading order.

    raises: NoChapters before the first cleaning; DamagedText where a text is not the one of the
    manifest
    """
    path = folder / MANIFEST
    if not path.exists():
        raise NoChapters(f"no clean text in {folder}; clean the book first")
    texts = []
    try:
        for entry in json.loads(path.read_text(encoding="utf-8"))["chapters"]:
            row = TextRow(**entry)
            text = (folder / f"{row.slug}.txt").read_bytes()
            if hashlib.sha256(text).hexdigest() != row.sha256:
                raise ValueError(f"{row.slug}.txt is not the text that the manifest tells of")
            texts.append((row, text.decode()))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DamagedText(
            f"{folder} cannot be read ({error}); remove the folder and clean the book again"
        ) from error
    return texts
