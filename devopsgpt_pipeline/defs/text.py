"""Clean text: what each book says, a file for each chapter."""

from pathlib import Path

import dagster as dg

from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.resources import HomeResource
from devopsgpt_pipeline.defs.sources import key_of
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.text.corpus import clean_book


def build_clean_text(book: Book) -> dg.AssetsDefinition:
    """The book's text: what a reader reads, without the page around it."""

    @dg.asset(
        key=key_of("clean_text", book),
        deps=[key_of("chapters", book)],
        description=f"The text of “{book.title}”, one file per chapter: headings, paragraphs, "
        "lists, listings and "
        "tables in reading order, notes at the end.",
        group_name="datasets",
        kinds={"text"},
        owners=OWNERS,
        code_version="2",
    )
    def clean_text(home: HomeResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
        folder = home.folders.text / book.name
        report = clean_book(home.folders.chapters / book.name, folder, book)
        rows = [
            dg.TableRecord({"slug": row.slug, "title": row.title, "characters": row.chars})
            for row in report.chapters
        ]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.data_version[:16]),
            metadata={
                "dagster/row_count": len(report.chapters),
                "characters": report.chars,
                "notes": report.notes,
                "written": dg.MetadataValue.json(list(report.written)),
                "removed": dg.MetadataValue.json(list(report.removed)),
                "chapters": dg.MetadataValue.table(rows),
                "first_page": dg.MetadataValue.md(_beginning(folder, report.chapters[0].slug)),
                "folder": dg.MetadataValue.path(str(folder)),
            },
        )

    return clean_text


def _beginning(folder: Path, slug: str) -> str:
    return (folder / f"{slug}.txt").read_text(encoding="utf-8")[:1200]
