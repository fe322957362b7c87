import os
import re
import shutil
import signal
import subprocess
import time

import dagster as dg
import pytest
from conftest import DEVOPSGPT, REPOSITORY

from devopsgpt_model.config import PRESETS, changed, describe
from devopsgpt_pipeline.home import Home, HomeError
from pipeline.commands.running import invoke


def test_an_unknown_preset_or_setting_is_told():
    assert "unknown preset 'finetune_srr'" in invoke("finetune", "finetune_srr").output
    assert "unknown training setting 'lr'" in invoke("finetune", "sample", "-s", "lr=1").output
    assert (
        "max_steps must be int, got 'many'"
        in invoke("finetune", "sample", "-s", "max_steps=many").output
    )
    assert (
        "compile must be one of auto, on, off, got 'maybe'"
        in invoke("finetune", "sample", "-s", "compile=maybe").output
    )
    assert (
        "optimizer must be one of adamw, muon, got 'sgd'"
        in invoke("finetune", "sample", "--sweep", "optimizer=adamw,sgd").output
    )


def test_settings_are_listed_with_their_units():
    answer = invoke("finetune", "finetune_sre", "--list-settings")
    assert answer.exit_code == 0
    assert "init_from = gpt2-large" in answer.output
    assert "Optimizer steps" in answer.output


def test_every_preset_is_named_by_the_commands_help():
    presets = invoke("finetune", "--help").output.split("Presets:")[1].split(".")[0]
    assert set(re.findall(r"\w+", presets)) == set(PRESETS)


def test_settings_change_a_preset():
    config = changed(
        "sample", ["max_steps=7", "learning_rate=0.5", "compile=on", "init_from=champion"]
    )
    assert changed("sample", ["optimizer=adamw"]).optimizer == "adamw"
    assert (config.max_steps, config.learning_rate, config.compile, config.init_from) == (
        7,
        0.5,
        "on",
        "champion",
    )
    assert "max_steps = 7" in describe(config)


def test_a_home_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"cannot be written .* set DEVOPSGPT_HOME"):
        Home(tmp_path / "file" / "home").prepare()
    answer = invoke("run", DEVOPSGPT_HOME=str(tmp_path / "file" / "home"))
    assert answer.exit_code == 1
    assert "set DEVOPSGPT_HOME" in answer.output


@pytest.mark.slow
def test_a_run_that_waits_for_another_ones_slot_ends_when_it_is_asked_to(tmp_path):
    home = Home(tmp_path / "home").prepare()
    shutil.copyfile(REPOSITORY / "dagster.yaml", home.dagster / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("web")
        storage.claim_concurrency_slot("web", "another run", "chapters")
        environment = os.environ | {"DEVOPSGPT_HOME": str(home.path)}
        run = subprocess.Popen(
            [*DEVOPSGPT, "run"], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            deadline = time.monotonic() + 60
            while not storage.get_concurrency_info("web").pending_step_count:
                assert time.monotonic() < deadline, "it never came to wait"
                assert run.poll() is None, run.stderr.read()
                time.sleep(0.1)
            time.sleep(1)  # asleep in its wait by now
            run.send_signal(signal.SIGTERM)
            _, errors = run.communicate(timeout=20)
        finally:
            run.kill()
            run.wait()
        assert run.returncode == 1
        assert "interrupted: nothing was begun that waited for another run" in errors
        assert storage.get_concurrency_info("web").pending_step_count == 0
        assert instance.get_runs(limit=1)[0].status == dg.DagsterRunStatus.FAILURE
