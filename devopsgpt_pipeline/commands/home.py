"""`devopsgpt backup` and `restore`: the whole home in one file."""

from pathlib import Path

import click

from devopsgpt_pipeline.commands.errors import report_errors
from devopsgpt_pipeline.settings import read_settings


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="Then delete all but the newest in the folder; default: none.",
)
@report_errors
def backup(target: Path, keep: int | None) -> None:
    """Write the whole home (databases, archive, artifacts) to the file TARGET, or into the folder
    TARGET.

    Nothing has to be stopped. Where the environment names PostgreSQL databases, they are in it too.
    """
    from devopsgpt_pipeline.operations.backup import backup as write_backup
    from devopsgpt_pipeline.operations.backup import forget_backups

    if keep and not target.is_dir():
        raise click.UsageError(f"--keep needs a folder of backups, and {target} is none")
    click.echo(f"wrote {write_backup(read_settings(), target)}")
    for path in forget_backups(target, keep) if keep else []:
        click.echo(f"deleted {path}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@report_errors
def restore(source: Path) -> None:
    """Bring the backup SOURCE back into DEVOPSGPT_HOME, which must be empty: all of its files, or
    none.

    Every file's hash is checked before anything moves. Where the environment names PostgreSQL
    databases, they must be empty and are filled first, each whole or not at all; an error names
    those that must be emptied to try again.
    """
    from devopsgpt_pipeline.operations.restore import restore as bring_back

    settings = read_settings()
    bring_back(source, settings)
    click.echo(f"restored {settings.home}")
