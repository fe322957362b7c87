"""Five minutes of mixed load over ten swaps of the version: nothing grows."""

import asyncio
import random
import statistics
import time

import httpx
import psutil
import pytest
from serving.conftest import until
from serving.test_process import process, status

from benchmarks.bodies import SHAPES

SECONDS, SWAPS, CLIENTS = 300, 10, 8
JSON = {"Content-Type": "application/json"}


async def one_request(client, model, number):
    """One of many kinds. returns: its status, 0 where we hung up"""
    draw = random.Random(number)
    body = {"model": model, "prompt": "x" * draw.randint(1, 60), "max_tokens": draw.randint(1, 40)}
    match number % 7:
        case 0:
            return (await client.post("/v1/completions", json=body | {"n": 2})).status_code
        case 1:
            return (await client.post("/v1/completions", json=body | {"stream": True})).status_code
        case 2:
            scored = {"logprobs": 5, "echo": True, "stop": ["zzz", "\n\n"]}
            return (await client.post("/v1/completions", json=body | scored)).status_code
        case 3:
            asked = {"prompt": body["prompt"], "max_token_len": 20, "iterations": 2}
            return (await client.post("/api/generate", json=asked)).status_code
        case 4:
            shape = SHAPES[draw.choice(sorted(SHAPES))]()
            return (await client.post("/v1/completions", content=shape, headers=JSON)).status_code
        case 5:
            asked = body | {"stream": True, "max_tokens": 60}
            async with client.stream("POST", "/v1/completions", json=asked) as answer:
                async for _ in answer.aiter_lines():
                    return 0
                return answer.status_code
        case _:
            path = draw.choice(["/api/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models"])
            return (await client.get(path)).status_code


async def mixed_load(url, shelf, watched):
    """returns: how often each status came, and what the process held, a look each 2 s"""
    ends, seen, looks = time.monotonic() + SECONDS, {}, []

    async def caller(client, number):
        while time.monotonic() < ends:
            code = await one_request(client, shelf.name, number)
            seen[code] = seen.get(code, 0) + 1
            number += CLIENTS

    async def swap():
        for seed in range(2, SWAPS + 2):
            await asyncio.sleep(SECONDS / (SWAPS + 1))
            await asyncio.to_thread(shelf.publish, None, seed)

    async def look():
        while time.monotonic() < ends:
            with watched.oneshot():
                held = watched.memory_info().rss, watched.num_threads(), watched.num_fds()
            looks.append(held)
            await asyncio.sleep(2)

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        callers = (caller(client, number) for number in range(CLIENTS))
        await asyncio.gather(*callers, swap(), look())
    return seen, looks


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_five_minutes_of_mixed_load_over_ten_swaps(shelf, tmp_path, tried):
    shelf.publish(seed=1)
    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    with process(tmp_path, **where, log_level="warning") as (running, url, log):
        until(lambda: status(f"{url}/api/readyz") == 200, say=log.read_text)
        watched = psutil.Process(running.pid)
        seen, looks = asyncio.run(mixed_load(url, shelf, watched))
        until(lambda: httpx.get(f"{url}/api/readyz").json()["version"] == str(SWAPS + 1))
        assert "Traceback" not in log.read_text()
    early, late = looks[len(looks) // 5 : len(looks) * 2 // 5], looks[-len(looks) // 5 :]
    before, after = (
        [statistics.median(column) for column in zip(*part, strict=True)] for part in (early, late)
    )
    tried(
        f"{SECONDS} s of mixed load over {SWAPS} swaps, {sum(seen.values()):,} requests",
        f"memory {before[0] / 1e6:.0f} -> {after[0] / 1e6:.0f} MB, threads {before[1]:.0f} -> "
        f"{after[1]:.0f}, descriptors {before[2]:.0f} -> {after[2]:.0f}; statuses {seen}",
    )
    # 404: a shape that is accepted asks for another model than this one
    assert set(seen) <= {0, 200, 400, 404, 422, 429}
    assert seen[200] > 500
    assert after[0] < before[0] * 1.2
    assert after[1] <= before[1] + 4
    assert after[2] <= before[2] + 10
