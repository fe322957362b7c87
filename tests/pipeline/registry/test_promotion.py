"""Promotion and the gate: which version becomes the champion, and what is written down about it."""

import threading

import pytest
from mlflow import MlflowClient

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.evaluate import evaluate_split
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.registry import gate
from devopsgpt_pipeline.registry import promote as promoting
from devopsgpt_pipeline.registry.promote import (
    PromotionError,
    promote,
    promote_by_hand,
    rollback,
    sole_promoter,
)
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, PREVIOUS, version_of_alias
from devopsgpt_pipeline.tracking.versions import publish
from pipeline.registry.contenders import TEXT, aliases


def test_promotion_keeps_the_previous_champion_and_its_reason(registry, versions, lock):
    one, two = versions
    promote(registry, two, "better", expected_champion=one, lock=lock)
    assert aliases(registry) == (two, one)
    assert registry.get_model_version(MODEL_NAME, two).tags["promotion_reason"] == "better"


def test_a_promotion_against_another_champion_is_refused(registry, versions, lock):
    one, two = versions
    with pytest.raises(
        PromotionError, match=f"the champion is version {one}, the decision was made against None"
    ):
        promote(registry, two, "slower", expected_champion=None, lock=lock)
    assert aliases(registry) == (one, None)


def test_rollback_goes_back_and_says_why(registry, versions, lock):
    one, two = versions
    with pytest.raises(PromotionError, match="no previous champion"):
        rollback(registry, "nothing yet", lock)
    promote_by_hand(registry, two, "second", lock)
    assert rollback(registry, "answers got worse", lock) == one
    assert aliases(registry) == (one, two)
    assert (
        registry.get_model_version(MODEL_NAME, one).tags["promotion_reason"]
        == "rollback: answers got worse"
    )


def test_rollback_to_the_champion_itself_is_refused(registry, versions, lock):
    # a promotion that failed half way
    registry.set_registered_model_alias(MODEL_NAME, PREVIOUS, versions[0])
    with pytest.raises(PromotionError, match="no previous champion"):
        rollback(registry, "again", lock)


def test_promoting_an_unknown_version_is_refused(registry, versions, lock):
    with pytest.raises(PromotionError, match="no version '77'"):
        promote_by_hand(registry, "77", "typo", lock)


def test_promoting_an_incomplete_version_is_refused(registry, versions, lock, mlflow_server):
    one, two = versions
    model_id = registry.get_model_version(MODEL_NAME, two).source.rpartition("/")[2]
    artifacts = mlflow_server.log.parent.parent / "mlflow" / "artifacts"
    next(artifacts.rglob(f"{model_id}/**/tokenizer.json")).unlink()
    with pytest.raises(PromotionError, match=f"version {two} of devopsgpt is not complete"):
        promote_by_hand(registry, two, "half of it", lock)
    assert aliases(registry) == (one, None)


def test_a_promoter_that_waits_too_long_is_told(lock):
    def second():
        words = r"another promotion has been under way for 0\.05 s"
        with pytest.raises(PromotionError, match=words), \
                sole_promoter(lock, timeout_s=0.05):  # fmt: skip
            pass

    with sole_promoter(lock):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()


class DeletesChampion(MlflowClient):
    """Another person's hand: deletes the champion's version between the read and the set, once."""

    victim = None

    def set_registered_model_alias(self, name, alias, version):
        if self.victim:
            victim, self.victim = self.victim, None
            self.delete_model_version(name, victim)
        super().set_registered_model_alias(name, alias, version)


def test_a_champion_deleted_between_read_and_set_is_noticed(
    registry, versions, lock, mlflow_server
):
    one, two = versions
    client = DeletesChampion(mlflow_server.url, mlflow_server.url)
    client.victim = one
    with pytest.raises(PromotionError, match=f"the champion, version {one}, was deleted meanwhile"):
        promote(client, two, "better", expected_champion=one, lock=lock)
    assert aliases(registry) == (None, None)  # that person's doing
    promote(client, two, "better", expected_champion=None, lock=lock)
    assert aliases(registry) == (two, None)


def test_the_first_model_is_promoted_when_it_beats_its_start(
    registry, run_id, better, yardstick, lock
):
    plain, learned = better
    publish(registry, plain, run_id, {}, "its own start")
    verdict = gate.judge_challenger(registry, yardstick, lock, margin=0.001)
    assert (verdict.decision.promote, verdict.champion) == (False, None)
    assert version_of_alias(registry, CHAMPION) is None
    second = publish(registry, learned, run_id, {}, "better than its start")
    assert gate.judge_challenger(registry, yardstick, lock, margin=0.001).champion == second
    assert version_of_alias(registry, CHAMPION) == second


