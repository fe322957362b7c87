"""What happens to a home while, or between, its runs: a clock set back, a backup, a dozen kill -9.
The champion in the end is the one of a run that nothing happened to."""

import os
import random
import signal
import time

import pytest
from chaos.clock import Clock

from attack.pipeline import homes
from devopsgpt_pipeline.operations.backup import BackupError, backup
from devopsgpt_pipeline.operations.restore import restore
from devopsgpt_pipeline.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
YEAR_S = 365 * 86_400
KILLS = 12
SEED = int(os.environ.get("CHAOS_SEED") or time.time())


def undo(home):
    """Take away what a run makes anew, training included."""
    (home / "tokens" / "books").unlink()
    (home / "checkpoints" / "finetuned").unlink()
    (home / "checkpoints" / "evaluation.json").unlink()


def test_a_clock_set_back_by_a_year(home, finished, tmp_path, tried):
    clock = Clock(tmp_path)
    clock.move(-YEAR_S)
    undo(home)
    again = homes.run_from_nothing(home, clock.environment)
    assert again.status == 0, again.output
    assert again.champion == finished[1]
    other = clock.environment | {"DEVOPSGPT_TRAINING": f"{homes.TINY} seed=7"}
    changed = homes.run_from_nothing(home, other)
    assert changed.status == 0, changed.output
    assert "materializing finetuned_checkpoint" in changed.output
    settled = homes.run_from_nothing(home, other)
    assert "everything is up to date" in settled.output
    assert settled.champion == changed.champion
    tried("a clock set back by a year", "what was made under it counts as newer, once")


def test_backups_during_a_run(home, finished, tmp_path, tried):
    undo(home)
    settings, made = Settings(home=home), []
    running, busy = homes.Started(home), 0
    while running.process.exitcode is None:
        try:
            made.append(backup(settings, tmp_path / f"{len(made)}.tar"))
        except BackupError as error:  # files that are replaced meanwhile: it says so
            assert "try again" in str(error)
            busy += 1
        running.process.join(2)
    assert running.finish().champion == finished[1]
    assert made
    for number, file in enumerate([made[0], made[len(made) // 2], made[-1]]):
        restored = tmp_path / f"restored-{number}" / "home"
        restore(file, Settings(home=restored))
        ended = homes.run(restored)
        assert ended.status == 0, ended.output
        assert ended.champion == finished[1]
    tried(
        f"{len(made)} backups during a run ({busy} said that files were being replaced)",
        "three of them restored and run: the same champion",
    )


def test_a_dozen_kills_in_one_chain(finished, tmp_path, tried):
    home, dice = tmp_path / "home", random.Random(SEED)
    waits = [dice.uniform(1, 12) for _ in range(KILLS)]
    print(f"CHAOS_SEED={SEED}: {', '.join(f'{wait:.1f}' for wait in waits)} s")
    for wait in waits:
        running = homes.Started(home)
        running.process.join(wait)
        if running.process.exitcode is None:
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.join()
    ended = homes.run(home)
    assert ended.status == 0, ended.output
    assert ended.champion == finished[1]
    tried(f"{KILLS} kill -9 in one chain", "the next run came to the same champion")
