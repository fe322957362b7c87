"""A real PostgreSQL with the databases that the compose file's init script makes."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY

from deploy.compose import read_env, write_env
from devopsgpt_pipeline.local import servers


def as_postgres():
    """PostgreSQL refuses to run as root: settings for a child of an ordinary user where we are
    root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    user = next((name for name in ("postgres", "nobody") if _known(pwd, name)), None)
    return (
        {"user": user}
        if user
        else pytest.skip("PostgreSQL does not run as root, and there is no other user")
    )


def _known(pwd, name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


class Postgres:
    """A server on a free port of 127.0.0.1, with passwords."""

    def __init__(self, folder, variables):
        self.folder, self.variables = folder, variables
        self.port = servers.free_port()

    def make(self):
        who = as_postgres()
        self.folder.chmod(0o755)
        if who:
            shutil.chown(self.folder, who["user"])
        password = self.folder / "password"
        password.write_text(self.variables["POSTGRES_PASSWORD"])
        if who:
            shutil.chown(password, who["user"])
        self._run(
            "initdb",
            "-D",
            self.folder / "data",
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
        )
        self.start()
        environment = (
            os.environ | self.variables | {"PGHOST": "127.0.0.1", "PGPORT": str(self.port)}
        )
        subprocess.run(
            ["bash", REPOSITORY / "deploy/postgres/create-databases.sh"],
            env=environment | {"PGPASSWORD": self.variables["POSTGRES_PASSWORD"]},
            check=True,
            capture_output=True,
        )

    def start(self):
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        )
        self._run(
            "pg_ctl",
            "-D",
            self.folder / "data",
            "-w",
            "-o",
            options,
            "-l",
            self.folder / "data" / "server.log",
            "start",
        )

    def kill(self):
        """All of it at once, as the kernel ends a container: kill -9, no checkpoint, no goodbye."""
        server = psutil.Process(
            int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        )
        server.suspend()  # or it would begin to recover from the first child's death
        for process in (*server.children(recursive=True), server):
            process.kill()
        psutil.wait_procs([server], timeout=10)

    def stop(self, mode="fast"):
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    def url(self, name):
        password = self.variables[f"{name.upper()}_DB_PASSWORD"]
        return f"postgresql://{name}:{password}@127.0.0.1:{self.port}/{name}"

    def _run(self, *command):
        # pg_ctl's server keeps the pipes open: its output goes nowhere
        subprocess.run(
            [str(word) for word in command],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **as_postgres(),
        )


@pytest.fixture(scope="session")
def env_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("env") / ".env"
    write_env(path)
    return path


@pytest.fixture(scope="session")
def variables(env_file):
    return read_env(env_file)


@pytest.fixture
def postgres(variables):
    if not shutil.which("initdb"):
        pytest.skip("no PostgreSQL on the PATH (Debian's package postgresql, its bin folder)")
    # pytest's folders are for its user only
    with tempfile.TemporaryDirectory(prefix="devopsgpt-postgres-") as folder:
        server = Postgres(Path(folder), variables)
        server.make()
        yield server
        server.stop("immediate")
