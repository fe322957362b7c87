"""When the trainer reads its clock: launching a step on a GPU takes no time, computing it does."""

import time
from types import SimpleNamespace

import pytest
import torch

from devopsgpt_model.training import trainer
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.trainer import Trainer

WAIT_S = 100.0


@pytest.fixture
def clock(monkeypatch):
    """The trainer's clock, which stands still but for the waits below."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        trainer, "time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time)
    )
    return clock


class SlowRanks(Ranks):
    """Ranks whose losses are there WAIT_S after they were asked for, as a GPU's are."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def sum(self, values):
        if values.dim() == 1 and values.dtype == torch.float32:
            self.clock.now += WAIT_S
        return super().sum(values)


class Heard:
    """A listener that keeps what it heard."""

    def __init__(self):
        self.lines, self.notes = [], []

    def metrics(self, step, values, note=None):
        self.lines.append({"step": step, **values})
        self.notes.append(note or {})

    def say(self, text):
        """Nothing: numbers are looked at."""


def test_the_seconds_of_a_step_end_when_its_loss_is_there(job, clock):
    job.out.mkdir()
    trained, heard = Trainer(job, SlowRanks(clock)), Heard()
    trained.run(heard)
    reports = [
        (line, note)
        for line, note in zip(heard.lines, heard.notes, strict=True)
        if "step_seconds" in line
    ]
    assert [line["step"] for line, _ in reports] == [4, 8, 10, 12, 16, 20, 24, 28, 30]
    ends = [0, *(line["step"] for line, _ in reports)]
    for (line, note), begin in zip(reports, ends, strict=False):
        seconds = WAIT_S / (line["step"] - begin)
        assert line["step_seconds"] == pytest.approx(seconds)
        assert line["tokens_per_second"] == pytest.approx(trained.tokens_per_step / seconds)
        assert note["seconds_left"] == pytest.approx((30 - line["step"]) * seconds)
    assert trained.progress.seconds == pytest.approx(WAIT_S * len(reports))
