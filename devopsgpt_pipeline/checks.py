"""The gate: what must hold before the next step runs. Blocking checks stop the chain, nothing else does."""

import math

import dagster as dg

from devopsgpt_pipeline.assets.datasets import DATASET, TOKEN_BINS
from devopsgpt_pipeline.datasets.books import leaked_runs
from devopsgpt_pipeline.evaluation import Comparison
from devopsgpt_pipeline.resources import HomeResource

PROBE_PROMPT = "The service"


# Sentences that a held-out chapter and a training chapter may both quote.
QUOTED: tuple[str, ...] = ()


@dg.asset_check(asset=TOKEN_BINS, blocking=True)
def nothing_leaked(home: HomeResource) -> dg.AssetCheckResult:
    """No held-out chapter shares a run of 50 tokens with a training chapter, but for what is named as quoted."""
    runs = leaked_runs(home.folders.tokens / DATASET, QUOTED)
    found = [f"{run.held_out_doc} and {run.train_doc}: {run.length} tokens" for run in runs]
    return dg.AssetCheckResult(
        passed=not runs,
        description=found[0] if found else "nothing shared",
        metadata={"shared_runs": found, "quoted": list(QUOTED)},
    )


@dg.asset_check(asset="finetuned_checkpoint", blocking=True)
def loads_and_generates(home: HomeResource) -> dg.AssetCheckResult:
    """The checkpoint loads, its weights are finite numbers, and it continues a prompt."""
    from devopsgpt_model.checkpoint import CheckpointError, load_checkpoint
    from devopsgpt_model.generate import generate_text
    from devopsgpt_model.tokenizer import TokenizerError

    try:
        checkpoint = load_checkpoint(home.folders.finetuned)
    except (CheckpointError, TokenizerError) as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    if bad := [name for name, p in checkpoint.model.named_parameters() if not p.isfinite().all()]:
        return dg.AssetCheckResult(passed=False, description=f"{bad[0]} holds values that are not finite")
    text = generate_text(checkpoint.model, checkpoint.tokenizer, PROBE_PROMPT, max_tokens=20)
    return dg.AssetCheckResult(passed=True, metadata={"generated": PROBE_PROMPT + text})


@dg.asset_check(asset="evaluation", blocking=True)
def beats_its_start(home: HomeResource) -> dg.AssetCheckResult:
    """val_loss on the held-out chapters is finite and below that of the weights that training started from."""
    comparison = Comparison.read(home.folders.evaluation)
    before, after = comparison.start["val_loss"], comparison.finetuned["val_loss"]
    return dg.AssetCheckResult(
        passed=math.isfinite(after) and after < before,
        description=f"val_loss {before:.4f} -> {after:.4f} nats/token",
        metadata={"start_val_loss": before, "val_loss": after},
    )


CHECKS = [nothing_leaked, loads_and_generates, beats_its_start]
