"""A finished home, made once by a tiny training, and `devopsgpt run` over a copy of it.

A run is forked from a process with the heavy imports done, and tells what the champion is in the
end: its hash, its val_loss measured anew, and what it says without sampling.
"""

import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chaos.chain_program import TINY
from conftest import REPOSITORY

DEADLINE_S = 240
ENVIRONMENT = {
    "DEVOPSGPT_TRAINING": TINY,
    "DEVOPSGPT_PROFILE": "sample",
    "OMP_WAIT_POLICY": "passive",
}
PATHS = [str(REPOSITORY), str(REPOSITORY / "tests")]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["dagster", "torch", "mlflow", "devopsgpt_pipeline.local.session", "chaos.chain_program"]
)


@dataclass(frozen=True)
class Ended:
    """How a run ended. champion: what it is in the end, None after an error"""

    status: int
    output: str
    champion: dict | None

    @property
    def error(self):
        """What stands after `Error:`, to the end."""
        found = re.search(r"^Error: (.*)", self.output, re.MULTILINE | re.DOTALL)
        return found[1].strip() if found else ""


class Started:
    """A run under way. place: where its output goes and what it tells, outside the home"""

    def __init__(self, home, environment=None, place=None, limits=None):
        place = place or home.parent
        self.log, self.result = place / f"{home.name}.log", place / f"{home.name}.json"
        for path in (self.log, self.result):
            path.unlink(missing_ok=True)
        environment = {**os.environ, **ENVIRONMENT, **(environment or {}), "RESULT": self.result}
        environment = {name: str(value) for name, value in environment.items()}
        arguments = (str(home), str(self.log), environment, limits or {})
        self.process = FORKS.Process(target=_forked, args=arguments)
        self.process.start()

    def finish(self):
        """Wait for its end. returns: how it ended"""
        self.process.join(DEADLINE_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        champion = json.loads(self.result.read_text()) if self.result.exists() else None
        output = self.log.read_text(errors="replace") if self.log.exists() else ""
        return Ended(self.process.exitcode, output, champion)


def run(home, **options):
    return Started(home, **options).finish()


def run_from_nothing(home, environment):
    """A run whose environment must be there when its process starts, such as LD_PRELOAD."""
    result = home.with_name("result.json")
    environment = {**os.environ, **ENVIRONMENT, **environment, "RESULT": str(result)}
    answer = subprocess.run(
        [sys.executable, "-m", "attack.pipeline.homes"],
        env=environment | {"DEVOPSGPT_HOME": str(home), "PYTHONPATH": os.pathsep.join(PATHS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
    )
    champion = json.loads(result.read_text()) if result.exists() else None
    result.unlink(missing_ok=True)
    return Ended(answer.returncode, answer.stdout, champion)


def _forked(home, log, environment, limits):
    os.setsid()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment, DEVOPSGPT_HOME=home)
    for limit, value in limits.items():
        resource.setrlimit(limit, value)
    _end_as_a_command()


def _end_as_a_command():
    import click

    try:
        _chain()
    except click.ClickException as error:
        error.show()
        raise SystemExit(1) from None


def _chain():
    from devopsgpt_pipeline.commands.errors import report_errors
    from devopsgpt_pipeline.home import Home
    from devopsgpt_pipeline.local.session import bring_up_to_date
    from devopsgpt_pipeline.profiles import chosen_profile
    from devopsgpt_pipeline.settings import read_settings

    @report_errors
    def chain():
        settings = read_settings()
        home = Home(settings.home).prepare()
        with bring_up_to_date(home, chosen_profile(settings)) as tracking_uri:
            facts = champion(tracking_uri, home)
            Path(os.environ["RESULT"]).write_text(json.dumps(facts))

    chain()


def champion(tracking_uri, home):
    """What is served, looked at file by file."""
    import tempfile

    from devopsgpt_model.checkpoint import load_checkpoint
    from devopsgpt_model.evaluate import evaluate_split
    from devopsgpt_model.generate import generate_text
    from devopsgpt_model.token_bins import TokenBins
    from devopsgpt_pipeline.tracking.client import CHAMPION, connect, version_of_alias
    from devopsgpt_pipeline.tracking.versions import checkpoint_sha256, fetch_version

    client = connect(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        files = fetch_version(client, version_of_alias(client, CHAMPION), Path(folder))
        checkpoint, digest = load_checkpoint(files), checkpoint_sha256(files)
    bins = TokenBins.open(home.bins("books"))
    loss = evaluate_split(checkpoint.model, checkpoint.tokenizer, bins).loss
    text = generate_text(checkpoint.model, checkpoint.tokenizer, "The pager", 20, temperature=0)
    return {"sha256": digest, "val_loss": loss, "text": text}


def copied(home, place):
    """A home of one's own to damage."""
    shutil.copytree(home, place, symlinks=True)
    return place


if __name__ == "__main__":
    _end_as_a_command()
