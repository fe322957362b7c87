"""Backups hold everything, are whole or not there, and come back only as they were."""

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import closing

import httpx
import pytest
from click.testing import CliRunner

from deploy.conftest import Postgres
from devopsgpt_model.atomic import atomic_folder
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.operations.backup import SQLITE_HEADER, BackupError, run_postgres
from devopsgpt_pipeline.operations.backup import backup as write_backup
from devopsgpt_pipeline.operations.restore import restore as bring_back
from devopsgpt_pipeline.settings import Settings


@pytest.fixture(autouse=True)
def no_databases_of_the_caller(monkeypatch):
    for name in (
        "DAGSTER_POSTGRES_URL",
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_ARTIFACTS_DESTINATION",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home").prepare()
    with atomic_folder(home.finetuned) as folder:
        (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    (home.chapters / "book").mkdir(parents=True)
    (home.chapters / "book" / "page.html").write_text("<p>page</p>")
    for name in ("serving", "tmp"):
        (home.path / name).mkdir()
        (home.path / name / "cached").write_text("can be had again")
    with closing(sqlite3.connect(home.mlflow / "mlflow.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE pairs (a INTEGER, b INTEGER)")
        database.commit()
    return home


def backup(home, target):
    """A backup with the other places as the environment has them."""
    return write_backup(Settings(home=home.path), target)


def restore(source, home):
    bring_back(source, Settings(home=home.path))


def pairs(home):
    with closing(sqlite3.connect(home.mlflow / "mlflow.db")) as database:
        return database.execute("SELECT count(*), sum(a - b) FROM pairs").fetchone()


def test_a_home_comes_back_as_it_was_while_others_write_to_it(home, tmp_path):
    stop = threading.Event()

    def write():
        with closing(sqlite3.connect(home.mlflow / "mlflow.db", timeout=30)) as database:
            number = 0
            while not stop.is_set():
                number += 1
                database.execute("INSERT INTO pairs VALUES (?, 0)", (number,))
                # both rows, or neither
                database.execute("INSERT INTO pairs VALUES (0, ?)", (number,))
                database.commit()

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.2)
    try:
        file = backup(home, tmp_path)
    finally:
        stop.set()
        thread.join()
    restored = Home(tmp_path / "elsewhere")
    restore(file, restored)
    assert restored.finetuned.is_symlink()
    weights = (restored.finetuned / "model.safetensors").read_bytes()
    assert weights == (home.finetuned / "model.safetensors").read_bytes()
    assert (restored.chapters / "book" / "page.html").read_text() == "<p>page</p>"
    assert not (restored.path / "serving").exists()
    assert not restored.temporary.exists()
    rows, difference = pairs(restored)
    assert rows > 0
    assert rows % 2 == difference == 0


def spoil(file, how):
    content = bytearray(file.read_bytes())
    if how == "cut short":
        content = content[: len(content) // 2 // 512 * 512]
    elif how == "bit flipped":
        content[content.index(b"<p>page</p>") + 3] ^= 1
    elif how == "not a backup":
        content = bytearray(b"hello" * 1000)
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["cut short", "bit flipped", "not a backup"])
def test_a_damaged_backup_changes_nothing(home, tmp_path, how):
    file = backup(home, tmp_path)
    spoil(file, how)
    place = Home(tmp_path / "elsewhere")
    with pytest.raises(BackupError, match=r"cut short|damaged|could not be restored"):
        restore(file, place)
    assert not place.path.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../escaped", "escaped is not in its manifest"),
        ("home/added", "home/added is not in its manifest"),
    ],
)
def test_a_file_that_does_not_belong_into_a_backup_is_refused(home, tmp_path, name, problem):
    file = backup(home, tmp_path)
    with tarfile.open(file, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(BackupError, match=problem):
        restore(file, Home(tmp_path / "elsewhere"))
    assert not (tmp_path / "escaped").exists()


FILLING = """
import pathlib, sys, time
from devopsgpt_pipeline.operations.restore import staging_folder
with staging_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "home").mkdir()
    print("filling", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_restore_left_is_cleared_but_not_what_another_fills(home, tmp_path):
    file = backup(home, tmp_path)
    place = Home(tmp_path / "elsewhere")
    place.path.mkdir()
    (tmp_path / ".devopsgpt-restore-beside" / "staged").mkdir(parents=True)
    # as where the home is a mounted volume
    command = [sys.executable, "-c", FILLING, str(place.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as filling:
        try:
            assert filling.stdout.readline() == "filling\n"
            with pytest.raises(BackupError, match="elsewhere is not empty"):
                restore(file, place)
            assert len(list(place.path.glob(".devopsgpt-restore-*/staged/home"))) == 1
        finally:
            filling.kill()
    restore(file, place)
    assert (place.chapters / "book" / "page.html").exists()
    assert list(tmp_path.rglob(".devopsgpt-restore-*")) == []


def test_a_place_that_is_not_empty_is_left_alone(home, tmp_path):
    file = backup(home, tmp_path)
    with pytest.raises(BackupError, match="is not empty"):
        restore(file, home)


def test_a_killed_backup_leaves_no_backup(home, tmp_path):
    with (home.path / "large").open("wb") as file:
        file.truncate(20_000_000_000)  # sparse: reading it takes longer than we wait
    target = tmp_path / "target"
    target.mkdir()
    command = [sys.executable, "-m", "devopsgpt_pipeline.cli", "backup", str(target / "b.tar")]
    process = subprocess.Popen(command, env=os.environ | {"DEVOPSGPT_HOME": str(home.path)})
    deadline = time.monotonic() + 20
    while not list(target.glob(".b.tar.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(target.glob("*.tar")) == []


def test_the_newest_backups_are_kept_and_others_files_left_alone(home, tmp_path, monkeypatch):
    target, old = tmp_path / "target", time.time() - 2 * 86_400
    target.mkdir()
    earlier = [f"devopsgpt-2026010{day}-040000.tar" for day in (1, 2, 3)]
    for name in (
        *earlier,
        ".devopsgpt-20260101-030000.tar.partial",
        "other.tar",
        ".devopsgpt-now.tar.partial",
    ):
        (target / name).write_text("x")
        if name != ".devopsgpt-now.tar.partial":
            os.utime(target / name, (old, old))
    monkeypatch.setenv("DEVOPSGPT_HOME", str(home.path))
    answer = CliRunner().invoke(main, ["backup", str(target), "--keep", "2"])
    assert answer.exit_code == 0, answer.output
    (written,) = re.findall(r"wrote \S+/(\S+)", answer.output)
    kept = {written, earlier[2], "other.tar", ".devopsgpt-now.tar.partial"}
    assert {path.name for path in target.iterdir()} == kept
    (home.mlflow / "mlflow.db").write_bytes(SQLITE_HEADER + b"damaged")
    assert CliRunner().invoke(main, ["backup", str(target), "--keep", "1"]).exit_code == 1
    assert {path.name for path in target.iterdir()} == kept  # nothing goes for a backup that failed
    answer = CliRunner().invoke(main, ["backup", str(tmp_path / "file.tar"), "--keep", "1"])
    assert answer.exit_code == 2
    assert "--keep needs a folder" in answer.output


def test_databases_are_copied_on_the_homes_disk(home, tmp_path, monkeypatch):
    """A container's /tmp is small."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert backup(home, tmp_path).exists()
    assert [path.name for path in home.temporary.iterdir()] == ["cached"]


def test_a_backup_into_its_own_home_is_refused(home):
    with pytest.raises(BackupError, match="choose a place outside"):
        backup(home, home.path / "backup.tar")


@pytest.fixture
def two_databases(postgres, monkeypatch):
    """The databases of the compose file, a table in each, and the environment that names them."""
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres.url("dagster"))
    monkeypatch.setenv(
        "MLFLOW_BACKEND_STORE_URI", postgres.url("mlflow").replace("://", "+psycopg2://")
    )
    for name in ("dagster", "mlflow"):
        run_postgres(
            ["psql", "-c", f"CREATE TABLE t AS SELECT '{name}' AS name"], postgres.url(name)
        )
    return postgres


