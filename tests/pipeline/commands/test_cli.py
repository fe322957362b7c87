import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import dagster as dg
import psutil
import pytest
import requests
from click.testing import CliRunner
from conftest import DEVOPSGPT, REPOSITORY

from devopsgpt_model.config import changed, describe
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.home import Home, HomeError
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.profiles import profile_from_environment

COMMANDS = [
    "run",
    "up",
    "sample",
    "finetune",
    "evaluate",
    "benchmark",
    "serve",
    "history",
    "leaderboard",
    "lineage",
    "promote",
    "rollback",
    "backup",
    "restore",
]


def invoke(*arguments, **environment):
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    answer = invoke(command, "--help")
    assert answer.exit_code == 0
    assert len(answer.output) > 200
    assert command in invoke("--help").output


def test_sample_continues_a_prompt_and_repeats_itself(checkpoint_folder):
    arguments = [
        "sample",
        "On call,",
        "--checkpoint",
        str(checkpoint_folder),
        "--max-tokens",
        "20",
        "--seed",
        "3",
    ]
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output
    assert first.output.startswith("On call,")
    assert invoke(*arguments).output == first.output


def test_sample_without_a_checkpoint_says_what_to_do(tmp_path):
    answer = invoke("sample", "x", DEVOPSGPT_HOME=str(tmp_path))
    assert answer.exit_code == 1
    assert "no tokenizer.json in" in answer.output
    assert "Traceback" not in answer.output


def test_evaluate_prints_a_table_of_both_splits(checkpoint_folder, tmp_path):
    from devopsgpt_model.token_bins import write_token_bins
    from devopsgpt_model.tokenizer import Tokenizer

    documents = {"train": [("a", "a steady service " * 20)], "val": [("b", "a slow answer " * 20)]}
    write_token_bins(tmp_path / "tokens" / "toy", "toy", Tokenizer.plain_bytes(), documents)
    answer = invoke(
        "evaluate",
        str(checkpoint_folder),
        "--dataset",
        "toy",
        DEVOPSGPT_HOME=str(tmp_path),
        COLUMNS="160",
    )
    assert answer.exit_code == 0, answer.output
    for word in ("train", "val", "perplexity", "bits_per_byte"):
        assert word in answer.output


def test_evaluate_on_a_dataset_that_is_not_there_says_so(checkpoint_folder, tmp_path):
    answer = invoke(
        "evaluate", str(checkpoint_folder), "--dataset", "nope", DEVOPSGPT_HOME=str(tmp_path)
    )
    assert answer.exit_code == 1
    assert "no token bins in" in answer.output


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


def test_settings_are_listed_with_their_units():
    answer = invoke("finetune", "finetune_sre", "--list-settings")
    assert answer.exit_code == 0
    assert "init_from = gpt2-large" in answer.output
    assert "Optimizer steps" in answer.output


def test_settings_change_a_preset():
    config = changed(
        "sample", ["max_steps=7", "learning_rate=0.5", "compile=on", "init_from=champion"]
    )
    assert (config.max_steps, config.learning_rate, config.compile, config.init_from) == (
        7,
        0.5,
        "on",
        "champion",
    )
    assert "max_steps = 7" in describe(config)


def test_an_unknown_profile_is_told_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("DEVOPSGPT_PROFILE", "prod")
    with pytest.raises(
        ValueError,
        match="unknown profile 'prod' in DEVOPSGPT_PROFILE; the profiles are sample, sre",
    ):
        profile_from_environment()


def test_a_home_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"cannot be written .* set DEVOPSGPT_HOME"):
        Home(tmp_path / "file" / "home").prepare()
    answer = invoke("run", DEVOPSGPT_HOME=str(tmp_path / "file" / "home"))
    assert answer.exit_code == 1
    assert "set DEVOPSGPT_HOME" in answer.output


def test_a_taken_port_is_told_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = [
            "--mlflow-port",
            str(servers.free_port()),
            "--service-port",
            str(servers.free_port()),
        ]
        answer = invoke("up", "--dagster-port", str(port), *ports, DEVOPSGPT_HOME=str(tmp_path))
    assert answer.exit_code == 1
    assert f"port {port} for Dagster is taken" in answer.output
    assert "--dagster-port" in answer.output
    assert not (tmp_path / "logs" / "mlflow.log").exists()


def test_a_server_that_ends_at_once_is_told_with_its_log(tmp_path):
    home = Home(tmp_path).prepare()
    command = [sys.executable, "-c", "print('no such option'); raise SystemExit(2)"]
    server = servers.Server("MLflow", command, servers.free_port(), "/", home.logs / "x.log")
    wanted = "MLflow ended with status 2:\nno such option"
    with pytest.raises(servers.ProcessError, match=wanted), servers.running([server]):
        pass


def test_up_starts_all_three_and_one_ctrl_c_stops_them(tmp_path):
    ports = [servers.free_port() for _ in range(3)]
    options = zip(
        ("--dagster-port", "--mlflow-port", "--service-port"), map(str, ports), strict=True
    )
    environment = os.environ | {"DEVOPSGPT_HOME": str(tmp_path)}
    up = subprocess.Popen(
        [*DEVOPSGPT, "up", *(word for option in options for word in option)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        for line in up.stdout:
            if "Ctrl-C stops all three" in line:
                break
            assert time.monotonic() < deadline
        started = psutil.Process(up.pid).children(recursive=True)
        assert len(started) >= 3
        assert requests.get(f"http://127.0.0.1:{ports[0]}/server_info", timeout=10).ok
        assert requests.get(f"http://127.0.0.1:{ports[1]}/health", timeout=10).ok
        assert requests.get(f"http://127.0.0.1:{ports[2]}/api/healthz", timeout=10).json() == {
            "api_healthy": True
        }
        # no champion yet
        assert (
            requests.get(f"http://127.0.0.1:{ports[2]}/api/readyz", timeout=10).status_code == 503
        )
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
        up.stdout.close()
    assert up.returncode == 0
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


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
