"""Which version is served: the challenger takes the champion's alias when it is better, people may overrule.

MLflow sets an alias atomically but cannot compare and set: one promoter at a time (a Dagster pool sees to it),
and the champion is read again just before.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from devopsgpt_pipeline.registry.tracking import CHAMPION, MODEL_NAME, PREVIOUS, version_of_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient

MARGIN_BITS_PER_BYTE = 0.0  # how much better a challenger must be


class PromotionError(ValueError):
    """A promotion or rollback that cannot be done."""


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and on which numbers."""

    promote: bool
    reason: str


def decide(challenger: float, champion: float | None, start: float) -> Decision:
    """Compare bits per byte on the same held-out text: challenger, champion (None where there is none), start."""
    if champion is None:
        better, rival, name = challenger < start, start, "the weights that it started from"
    else:
        better, rival, name = challenger < champion - MARGIN_BITS_PER_BYTE, champion, "the champion"
    verdict = "better than" if better else "not better than"
    return Decision(better, f"{challenger:.4f} bits/byte, {verdict} {name} at {rival:.4f}")


def promote(client: "MlflowClient", version: str, reason: str, expected_champion: str | None) -> None:
    """Make a version the champion, keeping the old one as `previous`; the alias that is served moves last.

    expected_champion: the champion that the decision was made against
    raises: PromotionError where another promoter was faster
    """
    champion = version_of_alias(client, CHAMPION)
    if champion != expected_champion:
        raise PromotionError(
            f"the champion is version {champion}, the decision was made against {expected_champion}; decide again"
        )
    if champion == version:
        return
    client.set_model_version_tag(MODEL_NAME, version, "promotion_reason", reason)
    if champion is not None:
        client.set_registered_model_alias(MODEL_NAME, PREVIOUS, champion)
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)


def promote_by_hand(client: "MlflowClient", version: str, reason: str) -> None:
    """A person's choice. raises: PromotionError for a version that does not exist"""
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(MODEL_NAME, version)
    except MlflowException as error:
        raise PromotionError(f"no version {version!r} of {MODEL_NAME}: {error.message}") from error
    promote(client, version, f"by hand: {reason}", version_of_alias(client, CHAMPION))


def rollback(client: "MlflowClient", reason: str) -> str:
    """Back to the previous champion. returns: its version. raises: PromotionError where there is none"""
    version = version_of_alias(client, PREVIOUS)
    if version is None:
        raise PromotionError(f"{MODEL_NAME} has no previous champion to go back to; promote a version by its number")
    promote(client, version, f"rollback: {reason}", version_of_alias(client, CHAMPION))
    return version
