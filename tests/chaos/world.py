"""Everything that runs, each part to be killed and started again, and two watchers that never look
away."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests
from conftest import REPOSITORY
from safetensors import safe_open

from chaos.chain_program import forked
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.tracking.client import (
    CHAMPION,
    MODEL_NAME,
    connect,
    experiment_id,
    version_of_alias,
)
from devopsgpt_pipeline.tracking.versions import checkpoint_sha256, fetch_version

PROGRAM = Path(__file__).with_name("chain_program.py")
CHAIN_DEADLINE_S = 150
SEED = int(os.environ.get("CHAOS_SEED") or time.time())


class World:
    """A home, MLflow, the service over it, and chains."""

    def __init__(self, place, chain_home=None):
        self.home = Home(place / "home").prepare()
        self.chain_home = chain_home or self.home.path
        self.place = place
        self.environment = dict(os.environ) | {
            "PYTHONPATH": str(REPOSITORY),
            "DEVOPSGPT_HOME": str(self.home.path),
            "DEVOPSGPT_PROFILE": "sample",
            "DEVOPSGPT_SERVING_POLL_INTERVAL_S": "0.5",
            "DEVOPSGPT_SERVING_DEVICE": "cpu",
            "DEVOPSGPT_SERVING_CACHE_DIR": str(place / "cache"),
            "OMP_WAIT_POLICY": "passive",
        }
        self.servers = {"mlflow": servers.mlflow_server(self.home, servers.free_port())}
        self.url = self.servers["mlflow"].url
        self.servers["service"] = servers.serving_server(self.home, servers.free_port(), self.url)
        self.running = {}
        self.watch = None

    def start(self, name):
        server = self.servers[name]
        with server.log.open("ab") as log:
            self.running[name] = subprocess.Popen(
                server.command,
                cwd=server.folder,
                env=self.environment | server.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(
            lambda: answers(server.url + server.health_path),
            60,
            lambda: server.log.read_text()[-1500:],
        )

    def kill(self, name):
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def chain(self, seed, **environment):
        """Start a walk over the chain: forked from a warm process, or from nothing where its
        environment differs."""
        arguments = [str(self.chain_home), self.url, str(seed)]
        log = self.place / "chain.log"
        if not environment:
            return Walk(arguments, self.environment, str(log))
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, str(PROGRAM), *arguments],
                env=self.environment | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def complete(self, seed, **environment):
        """The chain ends well when it is started again, and all of it is there."""
        process = self.chain(seed, **environment)
        try:
            assert process.wait(CHAIN_DEADLINE_S) == 0, (self.place / "chain.log").read_text()[
                -3000:
            ]
        finally:
            end(process)
        check_complete(self.url, Home(Path(self.chain_home)), seed, self.place)

    def counts(self):
        """What must never become fewer."""
        client = connect(self.url)
        return {
            "versions": len(versions(client)),
            "mlflow runs": len(client.search_runs([experiment_id(client)], max_results=1000)),
            "dagster runs": self.dagster_runs(),
        }

    def dagster_runs(self):
        import sqlite3
        from contextlib import closing

        path = Path(self.chain_home) / "dagster" / "history" / "runs.db"
        with closing(sqlite3.connect(path, timeout=30)) as database:
            return database.execute("SELECT count(*) FROM runs").fetchone()[0]

    def close(self):
        if self.watch:
            self.watch.stop()
        for name in list(self.running):
            self.kill(name)


def versions(client):
    return client.search_model_versions(f"name = '{MODEL_NAME}'", max_results=1000)


def check_complete(tracking_uri, home, seed, place):
    """The checkpoint is the newest wish's, it is registered, and the champion's files are what
    their manifest says."""
    assert home.finetuned_facts()["config"]["seed"] == seed
    client = connect(tracking_uri)
    registered = [found.tags["checkpoint_sha256"] for found in versions(client)]
    assert checkpoint_sha256(home.finetuned) in registered, "the checkpoint was not registered"
    fetch_version(client, version_of_alias(client, CHAMPION), place / "fetched")
    shutil.rmtree(place / "fetched")


class Walk:
    """A forked walk, with the few methods of Popen that are asked of it."""

    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["dagster", "torch", "mlflow", "devopsgpt_pipeline.local.session", "chaos.chain_program"]
    )

    def __init__(self, *arguments):
        self._process = self.forks.Process(target=forked, args=arguments)
        self._process.start()
        self.pid, self.kill, self.poll = (
            self._process.pid,
            self._process.kill,
            lambda: self._process.exitcode,
        )

    def wait(self, seconds=None):
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"the chain did not end within {seconds} s"
        return self._process.exitcode


class Watch:
    """Asks the service and reads the newest checkpoint, over and over; remembers each failure."""

    def __init__(self, service_url, home, headers=None):
        self.url, self.finetuned, self.headers = service_url, Home(Path(home)).finetuned, headers
        self.stopping, self.excused = threading.Event(), False
        self.troubles, self.asked, self.read = [], 0, 0
        self.threads = [
            threading.Thread(target=each, daemon=True) for each in (self._ask, self._read)
        ]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def _ask(self):
        # not by httpx.post, here and in each loop that waits: it reads all certificates each time,
        # 39 ms of a core
        address, question = f"{self.url}/api/generate", {"prompt": "The", "max_token_len": 2}
        while not self.stopping.wait(0.5):
            excused = self.excused
            try:
                answer = requests.post(address, json=question, headers=self.headers, timeout=20)
                if answer.status_code != 200 and not (excused or self.excused):
                    self.troubles.append(f"service: {answer.status_code} {answer.text[:300]}")
                self.asked += 1
            except requests.RequestException as error:
                if not (excused or self.excused):
                    self.troubles.append(f"service: {error!r}")

    def _read(self):
        while not self.stopping.wait(0.1):
            folder = self.finetuned.resolve()
            try:
                json.loads((folder / "training.json").read_text())
                json.loads((folder / "config.json").read_text())
                # raises for a file cut short
                with safe_open(folder / "model.safetensors", "pt") as weights:
                    assert len(list(weights.keys())) > 3
                self.read += 1
            except Exception as error:
                if self.finetuned.resolve() == folder:  # not replaced meanwhile
                    self.troubles.append(f"checkpoint: {error!r}")


def trainer_of(chain):
    """The training process of a chain, or None."""
    try:
        children = psutil.Process(chain.pid).children(recursive=True)
        return next(
            (child for child in children if "devopsgpt_model.train" in child.cmdline()), None
        )
    except psutil.Error:
        return None


def end(process):
    """Nothing of a chain outlives its test: its own trainer notices within seconds that its parent
    died."""
    if process.poll() is None:
        process.kill()
        process.wait()


def answers(url):
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def until(condition, seconds, say=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {say()}"
        time.sleep(0.1)


@contextmanager
def served(place, **options):
    """A world with one completed chain, served and watched."""
    world = World(place, **options)
    try:
        world.start("mlflow")
        world.start("service")
        world.complete(seed=0)
        until(lambda: ready(world), 30)
        world.watch = Watch(world.servers["service"].url, world.chain_home)
        yield world
    finally:
        world.close()


def ready(world):
    return requests.get(f"{world.servers['service'].url}/api/readyz", timeout=10).status_code == 200


@contextmanager
def nothing_lost(world):
    """No run or version is lost, the service always answered, and no half checkpoint was seen."""
    before = world.counts()
    yield
    after = world.counts()
    assert [name for name in before if after[name] < before[name]] == []
    assert world.watch.troubles == []
