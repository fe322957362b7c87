"""Registry: the checkpoint becomes a model version, and the better version becomes the champion."""

import json
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.datasets import TOKEN_BINS
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.evaluation.comparison import Comparison
from devopsgpt_pipeline.home import BOOKS

if TYPE_CHECKING:
    from devopsgpt_pipeline.registry.gate import Verdict

# bits per byte; a new champion costs its users a change
MARGIN = 0.001


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
    """A version in MLflow's registry, alias `challenger`: it passed its checks and could be
    served."""
    from devopsgpt_pipeline.registry.licence import LICENCE_FILE, licence_text
    from devopsgpt_pipeline.registry.model_card import CARD_FILE, model_card
    from devopsgpt_pipeline.tracking.runs import git_commit
    from devopsgpt_pipeline.tracking.versions import checkpoint_sha256, publish
    from devopsgpt_pipeline.training.lineage import CURVE_FILE, LINEAGE_FILE, as_text, completed

    folders = home.folders
    comparison = Comparison.read(folders.evaluation)
    digest = checkpoint_sha256(folders.finetuned)
    if comparison.checkpoint_sha256 != digest:
        raise ValueError(
            f"the evaluation is of checkpoint {comparison.checkpoint_sha256[:16]}, the newest is "
            f"{digest[:16]}; "
            "materialize `evaluation` first"
        )
    run_id = folders.finetuned_facts()["mlflow_run_id"]
    tags = {
        "val_loss": f"{comparison.finetuned['val_loss']:.6f}",
        "bits_per_byte": f"{comparison.finetuned['bits_per_byte']:.6f}",
        "memorization": f"{comparison.memorization:.4f}",
        "dataset": comparison.dataset,
        "data_version": comparison.data_version,
        "checkpoint_sha256": digest,
        "dagster_run_id": context.run.run_id,
        "mlflow_run_id": run_id,
        "git_commit": git_commit(),
    }
    runs = {"evaluation": _run_of(context, "evaluation"), "registered_model": context.run.run_id}
    lineage = completed(folders.finetuned, runs)
    context_tokens = json.loads((folders.finetuned / "config.json").read_text())["n_positions"]
    client = mlflow.client()
    run_url = mlflow.run_url(client.get_run(run_id).info.experiment_id, run_id)
    curve = (folders.finetuned / CURVE_FILE).is_file()
    documents = {
        LINEAGE_FILE: as_text(lineage),
        CARD_FILE: model_card(lineage, comparison, context_tokens, run_url, curve),
        LICENCE_FILE: licence_text(lineage),
    }
    version = publish(client, folders.finetuned, run_id, tags, _description(comparison), documents)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            "version": int(version),
            "model_version": mlflow.version_link(version),
            # the picture lies beside the card in the version, and not here
            "model_card": dg.MetadataValue.md(
                model_card(lineage, comparison, context_tokens, run_url)
            ),
            **tags,
        },
    )


def _run_of(context: dg.AssetExecutionContext, asset: str) -> str:
    """The Dagster run that made an asset what it is now; empty where Dagster does not know it."""
    made = context.instance.get_latest_materialization_event(dg.AssetKey(asset))
    return made.run_id if made else ""


class PromotionSettings(dg.Config):
    """What a person can say about a promotion."""

    margin_bits_per_byte: float = Field(
        default=MARGIN,
        ge=0,
        description="Bits per byte by which a challenger must beat the champion.",
    )


@dg.asset(
    deps=["registered_model", TOKEN_BINS],
    group_name="registry",
    kinds={"mlflow"},
    owners=OWNERS,
    code_version="2",
    pool="registry",
)
def champion(
    context: dg.AssetExecutionContext,
    config: PromotionSettings,
    home: HomeResource,
    mlflow: MlflowResource,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The version that is served: the challenger, if it beats the champion on today's held-out
    chapters."""
    from devopsgpt_pipeline.registry.gate import judge_challenger
    from devopsgpt_pipeline.tracking.client import MODEL_NAME

    client = mlflow.client()
    bins = TokenBins.open(home.folders.bins(BOOKS))
    verdict = judge_challenger(
        client, bins, home.folders.promotion_lock, config.margin_bits_per_byte
    )
    decision, now = verdict.decision, verdict.champion
    context.log.info(_told(verdict))
    digest = (
        client.get_model_version(MODEL_NAME, now).tags.get("checkpoint_sha256", now)
        if now
        else "none"
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            "challenger": int(verdict.challenger),
            "promoted": decision.promote,
            "decision": decision.reason,
            "numbers": dg.MetadataValue.json(verdict.tags),
            **({"version": int(now), "model_version": mlflow.version_link(now)} if now else {}),
        },
    )


def _told(verdict: "Verdict") -> str:
    if verdict.decision.promote:
        return f"Version {verdict.champion} is the champion: {verdict.decision.reason}"
    stays = (
        f"version {verdict.champion} stays the champion"
        if verdict.champion
        else "there is no champion yet"
    )
    return f"Version {verdict.challenger} is not promoted, {stays}: {verdict.decision.reason}"


def _description(comparison: Comparison) -> str:
    before, after = comparison.start["val_loss"], comparison.finetuned["val_loss"]
    return (
        f"val_loss {before:.4f} -> {after:.4f} nats/token on the held-out part of "
        f"{comparison.dataset} "
        f"(data version {comparison.data_version})"
    )
