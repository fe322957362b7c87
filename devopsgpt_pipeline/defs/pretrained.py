"""Pretrained weights: OpenAI's GPT-2, one partition per size."""

import dagster as dg

from devopsgpt_model.config import GPT2_SIZES
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.resources import HomeResource

SIZES = dg.StaticPartitionsDefinition(list(GPT2_SIZES))


@dg.asset(
    partitions_def=SIZES,
    group_name="training",
    kinds={"huggingface"},
    owners=OWNERS,
    code_version="1",
    pool="web",
)
def pretrained_gpt2(
    context: dg.AssetExecutionContext,
    home: HomeResource,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """GPT-2 as OpenAI released it, from the Hugging Face hub at a pinned revision."""
    from devopsgpt_pipeline.hub.pretrained import PRETRAINED, fetch_pretrained

    size = context.partition_key
    folder = home.folders.pretrained / size
    digest = fetch_pretrained(size, folder, context.log.info)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            "repository": PRETRAINED[size].repository,
            "revision": PRETRAINED[size].revision,
            "sha256": digest,
            "folder": dg.MetadataValue.path(str(folder)),
        },
    )
