"""The gate: challenger against champion, both fetched from the registry and evaluated here and
now."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from devopsgpt_model.checkpoint import Checkpoint, load_checkpoint
from devopsgpt_model.device import choose_device
from devopsgpt_model.evaluate import evaluate_split
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.evaluation.comparison import start_of
from devopsgpt_pipeline.registry.promote import PromotionError, promote
from devopsgpt_pipeline.tracking.client import CHALLENGER, CHAMPION, MODEL_NAME, version_of_alias
from devopsgpt_pipeline.tracking.versions import fetch_version

TRIES = 3  # a champion that moves while its rival is evaluated is compared with anew


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and on which numbers: bits per byte on the same held-out text, in one
    run.

    rival: the champion's, or the start's where there is no champion
    """

    promote: bool
    reason: str
    challenger: float
    rival: float
    margin: float

    def tags(self, champion: str | None, held_out_sha256: str) -> dict[str, str]:
        """As tags of the challenger's version. champion: the version that it was compared with"""
        return {
            "decision": "promote" if self.promote else "keep the champion",
            "decision_reason": self.reason,
            "decision_against": f"version {champion}" if champion else "start",
            "decision_bits_per_byte": f"{self.challenger:.6f}",
            "decision_rival_bits_per_byte": f"{self.rival:.6f}",
            "decision_margin": f"{self.margin:g}",
            "decision_held_out_sha256": held_out_sha256,
        }


def decide(
    challenger: float,
    champion: float | None,
    start: float = math.nan,
    *,
    margin: float,
) -> Decision:
    """Compare bits per byte on the same held-out text: challenger, champion (None where there is
    none), start.

    start: looked at where there is no champion
    margin: bits per byte by which a challenger must beat the champion; the first model needs only
    beat its start
    """
    if champion is None:
        rival, margin, name = start, 0.0, "the weights that it started from"
    else:
        rival, name = champion, "the champion"
    better = challenger < rival - margin
    verdict = "better than" if better else "not better than"
    needed = f" (margin {margin:g})" if margin else ""
    reason = f"{challenger:.4f} bits/byte, {verdict} {name} at {rival:.4f}{needed}"
    return Decision(better, reason, challenger, rival, margin)


@dataclass(frozen=True)
class Verdict:
    """What was decided about which version, and who is the champion now (None where there is
    none)."""

    decision: Decision
    challenger: str
    champion: str | None
    tags: dict[str, str]


def judge_challenger(client: MlflowClient, bins: TokenBins, lock: Path, margin: float) -> Verdict:
    """Promote the challenger where it beats the champion on the held-out text of these bins.

    The decision and its numbers become tags of the challenger before any alias moves.
    raises: ValueError without a challenger, or with a damaged version or bins; PromotionError where
    the champion moved three times
    """
    bins.check()
    for _ in range(TRIES - 1):
        try:
            return _judge(client, bins, lock, margin)
        except PromotionError:
            continue
    return _judge(client, bins, lock, margin)


def _judge(client: MlflowClient, bins: TokenBins, lock: Path, margin: float) -> Verdict:
    challenger, before = version_of_alias(client, CHALLENGER), version_of_alias(client, CHAMPION)
    if challenger is None:
        raise ValueError(f"{MODEL_NAME} has no challenger; materialize `registered_model` first")
    decision = compare(client, bins, challenger, before, margin)
    tags = decision.tags(before, bins.meta.splits["val"].sha256)
    if challenger != before:  # the champion keeps the numbers that made it one
        for key, value in tags.items():
            client.set_model_version_tag(MODEL_NAME, challenger, key, value)
    if decision.promote:
        promote(client, challenger, decision.reason, expected_champion=before, lock=lock)
    return Verdict(decision, challenger, challenger if decision.promote else before, tags)


def compare(
    client: MlflowClient, bins: TokenBins, challenger: str, champion: str | None, margin: float
) -> Decision:
    """Bits per byte on the held-out text of the bins, of the files that the registry holds."""

    def bits_per_byte(checkpoint: Checkpoint) -> float:
        return evaluate_split(checkpoint.model, checkpoint.tokenizer, bins).bits_per_byte

    ours = _load(client, challenger)
    measured = bits_per_byte(ours)
    if champion is not None:
        rival = measured if champion == challenger else bits_per_byte(_load(client, champion))
        return decide(measured, rival, margin=margin)
    return decide(measured, None, start=bits_per_byte(start_of(ours)), margin=margin)


def _load(client: MlflowClient, version: str) -> Checkpoint:
    with tempfile.TemporaryDirectory(prefix="devopsgpt-gate-") as folder:
        return load_checkpoint(fetch_version(client, version, Path(folder)), str(choose_device()))
