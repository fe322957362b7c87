"""MLflow's first start killed half way through making its database."""

import sqlite3
from contextlib import closing

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import databases


def make(home, statement):
    path = home.mlflow / databases.MLFLOW_DATABASE
    with closing(sqlite3.connect(path)) as database:
        database.executescript(f"CREATE TABLE experiments (id INTEGER); {statement}")
    return path


def test_a_database_that_was_never_finished_is_removed(tmp_path, monkeypatch, tried):
    monkeypatch.setattr(databases, "QUIET_S", 0.1)
    home = Home(tmp_path).prepare()
    path = make(home, "")
    databases.clear_unfinished_mlflow(home)
    tried("mlflow.db half made", "removed, nothing was in it")
    assert not path.exists()


def test_a_database_with_an_experiment_stays(tmp_path):
    home = Home(tmp_path).prepare()
    path = make(home, "INSERT INTO experiments VALUES (0)")
    databases.clear_unfinished_mlflow(home)
    assert path.exists()
