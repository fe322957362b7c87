"""Which version is served: the challenger takes the champion's alias when it is better, people may
overrule.

MLflow sets an alias atomically but cannot compare and set: one promoter at a time holds a lock in
the home (a Dagster pool keeps runs apart besides), and reads the champion again just before.
`previous` is set first and the alias that is served last, so that a failure at any call leaves the
old champion in place, and a retry finishes.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, PREVIOUS, version_of_alias
from devopsgpt_pipeline.tracking.versions import fetch_version

LOCK_TIMEOUT_S = 60.0


class PromotionError(ValueError):
    """A promotion or rollback that cannot be done."""


@contextmanager
def sole_promoter(lock: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the promoters' lock; a killed process lets go of it. raises: PromotionError where
    another holds on to it"""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=timeout_s):
            yield
    except Timeout:
        raise PromotionError(
            f"another promotion has been under way for {timeout_s:g} s; look at its run, or try "
            "again"
        ) from None


def promote(
    client: MlflowClient, version: str, reason: str, expected_champion: str | None, lock: Path
) -> None:
    """Make a complete version the champion, keeping the old one as `previous`; the alias that is
    served moves last.

    expected_champion: the champion that the decision was made against
    raises: PromotionError where another promoter was faster or the champion is gone;
    MlflowException where a call fails, with the champion as it was
    """
    with sole_promoter(lock):
        champion = version_of_alias(client, CHAMPION)
        if champion != expected_champion:
            raise PromotionError(
                f"the champion is version {champion}, the decision was made against "
                f"{expected_champion}; decide again"
            )
        if champion == version:
            return
        client.set_model_version_tag(MODEL_NAME, version, "promotion_reason", reason)
        if champion is not None:
            _keep_as_previous(client, champion)
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version)


def _keep_as_previous(client: MlflowClient, champion: str) -> None:
    try:
        client.set_registered_model_alias(MODEL_NAME, PREVIOUS, champion)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise PromotionError(
            f"the champion, version {champion}, was deleted meanwhile; decide again"
        ) from error


def promote_by_hand(client: MlflowClient, version: str, reason: str, lock: Path) -> None:
    """A person's choice. raises: PromotionError for a version that does not exist or is not
    complete"""
    _check_complete(client, version)
    promote(client, version, f"by hand: {reason}", version_of_alias(client, CHAMPION), lock)


def rollback(client: MlflowClient, reason: str, lock: Path) -> str:
    """Back to the previous champion. returns: its version. raises: PromotionError where there is
    none"""
    version, champion = version_of_alias(client, PREVIOUS), version_of_alias(client, CHAMPION)
    if version is None or version == champion:
        raise PromotionError(
            f"{MODEL_NAME} has no previous champion to go back to; promote a version by its number"
        )
    _check_complete(client, version)
    promote(client, version, f"rollback: {reason}", champion, lock)
    return version


def _check_complete(client: MlflowClient, version: str) -> None:
    """raises: PromotionError unless every file of the version is in the registry, as its manifest
    says"""
    try:
        client.get_model_version(MODEL_NAME, version)
    except MlflowException as error:
        raise PromotionError(f"no version {version!r} of {MODEL_NAME}: {error.message}") from error
    try:
        with tempfile.TemporaryDirectory(prefix="devopsgpt-promote-") as folder:
            fetch_version(client, version, Path(folder))
    except (ValueError, OSError, MlflowException) as error:
        raise PromotionError(
            f"version {version} of {MODEL_NAME} is not complete: {error}"
        ) from error
