"""Evaluation: the fine-tuned checkpoint beside the weights that it started from."""

import dagster as dg
from pydantic import Field

from devopsgpt_model.atomic import write_json
from devopsgpt_model.config import model_size
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.datasets import TOKEN_BINS
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.evaluation.comparison import (
    COMPARED,
    Comparison,
    compare_with_start,
    metrics_of,
)
from devopsgpt_pipeline.evaluation.measure import NANOGPT_BATCHES
from devopsgpt_pipeline.evaluation.published import PROTOCOL_DATASET


class EvaluationSettings(dg.Config):
    """How much is measured."""

    batches: int | None = Field(
        default=None,
        ge=0,
        description=f"Random batches per split by nanoGPT's protocol, on {PROTOCOL_DATASET} if at "
        "hand. Default: "
        f"{NANOGPT_BATCHES} on a GPU, none on a CPU, where they would take longer than the "
        "training.",
    )

    def chosen(self) -> int:
        """What was asked for, or what suits this machine."""
        from devopsgpt_model.device import choose_device

        if self.batches is not None:
            return self.batches
        return NANOGPT_BATCHES if choose_device().type == "cuda" else 0


@dg.asset(
    deps=["finetuned_checkpoint", TOKEN_BINS],
    group_name="evaluation",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version="3",
    pool="gpu",  # a training beside it took the memory that was free when it began
)
def evaluation(
    context: dg.AssetExecutionContext,
    config: EvaluationSettings,
    home: HomeResource,
    mlflow: MlflowResource,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Loss on every dataset at hand, sample texts, and what is said by heart, before and after
    fine-tuning."""
    from devopsgpt_pipeline.tracking.runs import log_bytes, log_dataset, log_final

    folders = home.folders
    facts = folders.finetuned_facts()
    bins = TokenBins.open(folders.bins(facts["dataset"]))
    comparison = compare_with_start(folders.finetuned, bins, config.chosen())
    if left_out := _left_out(comparison):
        context.log.info(left_out)
    run_id, step = facts["mlflow_run_id"], facts["step"]
    client = mlflow.client()
    log_final(client, run_id, _metrics(comparison), step)
    for _, after in comparison.measurements():
        log_dataset(client, run_id, after.source(), "evaluation")
    for name, value in _tags(comparison, facts["config"]["init_from"]).items():
        client.set_tag(run_id, name, value)
    log_bytes(client, run_id, "samples.md", comparison.samples_markdown().encode())
    write_json(folders.evaluation, comparison.as_json())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(
            f"{comparison.checkpoint_sha256[:16]}-{comparison.data_version}"
        ),
        metadata={
            **{key: comparison.finetuned[key] for key in COMPARED},
            "gain_bits_per_byte": comparison.start["bits_per_byte"]
            - comparison.finetuned["bits_per_byte"],
            "memorization": comparison.memorization,
            "comparison": _table(comparison),
            **({"nanogpt_left_out": left_out} if left_out else {}),
            "samples": dg.MetadataValue.md(comparison.samples_markdown()),
            "mlflow_run": mlflow.run_link(client.get_run(run_id).info.experiment_id, run_id),
        },
    )


def _left_out(comparison: Comparison) -> str:
    """Why nanoGPT's protocol is missing on its dataset; empty where it is not, or the dataset is
    not at hand."""
    return next(
        (one.left_out for _, one in comparison.measurements() if one.dataset == PROTOCOL_DATASET),
        "",
    )


def _metrics(comparison: Comparison) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for start, finetuned in comparison.measurements():
        metrics |= metrics_of(finetuned, start)
    more = {
        f"memorization/{comparison.dataset}": comparison.memorization,
        "parameters": float(comparison.parameters),
    }
    return metrics | more


def _tags(comparison: Comparison, init_from: str) -> dict[str, str]:
    versions = {
        f"data_version/{one.dataset}": one.data_version for _, one in comparison.measurements()
    }
    return {"model_size": model_size(init_from, comparison.parameters)} | versions


def _table(comparison: Comparison) -> dg.MetadataValue:
    rows = [
        dg.TableRecord(
            {
                "dataset": one.dataset,
                "weights": name,
                **{key: round(getattr(one, key), 4) for key in COMPARED},
            }
        )
        for pair in comparison.measurements()
        for name, one in zip(("start", "fine-tuned"), pair, strict=True)
    ]
    return dg.MetadataValue.table(rows)
