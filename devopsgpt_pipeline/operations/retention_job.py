"""The daily job that forgets what the retention no longer keeps, and how much that is."""

import dagster as dg

from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource


class Retention(dg.Config):
    """How much is kept."""

    versions: int = 20
    """Newest model versions whose files are kept, besides those that an alias names."""

    orphan_days: float = 1.0
    """Days after which uploaded weights that no version names are deleted, and temporary files:
    what was cut off."""

    run_days: float = 90.0
    """Days that a finished run of Dagster is kept, with its events and the output of its steps."""

    work_days: float = 14.0
    """Days that an interrupted training's state, a half-written folder or a dataset's encoded
    shards wait to be gone on with, and that a model of the hub is kept which no name stands for any
    more."""

    log_bytes: int = 20_000_000
    """Size that a server's log may reach; the newer half stays."""


@dg.op
def forget_what_is_old(
    context: dg.OpExecutionContext, config: Retention, home: HomeResource, mlflow: MlflowResource
) -> None:
    """Apply the retention to this home and its registry."""
    from devopsgpt_pipeline.operations import retention as forget

    client = mlflow.client()
    counts = {
        "versions": len(forget.forget_versions(client, config.versions)),
        "orphaned uploads": len(forget.forget_orphans(client, config.orphan_days)),
        "runs": len(forget.forget_runs(context.instance, home.folders, config.run_days)),
        "folders": len(forget.forget_folders(home.folders, config.work_days)),
        "temporary files": len(forget.forget_temporary(home.folders, config.orphan_days)),
        "logs": len(forget.cut_logs(home.folders, config.log_bytes)),
    }
    context.log.info("forgotten: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@dg.job(
    description="Delete what the retention no longer keeps: versions, runs, working folders, "
    "downloads, logs."
)
def retention() -> None:
    """One op, so that it shows in Dagster like everything else that runs daily."""
    forget_what_is_old()


RETENTION_DAILY = dg.ScheduleDefinition(
    name="retention_daily",
    job=retention,
    cron_schedule="47 5 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
