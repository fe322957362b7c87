"""From an edited chapter to the service's answer with no hand on it: all of `devopsgpt up`, for
real."""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager

import dagster as dg
import pytest
import requests
from conftest import DEVOPSGPT
from pipeline.sources.book_site import Server, small_site

from devopsgpt_pipeline.local.servers import free_port

DEADLINE_S = 420.0
SMALL = (
    "n_layer=1 n_head=2 n_embd=32 block_size=64 batch_size=8 warmup_steps=2 learning_rate=0.01 "
    "eval_interval=20"
)
FOLLOWS = [  # what an edit of the local book leads to, in order
    *("chapters_local_book", "clean_text_local_book", "token_bins_books"),
    *("finetuned_checkpoint", "evaluation", "registered_model", "champion"),
]


@pytest.fixture
def sites(tmp_path):
    """Two books on two servers, and the folder of files that describe them."""
    folder = tmp_path / "books"
    folder.mkdir()
    servers, sites = [], {}
    for name in ("local-book", "other-book"):
        site = sites[name] = small_site()
        site.name, site.crawl_delay_s = name, 0.0
        if name == "other-book":
            for chapter in site.chapters:
                chapter.inside = chapter.inside.replace("seen", "heard")
        servers.append(Server(site))
        site.book(folder)
    yield sites, folder
    for server in servers:
        server.close()


class Up:
    """`devopsgpt up` over a home."""

    def __init__(self, instance, service):
        self.instance, self.service = instance, service

    def answered_by(self):
        answer = requests.post(
            f"{self.service}/api/generate",
            json={"prompt": "The lamp", "max_token_len": 5},
            timeout=30,
        )
        answer.raise_for_status()
        return int(answer.json()["version"])

    def made(self, since):
        """Assets that were materialized after a time, in order. The leaderboard follows any
        measurement: left out."""
        events = []
        for key in set(self.instance.all_asset_keys()) - {dg.AssetKey("leaderboard")}:
            for record in self.instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, after_timestamp=since), limit=10
            ).records:
                events.append((record.timestamp, key.to_user_string()))
        return [name for _, name in sorted(events)]

    def observations(self, since):
        """Finished runs of the schedule that began after a time."""
        wanted = dg.RunsFilter(job_name="observe_books", statuses=[dg.DagsterRunStatus.SUCCESS])
        return sum(
            record.create_timestamp.timestamp() > since
            for record in self.instance.get_run_records(wanted)
        )

    def failed_runs(self):
        return self.instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))


@contextmanager
def up(environment):
    """raises: AssertionError where it does not end by itself at SIGINT"""
    ports = {name: free_port() for name in ("dagster", "mlflow", "service")}
    options = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    command = [*DEVOPSGPT, "up", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if "Ctrl-C" in line:
                    break
            with dg.DagsterInstance.get() as instance:
                yield Up(instance, f"http://127.0.0.1:{ports['service']}")
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"after {DEADLINE_S:.0f} s still not: {what}"
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_edited_chapter_reaches_the_service_and_a_deploy_of_the_site_does_not(
    sites, tmp_path, monkeypatch
):
    (sites, folder), home = sites, tmp_path / "home"
    environment = os.environ | {
        "DEVOPSGPT_HOME": str(home),
        "DEVOPSGPT_BOOKS": str(folder),
        "DEVOPSGPT_OBSERVE_CRON": "* * * * *",
        "DEVOPSGPT_SERVING_POLL_INTERVAL_S": "1",
    }
    # By hand, once, and with so little training that the next one is better.
    first = environment | {"DEVOPSGPT_TRAINING": f"sample {SMALL} max_steps=4"}
    told = subprocess.run(
        [*DEVOPSGPT, "run"], env=first, capture_output=True, text=True, timeout=300
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "answered by devopsgpt version 1" in told.stdout
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))

    with up(environment | {"DEVOPSGPT_TRAINING": f"sample {SMALL} max_steps=120"}) as service:
        started = time.time()
        wait_until(
            lambda: service.observations(started) >= 1, "the schedule has looked at the books"
        )
        assert service.made(started) == []
        assert service.answered_by() == 1

        for site in sites.values():
            site.log.clear()
        edited = time.time()
        chapter = sites["local-book"].chapter("on-the-lamp")
        chapter.inside = re.sub(
            "seen 2 times", "seen twice, and once more in the fog", chapter.inside
        )
        wait_until(lambda: "champion" in service.made(edited), "a new champion was decided on")
        assert service.made(edited) == FOLLOWS
        wait_until(lambda: service.answered_by() == 2, "the service answers with version 2")
        sent = {request.path for request in sites["local-book"].log if request.status == 200}
        assert sent == {"/robots.txt", "/local-book/on-the-lamp/"}
        assert 200 not in sites["other-book"].statuses()

        deployed = time.time()
        for site in sites.values():
            site.deploy = "2222222"
        wait_until(
            lambda: service.observations(deployed) >= 2, "the schedule has looked twice more"
        )
        # the pages' bytes are new, and were fetched
        assert 200 in sites["local-book"].statuses()[-20:]
        time.sleep(25)  # two ticks of the sensor
        assert service.made(deployed) == []
        assert service.answered_by() == 2
        assert service.failed_runs() == []
