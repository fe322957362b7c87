"""Checks: what must hold before the next step runs. Blocking checks stop the chain, nothing else
does."""

import math

import dagster as dg

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.tokenizer import TokenizerError
from devopsgpt_pipeline.datasets.books import leaked_runs
from devopsgpt_pipeline.defs.datasets import TOKEN_BINS
from devopsgpt_pipeline.defs.resources import HomeResource
from devopsgpt_pipeline.evaluation.comparison import Comparison
from devopsgpt_pipeline.home import BOOKS

PROBE_PROMPT = "The service"
MEMORIZATION_LIMIT = 0.1  # of the sampled runs; the books' licence forbids passing their text on


# Sentences that a held-out chapter and a training chapter may both quote.
QUOTED: tuple[str, ...] = ()


@dg.asset_check(asset=TOKEN_BINS, blocking=True)
def nothing_leaked(home: HomeResource) -> dg.AssetCheckResult:
    """No held-out chapter shares a run of 50 tokens with a training chapter, but for what is named
    as quoted."""
    runs = leaked_runs(TokenBins.open(home.folders.bins(BOOKS)), QUOTED)
    found = [f"{run.held_out_doc} and {run.train_doc}: {run.length} tokens" for run in runs]
    return dg.AssetCheckResult(
        passed=not runs,
        description=found[0] if found else "nothing shared",
        metadata={"shared_runs": found, "quoted": list(QUOTED)},
    )


@dg.asset_check(asset="finetuned_checkpoint", blocking=True)
def weights_are_finite(home: HomeResource) -> dg.AssetCheckResult:
    """Every weight is a finite number."""
    from devopsgpt_model.checkpoint import CheckpointError, read_weights

    try:
        tensors = read_weights(home.folders.finetuned)
    except CheckpointError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    description = f"{bad[0]} holds values that are not finite" if bad else "all finite"
    return dg.AssetCheckResult(
        passed=not bad, description=description, metadata={"tensors": len(tensors)}
    )


@dg.asset_check(asset="finetuned_checkpoint", blocking=True)
def loads_and_generates(home: HomeResource) -> dg.AssetCheckResult:
    """The checkpoint loads and continues a prompt."""
    from devopsgpt_model.checkpoint import CheckpointError, load_checkpoint
    from devopsgpt_model.generate import generate_text

    try:
        checkpoint = load_checkpoint(home.folders.finetuned)
    except (CheckpointError, TokenizerError) as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    if not all(p.isfinite().all() for p in checkpoint.model.parameters()):
        return dg.AssetCheckResult(
            passed=False, description="nothing can be generated from weights that are not finite"
        )
    text = generate_text(checkpoint.model, checkpoint.tokenizer, PROBE_PROMPT, max_tokens=20)
    return dg.AssetCheckResult(passed=True, metadata={"generated": PROBE_PROMPT + text})


@dg.asset_check(asset="evaluation", blocking=True)
def beats_its_start(home: HomeResource) -> dg.AssetCheckResult:
    """val_loss on the held-out chapters is finite and below that of the weights that training
    started from."""
    comparison = Comparison.read(home.folders.evaluation)
    before, after = comparison.start["val_loss"], comparison.finetuned["val_loss"]
    return dg.AssetCheckResult(
        passed=math.isfinite(after) and after < before,
        description=f"val_loss {before:.4f} -> {after:.4f} nats/token",
        metadata={"start_val_loss": before, "val_loss": after},
    )


@dg.asset_check(asset="evaluation", blocking=True)
def does_not_recite(home: HomeResource) -> dg.AssetCheckResult:
    """Of sampled runs of 50 tokens, prompted with the training text, few stand verbatim in it."""
    share = Comparison.read(home.folders.evaluation).memorization
    return dg.AssetCheckResult(
        passed=share <= MEMORIZATION_LIMIT,
        description=f"{share:.1%} of sampled runs stand in the training text, at most "
        f"{MEMORIZATION_LIMIT:.0%} may",
        metadata={"memorization": share, "limit": MEMORIZATION_LIMIT},
    )


CHECKS = [nothing_leaked, weights_are_finite, loads_and_generates, beats_its_start, does_not_recite]