def test_postgres_comes_back_too(home, tmp_path, two_databases, variables, monkeypatch):
    if not shutil.which("pg_dump"):
        pytest.skip("no pg_dump on the PATH (Debian's package postgresql-client)")
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    (artifacts / "weights").write_bytes(b"w")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(artifacts))
    file = backup(home, tmp_path)
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "new-artifacts"))
    with pytest.raises(BackupError, match="the database dagster is not empty"):
        restore(file, Home(tmp_path / "elsewhere"))
    for name in ("dagster", "mlflow"):
        run_postgres(["psql", "-c", "DROP TABLE t"], two_databases.url(name))
    restore(file, Home(tmp_path / "elsewhere"))
    for name in ("dagster", "mlflow"):
        assert (
            run_postgres(
                ["psql", "-At", "-c", "SELECT name FROM t"], two_databases.url(name)
            ).strip()
            == name
        )
    assert (tmp_path / "new-artifacts" / "weights").read_bytes() == b"w"
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI")
    monkeypatch.delenv("MLFLOW_ARTIFACTS_DESTINATION")
    with pytest.raises(BackupError, match="the environment names"):
        restore(file, Home(tmp_path / "third"))


def test_a_restore_that_a_database_refuses_can_be_repeated(
    home, tmp_path, two_databases, monkeypatch
):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "weights").write_bytes(b"w")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "artifacts"))
    file = backup(home, tmp_path)
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "new-artifacts"))
    for name in ("dagster", "mlflow"):
        run_postgres(["psql", "-c", "DROP TABLE t"], two_databases.url(name))
    run_postgres(
        ["psql", "-c", "CREATE TYPE t AS ENUM ('in the way')"], two_databases.url("mlflow")
    )
    with pytest.raises(
        BackupError, match=r'(?s)type "t" already exists.*Filled before that: the database dagster;'
    ):
        restore(file, Home(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()
    assert list((tmp_path / "new-artifacts").iterdir()) == []
    run_postgres(["psql", "-c", "DROP TYPE t"], two_databases.url("mlflow"))
    run_postgres(["psql", "-c", "DROP TABLE t"], two_databases.url("dagster"))
    restore(file, Home(tmp_path / "elsewhere"))
    assert (tmp_path / "new-artifacts" / "weights").read_bytes() == b"w"


def test_an_error_of_postgres_names_no_password(variables):
    server = Postgres(None, variables)
    with pytest.raises(BackupError) as error:
        run_postgres(["psql", "-c", "SELECT 1"], server.url("dagster"))
    assert variables["DAGSTER_DB_PASSWORD"] not in str(error.value)
    with pytest.raises(BackupError) as error:
        run_postgres(["psql"], f"postgresql://nonsense:{variables['DAGSTER_DB_PASSWORD']}")
    assert variables["DAGSTER_DB_PASSWORD"] not in str(error.value)


@pytest.mark.slow
def test_a_restored_home_serves(tmp_path, checkpoint_folder, monkeypatch):
    from devopsgpt_pipeline.registry.promote import promote_by_hand
    from devopsgpt_pipeline.tracking.client import connect, experiment_id
    from devopsgpt_pipeline.tracking.versions import publish

    home = Home(tmp_path / "home").prepare()
    server = servers.mlflow_server(home, servers.free_port())
    with servers.running([server]):
        client = connect(server.url)
        run = client.create_run(experiment_id(client)).info.run_id
        promote_by_hand(
            client,
            publish(client, checkpoint_folder, run, {}, "tiny"),
            "a test",
            home.promotion_lock,
        )
        file = backup(home, tmp_path)  # while the server runs
    shutil.rmtree(home.path)
    restored = Home(tmp_path / "elsewhere")
    restore(file, restored)
    restored.prepare()
    server = servers.mlflow_server(restored, servers.free_port())
    monkeypatch.setenv("DEVOPSGPT_HOME", str(restored.path))
    service = servers.serving_server(restored, servers.free_port(), server.url)
    with servers.running([server, service]):
        deadline = time.monotonic() + 30
        while httpx.get(f"{service.url}/api/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        answer = httpx.post(
            f"{service.url}/api/generate", json={"prompt": "x", "max_token_len": 3}
        ).json()
    assert answer["version"] == "1"
