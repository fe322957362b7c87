"""Baselines: OpenAI's GPT-2 in its four sizes on every dataset, measured as our own models are."""

from typing import Any

import dagster as dg
from pydantic import Field

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.pretrained import SIZES
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.evaluation.comparison import log_measurement
from devopsgpt_pipeline.evaluation.measure import NANOGPT_BATCHES, TOLERANCE, Measurement, measure

AGREES = "agrees_with_published"


class BaselineSettings(dg.Config):
    """How much is measured."""

    batches: int = Field(
        default=NANOGPT_BATCHES,
        ge=0,
        description="Random batches per split by nanoGPT's protocol; 0 leaves it out.",
    )


def build_gpt2_baseline(datasets: list[str]) -> dg.AssetsDefinition:
    """The asset over every size and these datasets."""
    partitions = dg.MultiPartitionsDefinition(
        {"dataset": dg.StaticPartitionsDefinition(datasets), "model": SIZES}
    )
    by_model = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="model")

    @dg.asset(
        partitions_def=partitions,
        deps=[
            dg.AssetDep("pretrained_gpt2", partition_mapping=by_model),
            *(dg.AssetKey(f"token_bins_{name}") for name in datasets),
        ],
        group_name="evaluation",
        kinds={"pytorch", "mlflow"},
        owners=OWNERS,
        code_version="1",
        pool="gpu",
        check_specs=[
            dg.AssetCheckSpec(
                AGREES,
                asset="gpt2_baseline",
                description="Losses on OpenWebText differ from nanoGPT's published ones by at "
                f"most {TOLERANCE}.",
            )
        ],
    )
    def gpt2_baseline(
        context: dg.AssetExecutionContext,
        config: BaselineSettings,
        home: HomeResource,
        mlflow: MlflowResource,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """A size of GPT-2 on a dataset: loss on both splits, perplexity, bits per byte."""
        from devopsgpt_model.checkpoint import load_checkpoint
        from devopsgpt_model.device import choose_device
        from devopsgpt_pipeline.tracking.runs import baseline_run

        keys = context.partition_key.keys_by_dimension
        size, dataset = keys["model"], keys["dataset"]
        bins = TokenBins.open(home.folders.bins(dataset))  # before a model is loaded
        bins.check()
        checkpoint = load_checkpoint(home.folders.pretrained / size, str(choose_device()))
        measured = measure(size, checkpoint, bins, config.batches)
        client = mlflow.client()
        run_id = baseline_run(client, size, measured.parameters, checkpoint.tokenizer)
        log_measurement(client, run_id, measured)
        client.set_tag(run_id, "dagster_run_id", context.run.run_id)
        if config.batches and measured.left_out:
            context.log.warning(measured.left_out)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(f"{measured.data_version}-{measured.val_loss:.6f}"),
            metadata={
                **_numbers(measured),
                "mlflow_run": mlflow.run_link(client.get_run(run_id).info.experiment_id, run_id),
            },
            check_results=[agreement(measured)],
        )

    return gpt2_baseline


def _numbers(measured: Measurement) -> dict[str, Any]:
    row = {
        key: value if isinstance(value, str | int) else round(value, 4)
        for key, value in measured.row().items()
    }
    return {
        **{name.partition("/")[0]: value for name, value in measured.metrics().items()},
        **({"nanogpt_left_out": measured.left_out} if measured.left_out else {}),
        "table": dg.MetadataValue.table([dg.TableRecord(row)]),
    }


def agreement(measured: Measurement) -> dg.AssetCheckResult:
    """A warning where a loss on OpenWebText is not the published one."""
    published = measured.published
    return dg.AssetCheckResult(
        check_name=AGREES,
        asset_key=dg.AssetKey("gpt2_baseline"),
        passed=measured.agrees,
        severity=dg.AssetCheckSeverity.WARN,
        description=measured.compared(),
        metadata={}
        if published is None
        else {"published_train_loss": published[0], "published_val_loss": published[1]},
    )
