"""`devopsgpt history`: earlier versions of the books' chapters."""

from datetime import UTC, datetime

import click

from devopsgpt_pipeline.commands.errors import report_errors
from devopsgpt_pipeline.commands.table import print_table
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.profiles import chosen_profile
from devopsgpt_pipeline.settings import read_settings


@click.command()
@click.argument("book")
@click.argument("chapter", required=False)
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Print CHAPTER as it was then (UTC).",
)
@report_errors
def history(book: str, chapter: str | None, at: datetime | None) -> None:
    """The versions of BOOK's chapters, or of one CHAPTER, that the archive keeps; with --at, that
    chapter's text.

    A version stays for a year after another one took its place.
    """
    from devopsgpt_pipeline.sources.books import books_of_profile
    from devopsgpt_pipeline.text import history as kept

    settings = read_settings()
    home = Home(settings.home)
    books = books_of_profile(chosen_profile(settings).name, settings.books)
    if at is None:
        print_table(kept.versions(home.chapters, kept.book_named(book, books), chapter))
    elif chapter is None:
        raise click.UsageError("--at needs a CHAPTER")
    else:
        click.echo(
            kept.text_at(
                home.chapters, kept.book_named(book, books), chapter, at.replace(tzinfo=UTC)
            ),
            nl=False,
        )
