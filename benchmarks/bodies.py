"""How long the largest body that is allowed keeps the service busy, whatever its shape; the goal is
100 ms.

    python -m benchmarks.bodies

A real service of a GPT-2 of random weights answers each shape a few times; the median time until
its answer is printed, the longest first, and the service's processor time, in steps of 10 ms.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from benchmarks.http import fill_cache, service_process
from devopsgpt_model.tokenizer import Tokenizer, TokenizerError

PATHS = ("/v1/completions", "/api/generate")
LARGEST_BYTES = 1_000_000  # max_body_bytes unless set


def _listed(item: str, before: str = '{"model": "gpt2", "prompt": [', after: str = "]}") -> bytes:
    room = LARGEST_BYTES - len(before) - len(after)
    times = room // (len(item.encode()) + 1)
    return (before + ",".join([item] * times) + after).encode()


def _fields(count: int, value: str = "1") -> str:
    return ",".join(f'"a{number}": {value}' for number in range(count))


def _text(text: str) -> bytes:
    body = '{"model": "gpt2", "prompt": "%s"}'
    return (body % (text * ((LARGEST_BYTES - len(body)) // len(text.encode())))).encode()


SHAPES: dict[str, Callable[[], bytes]] = {
    "empty prompts": lambda: _listed("[]"),
    "empty texts": lambda: _listed('""'),
    "short texts": lambda: _listed('"a"'),
    "negative ids": lambda: _listed("-1"),
    "broken ids": lambda: _listed("1.5"),
    "ids": lambda: _listed("1"),
    "whole floats": lambda: _listed("1.0"),
    "prompts of one id": lambda: _listed("[1]"),
    "prompts of nothing": lambda: _listed("null"),
    "lists of lists of lists": lambda: _listed("[[]]"),
    "objects": lambda: _listed("{}"),
    "long numbers": lambda: _listed("1" * 4000),
    "one text of letters": lambda: _text("abcdefghij"),
    "one text of blanks": lambda: _text(" "),
    "one text of emoji": lambda: _text("\N{GRINNING FACE}"),
    "one text of escapes": lambda: _text("\\u00e9"),
    "stop strings": lambda: _listed('"s"', '{"model": "gpt2", "prompt": "x", "stop": ['),
    "wrong stop strings": lambda: _listed("1", '{"model": "gpt2", "prompt": "x", "stop": ['),
    "unknown fields": lambda: b'{"model": "gpt2", %s}' % _fields(70_000).encode(),
    "unknown fields below": lambda: (
        b'{"model": "gpt2", "stream": true, "stream_options": {%s}}' % _fields(70_000).encode()
    ),
    "biases": lambda: b'{"model": "gpt2", "logit_bias": {%s}}' % _fields(70_000).encode(),
    "one number as a list": lambda: _listed("1", '{"model": "gpt2", "temperature": ['),
    "brackets without end": lambda: b"[" * LARGEST_BYTES,
    "braces without end": lambda: b'{"a":' * (LARGEST_BYTES // 5),
    "no JSON": lambda: b"x" * LARGEST_BYTES,
}


def ask(
    client: httpx.Client, process: psutil.Process, path: str, body: bytes
) -> tuple[float, float, int]:
    """(seconds until the answer, processor seconds of the service, status) of one request."""
    before, began = process.cpu_times(), time.perf_counter()
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    seconds, after = time.perf_counter() - began, process.cpu_times()
    busy = after.user + after.system - before.user - before.system
    return seconds, busy, answer.status_code


def main() -> None:
    """Print a table, the slowest shape first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    try:
        tokenizer = Tokenizer.gpt2()
    except TokenizerError as error:
        print(f"with a made-up tokenizer of GPT-2's size: {error}")
        tokenizer = None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        fill_cache(Path(folder), tokenizer)
        with (
            service_process(Path(folder), "float32") as service,
            httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=60) as client,
        ):
            process = psutil.Process(service.process.pid)
            for path, (name, make) in itertools.product(PATHS, SHAPES.items()):
                body = make()
                asked = [ask(client, process, path, body) for _ in range(rounds)]
                seconds, busy, _ = (
                    statistics.median(column) for column in zip(*asked, strict=True)
                )
                rows.append((seconds, busy, asked[0][2], path, name))
    for seconds, busy, status, path, name in sorted(rows, reverse=True):
        print(f"{seconds * 1000:6.0f} ms {busy * 1000:6.0f} ms  {status}  {path:17} {name}")
    slowest = {"slowest_ms": max(row[0] for row in rows), "busiest_ms": max(row[1] for row in rows)}
    print(json.dumps({name: round(1000 * value) for name, value in slowest.items()}))


if __name__ == "__main__":
    main()
