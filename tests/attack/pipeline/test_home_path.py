"""A home at an odd place: everything is written below it, and found there again."""

import subprocess
import sys

import pytest

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.tracking.client import connect
from devopsgpt_pipeline.tracking.runs import log_bytes, start_run

NAMES = [
    *("%2F", "%20", "a?b", "a?mode=memory&uri=true", "%", "100%", "%25", "%zz"),
    *(
        "a b",
        "a#b",
        "a'b",
        'a"b',
        "a@b:c",
        "ä ö 書",
        "[a]",
        "a;b&c=d",
        "\\x",
        "{env}",
        "$HOME",
        "~",
    ),
]
PROGRAM = """
import sys
from pathlib import Path
import dagster as dg
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local.servers import set_environment
set_environment(Home(Path(sys.argv[1])), "http://127.0.0.1:9", "http://127.0.0.1:9")
@dg.asset
def thing():
    return None
with dg.DagsterInstance.get() as instance:
    assert dg.materialize([thing], instance=instance).success
with dg.DagsterInstance.get() as instance:
    assert instance.get_latest_materialization_event(dg.AssetKey("thing"))
"""


def written(home):
    """Where files lie below the folder that the home is in. returns: those outside the home"""
    place = next(parent for parent in home.path.parents if parent.name == "place")
    files = [path for path in place.rglob("*") if path.is_file()]
    assert files
    folders = [path for path in place.iterdir() if path != home.path.parent]
    return [*folders, *(path for path in files if not path.is_relative_to(home.path))]


def dagster_keeps_to(home):
    program = [sys.executable, "-c", PROGRAM, str(home.path)]
    answer = subprocess.run(program, capture_output=True, text=True, cwd=home.path)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert written(home) == []
    assert (home.dagster / "history" / "runs.db").exists()


def mlflow_keeps_to(home):
    server = servers.mlflow_server(home, servers.free_port())
    with servers.running([server]):
        client = connect(server.url)
        source = {"name": "books", "digest": "1", "source": "tokens/books"}
        run = start_run(client, "odd", {}, {}, source)
        log_bytes(client, run, "words.txt", b"kept")
    artifacts = [path for path in home.mlflow.rglob("words.txt")]
    assert [path.read_bytes() for path in artifacts] == [b"kept"]
    with servers.running([server]):
        assert connect(server.url).get_run(run).info.run_name == "odd"
    assert written(home) == []
    assert (home.mlflow / "mlflow.db").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_home_with_an_odd_name_keeps_all_that_is_its(name, tmp_path, tried):
    keeps_all(name, tmp_path, tried)


def test_a_home_with_the_oddest_name_keeps_all_that_is_its(tmp_path, tried):
    keeps_all("%2F%20 a?mode=memory&uri=true#'\"ä", tmp_path, tried)


def keeps_all(name, place, tried):
    home = Home(place / "place" / name / "home").prepare()
    dagster_keeps_to(home)
    mlflow_keeps_to(home)
    tried(f"Dagster and MLflow in {name!r}", "what they wrote was found again, and is all there")
