"""Registry: the checkpoint becomes a model version, and the better version becomes the champion."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from devopsgpt_pipeline.assets import OWNERS
from devopsgpt_pipeline.assets.datasets import DATASET, TOKEN_BINS
from devopsgpt_pipeline.evaluation import Comparison, compare_with_start
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.registry.promote import Decision, decide, promote
from devopsgpt_pipeline.registry.publish import checkpoint_sha256, fetch_version, publish
from devopsgpt_pipeline.registry.runs import git_commit
from devopsgpt_pipeline.registry.tracking import CHALLENGER, CHAMPION, MODEL_NAME, version_of_alias
from devopsgpt_pipeline.resources import HomeResource, MlflowResource

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dg.asset(
    deps=["finetuned_checkpoint", "evaluation"],
    group_name="registry",
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="1",
    pool="registry",
)
def registered_model(
    context: dg.AssetExecutionContext, home: HomeResource, mlflow: MlflowResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """A version in MLflow's registry, alias `challenger`: it passed its checks and could be served."""
    folders = home.folders
    comparison = Comparison.read(folders.evaluation)
    digest = checkpoint_sha256(folders.finetuned)
    if comparison.checkpoint_sha256 != digest:
        raise ValueError(
            f"the evaluation is of checkpoint {comparison.checkpoint_sha256[:16]}, the newest is {digest[:16]}; "
            "materialize `evaluation` first"
        )
    run_id = folders.finetuned_facts()["mlflow_run_id"]
    tags = {
        "val_loss": f"{comparison.finetuned['val_loss']:.6f}",
        "bits_per_byte": f"{comparison.finetuned['bits_per_byte']:.6f}",
        "data_version": comparison.data_version,
        "checkpoint_sha256": digest,
        "dagster_run_id": context.run.run_id,
        "mlflow_run_id": run_id,
        "git_commit": git_commit(),
    }
    version = publish(mlflow.client(), folders.finetuned, run_id, tags, _description(comparison))
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={"version": int(version), "model_version": mlflow.version_link(version), **tags},
    )


@dg.asset(
    deps=["registered_model", TOKEN_BINS],
    group_name="registry",
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="1",
    pool="registry",
)
def champion(context: dg.AssetExecutionContext, home: HomeResource, mlflow: MlflowResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The version that is served: the challenger, if it beats the champion on today's held-out chapters."""
    client = mlflow.client()
    challenger, before = version_of_alias(client, CHALLENGER), version_of_alias(client, CHAMPION)
    if challenger is None:
        raise ValueError(f"{MODEL_NAME} has no challenger; materialize `registered_model` first")
    decision = _compare(client, home.folders, before)
    client.set_model_version_tag(MODEL_NAME, challenger, "decision", decision.reason)
    if decision.promote:
        promote(client, challenger, decision.reason, expected_champion=before)
    now = challenger if decision.promote else before
    context.log.info(f"Version {now} is the champion: {decision.reason}")
    digest = client.get_model_version(MODEL_NAME, str(now)).tags["checkpoint_sha256"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            "version": int(str(now)),
            "challenger": int(challenger),
            "promoted": decision.promote,
            "decision": decision.reason,
            "model_version": mlflow.version_link(str(now)),
        },
    )


def _compare(client: "MlflowClient", home: Home, champion_version: str | None) -> Decision:
    """Challenger against champion, the latter evaluated anew: its own corpus may have been another one."""
    from devopsgpt_model.checkpoint import load_checkpoint
    from devopsgpt_model.evaluate import evaluate_split

    comparison = Comparison.read(home.evaluation)
    challenger, start = comparison.finetuned["bits_per_byte"], comparison.start["bits_per_byte"]
    bins, rival = home.tokens / DATASET, None
    if comparison.dataset != DATASET:  # trained on something else: the books are the yardstick all the same
        on_books = compare_with_start(home.finetuned, bins)
        challenger, start = on_books.finetuned["bits_per_byte"], on_books.start["bits_per_byte"]
    if champion_version is not None:
        with tempfile.TemporaryDirectory(prefix="devopsgpt-champion-") as folder:
            checkpoint = load_checkpoint(fetch_version(client, champion_version, Path(folder)))
            rival = evaluate_split(checkpoint.model, checkpoint.tokenizer, bins).bits_per_byte
    return decide(challenger, rival, start)


def _description(comparison: Comparison) -> str:
    before, after = comparison.start["val_loss"], comparison.finetuned["val_loss"]
    return (
        f"val_loss {before:.4f} -> {after:.4f} nats/token on the held-out part of {comparison.dataset} "
        f"(data version {comparison.data_version})"
    )
