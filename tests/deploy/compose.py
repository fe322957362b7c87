"""docker-compose.yml without Docker: its variables filled in, its services as processes on this
machine.

A service's command and environment are taken as the file has them. What a container network gives
is replaced: a service's name by 127.0.0.1, a container's port by a free one, a mounted place by a
folder.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from conftest import REPOSITORY

from devopsgpt_pipeline.local import servers

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
MAKE_ENV = REPOSITORY / "deploy" / "make_env.py"  # in no package: a machine without any runs it
_made = runpy.run_path(str(MAKE_ENV))
SECRETS, write_env = _made["SECRETS"], _made["write_env"]
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class MissingVariable(ValueError):
    """A variable that the file insists on."""


def interpolate(text, variables):
    """Fill in ${NAME}, ${NAME:-default} and ${NAME:?message}, as the Compose specification has
    it."""

    def value(match):
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise MissingVariable(f"{name}: {rest}")
        return rest or ""

    return VARIABLE.sub(value, text)


def read_env(path):
    lines = [
        line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")
    ]
    return dict(line.split("=", 1) for line in lines)


def load(variables, *files):
    """The services and volumes of docker-compose.yml, or of other files."""
    documents = [
        yaml.safe_load(interpolate(path.read_text(), variables))
        for path in files or (COMPOSE_FILE,)
    ]
    return documents[0] if len(documents) == 1 else documents


def start_order(services):
    """Names such that each comes after what it depends on."""
    order = []
    while len(order) < len(services):
        ready = [
            n
            for n in services
            if n not in order and set(services[n].get("depends_on", {})) <= set(order)
        ]
        assert ready, f"a circle among {set(services) - set(order)}"
        order += ready
    return order


class Stack:
    """The services that have a command of ours, as child processes with their health checks."""

    def __init__(self, services, postgres_port, place):
        self.services = {
            name: s for name, s in services.items() if not s.get("profiles") and name != "postgres"
        }
        ports = {"postgres": 5432, "mlflow": 5000, "code": 4000, "webserver": 3000, "serving": 8000}
        self.ports = {
            name: postgres_port if name == "postgres" else servers.free_port() for name in ports
        }
        self.moved = {str(port): str(self.ports[name]) for name, port in ports.items()}
        self.names = ports
        self.place = place
        dagster_home = place / "opt-dagster"
        dagster_home.mkdir()
        (dagster_home / "dagster.yaml").write_text(
            (REPOSITORY / "deploy/dagster/dagster.yaml").read_text()
        )
        self.places = {"/opt/dagster": dagster_home, "/app": REPOSITORY}
        for name, mounted in (
            ("data", "/data"),
            ("cache", "/cache"),
            ("artifacts", "/artifacts"),
            ("tmp", "/tmp"),
        ):
            (place / name).mkdir()
            self.places[mounted] = place / name
        self.running = {}

    def url(self, name):
        return f"http://127.0.0.1:{self.ports[name]}"

    def here(self, value):
        """A word of a command or an environment, as it is on this machine."""
        value = str(value)
        if value in self.moved:
            return self.moved[value]
        for name, port in self.names.items():
            value = re.sub(rf"(?<![\w/.-]){name}:{port}\b", f"127.0.0.1:{self.ports[name]}", value)
            value = re.sub(rf"(?<=[/@]){name}:{port}\b", f"127.0.0.1:{self.ports[name]}", value)
            value = value.replace(f"127.0.0.1:{port}/", f"127.0.0.1:{self.ports[name]}/")
        if value == "0.0.0.0":
            return "127.0.0.1"
        for mounted, folder in self.places.items():
            if value == mounted or value.startswith(f"{mounted}/"):
                return str(folder) + value[len(mounted) :]
        return value

    def command(self, words):
        words = [self.here(word) for word in words]
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        return [str(Path(sys.executable).with_name(words[0])), *words[1:]]

    def environment(self, name):
        declared = self.services[name].get("environment", {})
        inherited = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        }
        named = {
            key: "127.0.0.1" if value in self.names else value for key, value in declared.items()
        }
        return inherited | {
            key: self.here(value) for key, value in named.items() if value is not None
        }

    def start(self, name):
        with (self.place / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(self.services[name]["command"]),
                env=self.environment(name),
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def healthy(self, name):
        test = self.services[name]["healthcheck"]["test"]
        assert test[0] == "CMD"
        return (
            subprocess.run(
                self.command(test[1:]),
                env=self.environment(name),
                cwd=self.place,
                capture_output=True,
            ).returncode
            == 0
        )

    def wait(self, name, seconds=90):
        deadline = time.monotonic() + seconds
        while not self.healthy(name):
            log = (self.place / f"{name}.log").read_text(errors="replace")[-3000:]
            assert self.running[name].poll() is None, f"{name} ended:\n{log}"
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{log}"
            time.sleep(0.5)

    def up(self):
        for name in start_order(self.services | {"postgres": {}}):
            if name != "postgres":
                self.start(name)
                # its check asks for the first heartbeats, which come in half a minute
                if name != "daemon":
                    self.wait(name)

    def kill(self, name):
        """All of a container at once, as the kernel ends it with its first process."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart(self, name):
        servers.stop([self.running.pop(name)])
        self.start(name)
        if name != "daemon":
            self.wait(name)

    def down(self):
        servers.stop(list(self.running.values()))
        self.running.clear()
