"""Promotion under trouble: never two champions, never none where there was one, no alias on half a version."""

import http.client
import http.server
import threading
from contextlib import suppress

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from devopsgpt_model.checkpoint import load_checkpoint, save_checkpoint
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.evaluate import evaluate_split
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline import gate
from devopsgpt_pipeline.registry import promote as promoting
from devopsgpt_pipeline.registry.promote import PromotionError, promote, promote_by_hand, rollback, sole_promoter
from devopsgpt_pipeline.registry.publish import fetch_version, publish
from devopsgpt_pipeline.registry.runs import start_run
from devopsgpt_pipeline.registry.tracking import CHALLENGER, CHAMPION, MODEL_NAME, PREVIOUS, version_of_alias

DATASET = {"name": "sre", "digest": "abc", "source": "tokens/sre"}
TEXT = "the service answers and the service waits, a slow service is a broken service. " * 30


@pytest.fixture
def run_id(registry):
    return start_run(registry, "scratch-sre", {"max_steps": 3}, {"kind": "finetune"}, DATASET)


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "promotion.lock"


@pytest.fixture
def versions(registry, checkpoint_folder, run_id):
    """Two complete versions, the first one the champion."""
    one, two = (publish(registry, checkpoint_folder, run_id, {"val_loss": "1.5"}, "a test") for _ in range(2))
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    return one, two


def aliases(registry):
    return tuple(version_of_alias(registry, alias) for alias in (CHAMPION, PREVIOUS))


def test_promotion_keeps_the_previous_champion_and_its_reason(registry, versions, lock):
    one, two = versions
    promote(registry, two, "better", expected_champion=one, lock=lock)
    assert aliases(registry) == (two, one)
    assert registry.get_model_version(MODEL_NAME, two).tags["promotion_reason"] == "better"


def test_a_promotion_against_another_champion_is_refused(registry, versions, lock):
    one, two = versions
    with pytest.raises(PromotionError, match=f"the champion is version {one}, the decision was made against None"):
        promote(registry, two, "slower", expected_champion=None, lock=lock)
    assert aliases(registry) == (one, None)


def test_rollback_goes_back_and_says_why(registry, versions, lock):
    one, two = versions
    with pytest.raises(PromotionError, match="no previous champion"):
        rollback(registry, "nothing yet", lock)
    promote_by_hand(registry, two, "second", lock)
    assert rollback(registry, "answers got worse", lock) == one
    assert aliases(registry) == (one, two)
    assert registry.get_model_version(MODEL_NAME, one).tags["promotion_reason"] == "rollback: answers got worse"


def test_rollback_to_the_champion_itself_is_refused(registry, versions, lock):
    registry.set_registered_model_alias(MODEL_NAME, PREVIOUS, versions[0])  # a promotion that failed half way
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


def test_of_two_promoters_at_once_one_wins_and_the_other_is_told(registry, versions, checkpoint_folder, run_id, lock):
    one, two = versions
    three = publish(registry, checkpoint_folder, run_id, {}, "a rival")
    start, told = threading.Barrier(2), []

    def promoter(version):
        start.wait()
        try:
            promote(registry, version, "a race", expected_champion=one, lock=lock)
        except PromotionError as error:
            told.append((version, str(error)))

    threads = [threading.Thread(target=promoter, args=(version,)) for version in (two, three)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(told) == 1
    loser, message = told[0]
    winner = ({two, three} - {loser}).pop()
    assert aliases(registry) == (winner, one)
    assert f"the champion is version {winner}" in message


def test_a_promoter_that_waits_too_long_is_told(lock):
    def second():
        with pytest.raises(PromotionError, match=r"another promotion has been under way for 0\.05 s"), \
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


def test_a_champion_deleted_between_read_and_set_is_noticed(registry, versions, lock, mlflow_server):
    one, two = versions
    client = DeletesChampion(mlflow_server.url, mlflow_server.url)
    client.victim = one
    with pytest.raises(PromotionError, match=f"the champion, version {one}, was deleted meanwhile"):
        promote(client, two, "better", expected_champion=one, lock=lock)
    assert aliases(registry) == (None, None)  # that person's doing
    promote(client, two, "better", expected_champion=None, lock=lock)
    assert aliases(registry) == (two, None)


class FailingProxy:
    """A way to the real server on which the call number `fails_at` fails: refused, or done and its answer lost."""

    def __init__(self, port):
        self.calls, self.fails_at, self.lose_answer = 0, 0, False
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def forward(self):
                proxy.calls += 1
                fails = proxy.calls == proxy.fails_at
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if fails and not proxy.lose_answer:
                    self.send_error(500)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers | {"Accept-Encoding": "identity"})
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if fails:
                    return  # the connection closes without a word
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/octet-stream"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def fail_at(self, call, lose_answer):
        self.calls, self.fails_at, self.lose_answer = 0, call, lose_answer


