"""The leaderboard: everything that was measured in one table and one picture."""

import hashlib

import dagster as dg

from devopsgpt_model.atomic import atomic_folder
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.automation import ON_MEASURED
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource

TABLE, PICTURE = "leaderboard.md", "leaderboard.png"


@dg.asset(
    deps=["evaluation", "gpt2_baseline", "champion"],
    group_name="evaluation",
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="2",
    automation_condition=ON_MEASURED,
)
def leaderboard(
    home: HomeResource,
    mlflow: MlflowResource,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Baselines and fine-tunes, the best first, on what was measured: which is served, and what
    others published."""
    from devopsgpt_pipeline.defs import pictures
    from devopsgpt_pipeline.evaluation.leaderboard import read_leaderboard
    from devopsgpt_pipeline.tracking.runs import leaderboard_run, log_bytes

    client = mlflow.client()
    board = read_leaderboard(client)
    text, png = board.markdown(), pictures.loss_against_parameters(board)
    with atomic_folder(home.folders.leaderboard) as staging:
        (staging / TABLE).write_text(text, encoding="utf-8")
        (staging / PICTURE).write_bytes(png)
    run_id = leaderboard_run(client)
    log_bytes(client, run_id, TABLE, text.encode())
    log_bytes(client, run_id, PICTURE, png)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(hashlib.sha256(text.encode()).hexdigest()[:16]),
        metadata={
            "dagster/row_count": len(board.entries),
            "table": dg.MetadataValue.md(text),
            "picture": dg.MetadataValue.md(pictures.as_markdown(png, "loss against parameters")),
            "mlflow_run": mlflow.run_link(client.get_run(run_id).info.experiment_id, run_id),
            "folder": dg.MetadataValue.path(str(home.folders.leaderboard)),
        },
    )