def test_the_decision_and_its_numbers_stand_on_the_version(
    registry, run_id, better, yardstick, lock
):
    plain, learned = better
    one = publish(registry, plain, run_id, {}, "plain")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    two = publish(registry, learned, run_id, {}, "better")
    verdict = gate.judge_challenger(registry, yardstick, lock, margin=0.001)
    tags = registry.get_model_version(MODEL_NAME, two).tags
    assert verdict.tags.items() <= tags.items()
    assert tags["decision"] == "promote"
    assert tags["decision_against"] == f"version {one}"
    assert float(tags["decision_bits_per_byte"]) < float(tags["decision_rival_bits_per_byte"])
    assert len(tags["decision_held_out_sha256"]) == 64
    assert aliases(registry) == (two, one)
    # again: it stays
    assert gate.judge_challenger(registry, yardstick, lock, margin=0.001).champion == two
    assert registry.get_model_version(MODEL_NAME, two).tags["decision"] == "promote"


def test_a_gate_whose_champion_is_deleted_decides_anew(
    registry, run_id, better, yardstick, lock, mlflow_server
):
    plain, learned = better
    one = publish(registry, plain, run_id, {}, "plain")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    two = publish(registry, learned, run_id, {}, "better")
    client = DeletesChampion(mlflow_server.url, mlflow_server.url)
    client.victim = one
    verdict = gate.judge_challenger(client, yardstick, lock, margin=0.001)
    assert (verdict.champion, verdict.tags["decision_against"]) == (two, "start")
    assert version_of_alias(registry, CHAMPION) == two


def test_a_corpus_that_changed_is_the_yardstick_for_both(
    registry, run_id, better, yardstick, tmp_path, lock
):
    plain, learned = better
    one = publish(registry, plain, run_id, {"bits_per_byte": "0.1"}, "a number of another corpus")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    publish(registry, learned, run_id, {"bits_per_byte": "9.9"}, "a number of another corpus")
    new = {"train": [("a", TEXT)], "val": [("b", TEXT.upper())]}
    meta = write_token_bins(tmp_path / "new", "books", Tokenizer.plain_bytes(), new)
    bins = TokenBins.open(tmp_path / "new")
    verdict = gate.judge_challenger(registry, bins, lock, margin=0.001)
    anew = [load_checkpoint(folder) for folder in (learned, plain)]
    anew = [evaluate_split(one.model, one.tokenizer, bins).bits_per_byte for one in anew]
    assert [verdict.decision.challenger, verdict.decision.rival] == pytest.approx(anew)
    assert verdict.tags["decision_held_out_sha256"] == meta.splits["val"].sha256


def test_a_challenger_damaged_in_the_registry_is_never_promoted(
    registry, run_id, better, yardstick, lock, mlflow_server
):
    version = publish(registry, better[1], run_id, {}, "better")
    model_id = registry.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    artifacts = mlflow_server.log.parent.parent / "mlflow" / "artifacts"
    stored = next(artifacts.rglob(f"{model_id}/**/model.safetensors"))
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="missing or damaged in the registry"):
        gate.judge_challenger(registry, yardstick, lock, margin=0.001)
    assert version_of_alias(registry, CHAMPION) is None


def test_without_a_challenger_the_gate_says_what_to_do(registry, yardstick, lock):
    with pytest.raises(ValueError, match="has no challenger; materialize `registered_model` first"):
        gate.judge_challenger(registry, yardstick, lock, margin=0.001)


def test_a_promotion_waits_no_longer_than_a_minute():
    assert promoting.LOCK_TIMEOUT_S <= 60


def test_what_recites_is_measured(better, tmp_path, tiny_gpt):
    import torch

    from devopsgpt_pipeline.evaluation.memorization import memorization

    plain = load_checkpoint(better[0])
    text = "".join(chr(97 + (i * 7) % 26) for i in range(26)) * 40  # one alphabet, over and over
    write_token_bins(
        tmp_path / "alphabet",
        "toy",
        Tokenizer.plain_bytes(),
        {"train": [("a", text)], "val": [("b", text)]},
    )
    assert memorization(plain, TokenBins.open(tmp_path / "alphabet"), runs=8) == 0
    model = GPT(tiny_gpt.config).init_weights(seed=7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([list(text.encode()[i : i + 64]) for i in range(26)])
    for _ in range(200):
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:])[1].backward()
        optimizer.step()
    plain.model = model.eval()
    assert memorization(plain, TokenBins.open(tmp_path / "alphabet"), runs=8) == 1
