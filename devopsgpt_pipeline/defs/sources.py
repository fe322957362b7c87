"""Sources: each book's site, observed, and its chapters, archived as served. A pair of assets per
book."""

import dagster as dg
from pydantic import Field

from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.resources import HomeResource, WebResource
from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.guards import GUARDS
from devopsgpt_pipeline.sources.observe import observe_book
from devopsgpt_pipeline.sources.scrape import ScrapeReport, scrape_book
from devopsgpt_pipeline.sources.visit import ScrapeProgress

GUARD_DOCS = {
    "contents_page": "The contents page must link to chapters: a redesign or an error page has "
    "none.",
    **{guard.__name__: (guard.__doc__ or "").strip() for guard in GUARDS},
}
REUSE_SEEN_WITHIN_S = 600.0  # observed so recently, pages are not asked for again


class ChaptersSettings(dg.Config):
    """What a person can say about a scrape."""

    accept: list[str] = Field(
        default=[],
        description="Guards whose failure you have looked at and agree to, by name: the new corpus "
        "is taken in then.",
    )


def key_of(step: str, book: Book) -> dg.AssetKey:
    """The asset of one step of one book. One part, since the graph shows the last only; and no
    hyphen in it."""
    return dg.AssetKey(f"{step}_{book.name.replace('-', '_')}")


def build_book_site(book: Book) -> dg.AssetsDefinition:
    """The book's site as a source that Dagster observes."""
    key = key_of("book_site", book)
    spec = dg.AssetSpec(
        key,
        description=f"The pages of “{book.title}” at {book.contents_url}: one conditional request "
        "each, and a data "
        "version over what the chapters say.",
        group_name="sources",
        kinds={"html"},
        owners=OWNERS,
        metadata={"contents_url": dg.MetadataValue.url(book.contents_url), "licence": book.licence},
    )

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
        name=f"observe_{key.path[0]}", specs=[spec]
    )
    def book_site(
        context: dg.AssetExecutionContext, home: HomeResource, web: WebResource
    ) -> dg.ObserveResult:
        with web.fetcher(home.folders, book) as fetcher:
            archive = ChapterArchive(home.folders.chapters / book.name)
            seen = observe_book(book, fetcher, archive, _logged(context, book))
        return dg.ObserveResult(
            asset_key=key,
            data_version=dg.DataVersion(seen.data_version[:16]),
            metadata={
                "dagster/row_count": seen.chapters,
                "requests": seen.requests,
                "pages_downloaded": seen.downloaded,
                "pages_not_modified": seen.not_modified,
                "seconds": seen.seconds,
                "failed": dg.MetadataValue.json(
                    [f"{row.slug}: {row.reason}" for row in seen.failed]
                ),
            },
        )

    return book_site


def build_chapters(book: Book) -> dg.AssetsDefinition:
    """The book's chapters, with its guards as blocking checks."""
    key = key_of("chapters", book)

    @dg.asset(
        key=key,
        deps=[key_of("book_site", book)],
        description=f"“{book.title}”, page by page as served, with earlier versions. "
        f"{book.attribution}. "
        f"Licence: {book.licence}.",
        group_name="sources",
        kinds={"html"},
        owners=OWNERS,
        code_version="1",
        pool="web",
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, description=doc, blocking=True)
            for name, doc in GUARD_DOCS.items()
        ],
    )
    def chapters(
        context: dg.AssetExecutionContext,
        config: ChaptersSettings,
        home: HomeResource,
        web: WebResource,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        with web.fetcher(home.folders, book) as fetcher:
            archive = ChapterArchive(home.folders.chapters / book.name)
            report = scrape_book(
                book,
                fetcher,
                archive,
                _logged(context, book),
                accept=config.accept,
                reuse_seen_within_s=REUSE_SEEN_WITHIN_S,
            )
        context.log.info(report.summary)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.data_version[:16]),
            metadata=_metadata(report, archive),
            check_results=_check_results(report, key),
        )

    return chapters


def _logged(context: dg.AssetExecutionContext, book: Book) -> ScrapeProgress:
    def log(done: int, total: int, line: str) -> None:
        context.log.info(f"{book.name} {done}/{total}  {line}")

    return log


def _metadata(
    report: ScrapeReport, archive: ChapterArchive
) -> dict[str, dg.MetadataValue | str | int | float]:
    return {
        "dagster/row_count": report.chapters,
        "summary": report.summary,
        "characters": report.chars,
        "chapters": dg.MetadataValue.md(report.table),
        "diff": dg.MetadataValue.md(report.diff or "no chapter changed"),
        "left_out": dg.MetadataValue.json(
            [f"{row.title}: {row.reason}" for row in report.left_out]
        ),
        "failed": dg.MetadataValue.json([f"{row.slug}: {row.reason}" for row in report.failed]),
        "requests": report.requests,
        "pages_downloaded": report.downloaded,
        "pages_not_modified": report.not_modified,
        "seconds": report.seconds,
        "folder": dg.MetadataValue.path(str(archive.folder)),
    }


def _check_results(report: ScrapeReport, key: dg.AssetKey) -> list[dg.AssetCheckResult]:
    """One result per guard. Without a contents page it alone fails, and the others have nothing to
    judge."""
    judged = {result.name: result for result in report.guards}
    listed = (
        f"lists {report.chapters} chapters" if "contents_page" not in judged else "nothing to judge"
    )
    results = []
    for name in GUARD_DOCS:
        result = judged.get(name)
        results.append(
            dg.AssetCheckResult(
                check_name=name,
                asset_key=key,
                passed=result is None or result.passed or name in report.waived,
                description=result.message if result else listed,
                metadata=dict(result.numbers) if result else {},
            )
        )
    return results
