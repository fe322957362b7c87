"""Two `devopsgpt up` over one home: the second is told where the first is, whatever its ports."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager

import psutil
import pytest
from conftest import DEVOPSGPT, REPOSITORY
from pipeline.commands.running import invoke

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.local.up_lock import HomeInUse, sole_up

OPTIONS = ("--dagster-port", "--mlflow-port", "--service-port")


def ports():
    found = [str(servers.free_port()) for _ in OPTIONS]
    return found, [word for pair in zip(OPTIONS, found, strict=True) for word in pair]


@contextmanager
def up(home):
    """yields: the process and its ports, once all three answer"""
    chosen, options = ports()
    process = subprocess.Popen(
        [*DEVOPSGPT, "up", *options],
        cwd=REPOSITORY,
        env=os.environ | {"DEVOPSGPT_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "Ctrl-C stops all three" in line:
                break
        yield process, chosen
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()


def test_a_second_up_is_told_where_the_first_is(tmp_path, tried):
    with up(tmp_path) as (first, chosen):
        second = invoke("up", *ports()[1], DEVOPSGPT_HOME=str(tmp_path))
        tried("a second `up` over one home, on other ports", second.output.strip())
        assert second.exit_code == 1
        assert f"process {first.pid}" in second.output
        assert all(f"127.0.0.1:{port}" in second.output for port in chosen)
        assert "DEVOPSGPT_HOME" in second.output
        assert len(second.output.strip().splitlines()) == 1
        assert first.poll() is None
        started = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        # its servers end later than it does, and until then the home is not free
        assert invoke("up", *ports()[1], DEVOPSGPT_HOME=str(tmp_path)).exit_code == 1
        psutil.wait_procs(started, timeout=60)
    with sole_up(Home(tmp_path), []):
        assert json.loads(Home(tmp_path).up_lock.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "servers": {}}', "null"])
def test_a_lock_that_does_not_tell_who_holds_it(tmp_path, content):
    home = Home(tmp_path).prepare()
    with sole_up(home, []):
        home.up_lock.write_text(content)
        with pytest.raises(HomeInUse, match="does not tell which"), sole_up(home, []):
            pass


def test_a_lock_that_nobody_holds_any_more_is_taken(tmp_path):
    home = Home(tmp_path).prepare()
    home.up_lock.write_text('{"pid": 1, "servers": {"MLflow": "http://127.0.0.1:1"}}')
    with sole_up(home, []):
        pass
