"""Many callers at once: nothing lost, nothing mixed up, whatever the registry does meanwhile."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from devopsgpt_model.generate import generate_text
from devopsgpt_model.tokenizer import Tokenizer
from serving.conftest import make_model, until
from serving.test_process import process, status

MAX_TOKENS = 24


@dataclass
class Seen:
    answers: int = 0
    refused: int = 0
    wrong: list = field(default_factory=list)
    versions: set = field(default_factory=set)
    health_s: list = field(default_factory=list)
    memory: list = field(default_factory=list)


def expected_texts():
    """What each version must answer to each caller; version n has the weights of seed n."""
    return {
        (version, prompt, seed): generate_text(
            make_model(int(version)),
            Tokenizer.plain_bytes(),
            prompt,
            MAX_TOKENS,
            temperature=1.0,
            seed=seed,
        )
        for version in "12"
        for prompt in (f"caller {number}" for number in range(5))
        for seed in range(7)
    }


async def one_answer(client, url, model, number):
    """(status, version, prompt, seed, text) of one request, streamed or not by turns."""
    prompt, seed, stream = f"caller {number % 5}", number % 7, number % 2 == 0
    body = {
        "model": model,
        "prompt": prompt,
        "seed": seed,
        "max_tokens": MAX_TOKENS,
        "stream": stream,
    }
    answer = await client.post(f"{url}/v1/completions", json=body)
    if answer.status_code != 200:
        return answer.status_code, None, prompt, seed, answer.text
    if stream:
        events = [
            json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")
        ]
        assert answer.text.endswith("data: [DONE]\n\n")
        text = "".join(event["choices"][0]["text"] for event in events)
    else:
        text = answer.json()["choices"][0]["text"]
    return 200, answer.headers["x-model-version"], prompt, seed, text


async def load(url, model, clients, seconds, seen):
    expected, until_then = expected_texts(), time.monotonic() + seconds

    async def caller(client, number):
        while time.monotonic() < until_then:
            code, version, prompt, seed, text = await one_answer(client, url, model, number)
            number += clients
            if code == 429:
                seen.refused += 1
                await asyncio.sleep(0.05)
            elif code != 200 or text != expected[version, prompt, seed]:
                seen.wrong.append((code, version, prompt, seed, text))
            else:
                seen.answers += 1
                seen.versions.add(version)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        await asyncio.gather(*(caller(client, number) for number in range(clients)))


# a process of its own, so that the load's own work in Python does not count as the service's
PROBE = """
import http.client, sys, time
port, seconds = int(sys.argv[1]), float(sys.argv[2])
end = time.monotonic() + seconds
while time.monotonic() < end:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/api/healthz")
    assert connection.getresponse().status == 200
    print(time.monotonic() - began)
    connection.close()
    time.sleep(0.05)
"""


@contextmanager
def health_probe(url, seconds, seen):
    command = [sys.executable, "-c", PROBE, url.rpartition(":")[2], str(seconds)]
    probe = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield
    out, _ = probe.communicate(timeout=30)
    assert probe.returncode == 0
    seen.health_s = [float(line) for line in out.split()]


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


async def load_while_the_alias_moves(shelf, url, clients, seconds, moves, seen, pid):
    async def move():
        await asyncio.sleep(seconds / (moves + 1) / 2)
        seen.memory.append(resident_bytes(pid))
        for turn in range(moves):
            await asyncio.sleep(seconds / (moves + 1))
            await asyncio.to_thread(shelf.promote, "21"[turn % 2])
            seen.memory.append(resident_bytes(pid))

    await asyncio.gather(load(url, shelf.name, clients, seconds, seen), move())
    seen.memory.append(resident_bytes(pid))


def run_load(shelf, tmp_path, clients, seconds, moves, **settings):
    for seed in (1, 2):
        shelf.publish(seed=seed, champion=seed == 1)
    seen = Seen()
    with process(tmp_path, tracking_uri=shelf.url, model_name=shelf.name, **settings) as (
        running,
        url,
        log,
    ):
        until(lambda: status(f"{url}/api/readyz") == 200, say=log.read_text)
        with health_probe(url, seconds, seen):
            asyncio.run(
                load_while_the_alias_moves(shelf, url, clients, seconds, moves, seen, running.pid)
            )
    assert seen.wrong == []
    assert seen.versions == ({"1", "2"} if moves else {"1"})
    return seen


@pytest.mark.slow
def test_answers_are_whole_and_from_one_version_while_the_alias_moves(shelf, tmp_path):
    seen = run_load(shelf, tmp_path, clients=8, seconds=3, moves=2)
    assert seen.answers > 20


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("moves", [0, 5])
def test_a_minute_of_twice_what_fits(shelf, tmp_path, capsys, moves):
    seen = run_load(
        shelf,
        tmp_path,
        clients=64,
        seconds=60,
        moves=moves,
        max_queue=24,
        max_batch_size=8,
        max_prompts=4,
    )
    slowest = statistics.quantiles(seen.health_s, n=100)[98]
    # both versions were loaded once
    settled, last = (seen.memory[at] / 1e6 for at in (min(moves, 2), -1))
    with capsys.disabled():
        print(
            f"\nalias moved {moves} times: {seen.answers} answers, {seen.refused} refused, healthz "
            "p99 "
            f"{slowest * 1000:.0f} ms of {len(seen.health_s)}, memory {settled:.0f} -> {last:.0f} "
            "MB"
        )
    assert seen.refused > 0
    assert last < settled * 1.05
    assert slowest < 0.05
