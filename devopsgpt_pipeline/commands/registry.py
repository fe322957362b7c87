"""`devopsgpt promote`, `rollback`, `lineage`, `export`: the registry's versions."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from devopsgpt_pipeline.commands.errors import report_errors
from devopsgpt_pipeline.commands.table import print_table
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.settings import read_settings

if TYPE_CHECKING:
    from devopsgpt_pipeline.registry.version_lineage import VersionLineage


@click.command()
@click.argument("version")
@click.option("--reason", required=True, help="Why; kept as a tag of the version.")
@report_errors
def promote(version: str, reason: str) -> None:
    """Make VERSION of the registered model the champion, whatever the gate decided."""
    from devopsgpt_pipeline.registry.promote import promote_by_hand
    from devopsgpt_pipeline.tracking.client import connect

    settings = read_settings()
    client, lock = connect(settings.tracking_server), Home(settings.home).promotion_lock
    promote_by_hand(client, version, reason, lock)
    click.echo(f"version {version} is the champion")


@click.command()
@click.option("--reason", required=True, help="Why; kept as a tag of the version.")
@report_errors
def rollback(reason: str) -> None:
    """Make the previous champion the champion again; the service follows within its poll interval.

    The version that is served now becomes the previous one, so a second rollback undoes the first.
    """
    from devopsgpt_pipeline.registry import promote as promotion
    from devopsgpt_pipeline.tracking.client import connect

    settings = read_settings()
    client, lock = connect(settings.tracking_server), Home(settings.home).promotion_lock
    version = promotion.rollback(client, reason, lock)
    click.echo(f"version {version} is the champion again")


@click.command()
@click.argument("version", default="champion")
@click.option(
    "--chapter", metavar="BOOK/SLUG", help="Instead: the versions that learned this chapter."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that is recorded, as JSON.")
@report_errors
def lineage(version: str, chapter: str | None, as_json: bool) -> None:
    """What VERSION, a number or an alias, was made of: chapters, hashes, settings, initial weights,
    code, runs.

    Without VERSION it is the champion, which is what the service serves. With --chapter it is the
    other way round: which versions learned a chapter, in which form, and whether the archive's
    chapter is still the same.
    """
    from devopsgpt_pipeline.registry import version_lineage as recorded
    from devopsgpt_pipeline.tracking.client import connect

    settings = read_settings()
    client = connect(settings.tracking_server)
    if chapter is None:
        _print_version(recorded.lineage_of(client, version), as_json)
        return
    home = Home(settings.home)
    versions = recorded.all_lineages(client)
    rows = recorded.versions_of_chapter(versions, chapter, home.chapters, home.text)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif rows:
        print_table(
            [row | {"content_sha256": row["content_sha256"][: recorded.SHORT]} for row in rows]
        )
    else:
        click.echo(f"{chapter} is in the archive, and no version in the registry knew it")


@click.command()
@click.argument("version", default="champion")
@click.argument("destination", required=False, type=click.Path(path_type=Path))
@click.option("--gguf", is_flag=True, help="As one GGUF file, for llama.cpp and Ollama.")
@click.option(
    "--precision",
    type=click.Choice(["f32", "bf16", "q8_0"]),
    default="f32",
    show_default=True,
    help="Of a GGUF file's matrices.",
)
@report_errors
def export(version: str, destination: Path | None, gguf: bool, precision: str) -> None:
    """Write VERSION, a number or an alias, to DESTINATION, for other programs.

    Without --gguf it is a folder that transformers and vLLM load. DESTINATION is
    `devopsgpt-<version>` in the current folder where it is not named.
    """
    from devopsgpt_pipeline.registry.export import export_version
    from devopsgpt_pipeline.tracking.client import connect

    client = connect(read_settings().tracking_server)
    place = export_version(client, version, destination, precision if gguf else None)
    click.echo(f"version {version} is in {place}")


def _print_version(found: "VersionLineage", as_json: bool) -> None:
    from devopsgpt_pipeline.registry import version_lineage as recorded

    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
        return
    aliases = f", {', '.join(found.aliases)}" if found.aliases else ""
    click.echo(f"version {found.version}{aliases}")
    for name, value in recorded.facts(found):
        click.echo(f"  {name:<34} {value}")
    if rows := recorded.chapters(found):
        print_table(rows)