@pytest.fixture
def failing(mlflow_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy = FailingProxy(mlflow_server.port)
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()


def until_it_succeeds(failing, lose_answer, step, check):
    """Run the step with its first, second, ... call failing, until no call is left to fail."""
    for call in range(1, 60):
        failing.fail_at(call, lose_answer)
        with suppress(MlflowException, OSError, ValueError):
            step()
        check()
        if failing.calls < call:
            return call - 1
    raise AssertionError("the step never ran through")


@pytest.mark.parametrize("lose_answer", [False, True])
def test_mlflow_failing_at_each_call_of_a_promotion(registry, versions, lock, failing, lose_answer):
    one, two = versions
    client = MlflowClient(failing.url, failing.url)

    def step():
        promote(client, two, "better", expected_champion=one, lock=lock)

    def check():
        champion, previous = aliases(registry)
        assert champion in (one, two)
        assert previous == one or champion == one
        if champion == two:  # back to the beginning for the next call
            registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
            registry.delete_registered_model_alias(MODEL_NAME, PREVIOUS)

    assert until_it_succeeds(failing, lose_answer, step, check) >= 4  # read, tag, previous, champion


@pytest.mark.parametrize("lose_answer", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_mlflow_failing_at_each_call_of_a_publication(
    registry, versions, checkpoint_folder, run_id, failing, lose_answer, tmp_path
):
    one, _ = versions
    client = MlflowClient(failing.url, failing.url)
    seen = set()

    def check():
        assert version_of_alias(registry, CHAMPION) == one
        challenger = version_of_alias(registry, CHALLENGER)
        if challenger not in seen:
            fetch_version(registry, challenger, tmp_path / challenger)  # whole, or it raises
            seen.add(challenger)

    calls = until_it_succeeds(
        failing, lose_answer, lambda: publish(client, checkpoint_folder, run_id, {}, "a test"), check
    )
    assert calls >= 8
    assert len(seen) >= 2  # the one before, and the one of the run in which nothing failed


@pytest.mark.slow
@pytest.mark.parametrize("lose_answer", [False, True])
def test_mlflow_failing_at_each_call_of_a_rollback(registry, versions, lock, failing, lose_answer):
    one, two = versions
    promote(registry, two, "better", expected_champion=one, lock=lock)
    client = MlflowClient(failing.url, failing.url)

    def check():
        champion, previous = aliases(registry)
        assert champion in (one, two)
        assert previous in (one, two)
        registry.set_registered_model_alias(MODEL_NAME, PREVIOUS, one)
        registry.set_registered_model_alias(MODEL_NAME, CHAMPION, two)

    calls = until_it_succeeds(failing, lose_answer, lambda: rollback(client, "worse", lock), check)
    assert calls >= 8  # both aliases, the version and its files, then as a promotion


@pytest.fixture
def bins(tmp_path):
    write_token_bins(tmp_path / "bins", "sre", Tokenizer.plain_bytes(), {"train": [("a", TEXT)], "val": [("b", TEXT)]})
    return tmp_path / "bins"


@pytest.fixture
def better(tiny_gpt, tmp_path):
    """A checkpoint that has learned which bytes are frequent, and one that has not."""
    import torch

    config = TrainingConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, seed=7, device="cpu")
    training = {"config": vars(config), "init_checkpoint": ""}
    save_checkpoint(tmp_path / "plain", tiny_gpt, Tokenizer.plain_bytes(), training)
    learned = GPT(tiny_gpt.config).init_weights(seed=7)
    optimizer = torch.optim.AdamW(learned.parameters(), lr=1e-2)
    ids = torch.tensor([list(TEXT.encode()[:64])])
    for _ in range(20):
        optimizer.zero_grad()
        learned(ids[:, :-1], ids[:, 1:])[1].backward()
        optimizer.step()
    save_checkpoint(tmp_path / "better", learned.eval(), Tokenizer.plain_bytes(), training)
    return tmp_path / "plain", tmp_path / "better"


def test_the_first_model_is_promoted_when_it_beats_its_start(registry, run_id, better, bins, lock):
    plain, learned = better
    publish(registry, plain, run_id, {}, "its own start")
    verdict = gate.judge_challenger(registry, bins, lock, margin=0.001)
    assert (verdict.decision.promote, verdict.champion) == (False, None)
    assert version_of_alias(registry, CHAMPION) is None
    second = publish(registry, learned, run_id, {}, "better than its start")
    assert gate.judge_challenger(registry, bins, lock, margin=0.001).champion == second
    assert version_of_alias(registry, CHAMPION) == second


def test_the_decision_and_its_numbers_stand_on_the_version(registry, run_id, better, bins, lock):
    plain, learned = better
    one = publish(registry, plain, run_id, {}, "plain")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    two = publish(registry, learned, run_id, {}, "better")
    verdict = gate.judge_challenger(registry, bins, lock, margin=0.001)
    tags = registry.get_model_version(MODEL_NAME, two).tags
    assert verdict.tags.items() <= tags.items()
    assert tags["decision"] == "promote"
    assert tags["decision_against"] == f"version {one}"
    assert float(tags["decision_bits_per_byte"]) < float(tags["decision_rival_bits_per_byte"])
    assert len(tags["decision_held_out_sha256"]) == 64
    assert aliases(registry) == (two, one)
    assert gate.judge_challenger(registry, bins, lock, margin=0.001).champion == two  # again: it stays
    assert registry.get_model_version(MODEL_NAME, two).tags["decision"] == "promote"


def test_a_gate_whose_champion_is_deleted_decides_anew(registry, run_id, better, bins, lock, mlflow_server):
    plain, learned = better
    one = publish(registry, plain, run_id, {}, "plain")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    two = publish(registry, learned, run_id, {}, "better")
    client = DeletesChampion(mlflow_server.url, mlflow_server.url)
    client.victim = one
    verdict = gate.judge_challenger(client, bins, lock, margin=0.001)
    assert (verdict.champion, verdict.tags["decision_against"]) == (two, "start")
    assert version_of_alias(registry, CHAMPION) == two


def test_a_corpus_that_changed_is_the_yardstick_for_both(registry, run_id, better, bins, tmp_path, lock):
    plain, learned = better
    one = publish(registry, plain, run_id, {"bits_per_byte": "0.1"}, "a number of another corpus")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    publish(registry, learned, run_id, {"bits_per_byte": "9.9"}, "a number of another corpus")
    new = {"train": [("a", TEXT)], "val": [("b", TEXT.upper())]}
    meta = write_token_bins(tmp_path / "new", "sre", Tokenizer.plain_bytes(), new)
    verdict = gate.judge_challenger(registry, tmp_path / "new", lock, margin=0.001)
    anew = [load_checkpoint(folder) for folder in (learned, plain)]
    anew = [evaluate_split(one.model, one.tokenizer, tmp_path / "new").bits_per_byte for one in anew]
    assert [verdict.decision.challenger, verdict.decision.rival] == pytest.approx(anew)
    assert verdict.tags["decision_held_out_sha256"] == meta.splits["val"].sha256


def test_a_challenger_damaged_in_the_registry_is_never_promoted(registry, run_id, better, bins, lock, mlflow_server):
    version = publish(registry, better[1], run_id, {}, "better")
    model_id = registry.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    artifacts = mlflow_server.log.parent.parent / "mlflow" / "artifacts"
    stored = next(artifacts.rglob(f"{model_id}/**/model.safetensors"))
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="missing or damaged in the registry"):
        gate.judge_challenger(registry, bins, lock, margin=0.001)
    assert version_of_alias(registry, CHAMPION) is None


def test_without_a_challenger_the_gate_says_what_to_do(registry, bins, lock):
    with pytest.raises(ValueError, match="has no challenger; materialize `registered_model` first"):
        gate.judge_challenger(registry, bins, lock, margin=0.001)


def test_a_promotion_waits_no_longer_than_a_minute():
    assert promoting.LOCK_TIMEOUT_S <= 60


def test_what_recites_is_measured(better, tmp_path, tiny_gpt):
    import torch

    from devopsgpt_pipeline.memorization import memorization

    plain = load_checkpoint(better[0])
    text = "".join(chr(97 + (i * 7) % 26) for i in range(26)) * 40  # one alphabet, over and over
    write_token_bins(
        tmp_path / "alphabet", "toy", Tokenizer.plain_bytes(), {"train": [("a", text)], "val": [("b", text)]}
    )
    assert memorization(plain, tmp_path / "alphabet", runs=8) == 0
    model = GPT(tiny_gpt.config).init_weights(seed=7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([list(text.encode()[i : i + 64]) for i in range(26)])
    for _ in range(200):
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:])[1].backward()
        optimizer.step()
    plain.model = model.eval()
    assert memorization(plain, tmp_path / "alphabet", runs=8) == 1
