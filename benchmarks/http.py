"""What HTTP costs: tokens/s of a GPT-2 124M of random weights, streamed by the service, against its
engine alone.

    python -m benchmarks.http --precisions int8 --sequences 1,8 --rounds 5

Engine and service live in processes of their own and take turns, so that a machine that drifts
drifts for both. A 64-token prompt, 128 new tokens, greedy; the client reads every stream to its
end, on the same two cores.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import queue
import socket
import statistics
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.sequence import Failed, Finished, Report, Sequence
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.loading import loader

GPT2 = GPTConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
VERSION, ALIAS = Version("gpt2", "1", "models:/random", 0), "champion"
PROMPT_TOKENS, NEW_TOKENS, ROWS = 64, 128, 8
REST_S = 0.3  # threads of OpenMP go on spinning for 0.2 s

Ask = Callable[[int], float]
"""Sequences at once -> seconds until the last has ended."""


def main() -> None:
    """Print tokens/s of both, and what is left over HTTP."""
    options = _options()
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place)
        fill_cache(cache)
        for precision in options.precisions:
            with (
                engine_process(cache, precision) as alone,
                service_process(cache, precision) as over_http,
            ):
                for count in options.sequences:
                    report(
                        precision,
                        count,
                        take_turns({"engine": alone.ask, "HTTP": over_http.ask}, count, options),
                    )


def take_turns(
    engines: dict[str, Ask], count: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Tokens/s by name, one a round."""
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for turn, (name, ask) in itertools.product(range(options.rounds + 1), engines.items()):
        seconds = ask(count)
        time.sleep(REST_S)
        if turn > 0:  # the first computes the prompts, the others find them in their rows
            speeds[name].append(count * NEW_TOKENS / seconds)
    return speeds


def report(precision: str, count: int, speeds: dict[str, list[float]]) -> None:
    """One line; the ratio is the median of those of the rounds."""
    ratios = [http / engine for engine, http in zip(speeds["engine"], speeds["HTTP"], strict=True)]
    engine, http = (statistics.median(speeds[name]) for name in ("engine", "HTTP"))
    print(
        f"{precision:9} {count} at once: engine alone {engine:5.0f} tokens/s, streamed over HTTP "
        f"{http:5.0f}, "
        f"{statistics.median(ratios):.3f} of it (rounds {min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )


class engine_process:
    """Our engine in a process of its own, without any HTTP."""

    def __init__(self, cache: Path, precision: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.line, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_engine, args=(cache, precision, theirs), daemon=True)

    def __enter__(self) -> "engine_process":
        self.process.start()
        self.line.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self.line.send(0)
        self.process.join()

    def ask(self, count: int) -> float:
        """Seconds until the last of `count` sequences has ended."""
        self.line.send(count)
        seconds: float = self.line.recv()
        return seconds


def _engine(cache: Path, precision: str, line: Connection) -> None:
    folder = VersionCache(cache, 10**12).verified(VERSION)
    if folder is None:
        raise RuntimeError(f"no version in {cache}")
    engine = Engine(max_running=ROWS, max_queue=0, prefill_chunk=128)
    engine.start()
    engine.install(loader("cpu", precision, ROWS)(VERSION, folder))
    line.send(None)
    while count := line.recv():
        began = time.perf_counter()
        _answer(engine, prompts(count))
        line.send(time.perf_counter() - began)
    engine.stop()


def _answer(engine: Engine, asked: list[list[int]]) -> None:
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    sampling = Sampling(max_tokens=NEW_TOKENS, temperature=0.0)
    sequences = [Sequence(prompt, sampling, reports.put) for prompt in asked]
    scheduler = engine.current
    if scheduler is None:
        raise RuntimeError("no model is installed")
    engine.submit(scheduler, sequences)
    running = len(sequences)
    while running:
        said = reports.get()
        if isinstance(said, Failed):
            raise said.error
        running -= isinstance(said, Finished)
    _check([len(sequence.tokens) for sequence in sequences])


class service_process:
    """The service as it is deployed, serving the version that its cache remembers; its registry
    does not answer."""

    def __init__(self, cache: Path, precision: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = {
            "port": self.port,
            "cache_dir": cache,
            "precision": precision,
            "max_batch_size": ROWS,
            "tracking_uri": "http://127.0.0.1:9",
            "poll_interval_s": 3600,
            "model_name": VERSION.name,
            "log_level": "warning",
        }
        self.environment = {
            f"DEVOPSGPT_SERVING_{name.upper()}": str(value) for name, value in settings.items()
        }

    def __enter__(self) -> "service_process":
        command = [sys.executable, "-m", "devopsgpt_serving"]
        self.process = subprocess.Popen(command, env=os.environ | self.environment)
        deadline = time.monotonic() + 60
        while b'"ready":true' not in self._get_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the service did not become ready")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def _get_ready(self) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(
                    b"GET /api/readyz HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n"
                )
                return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return b""

    def ask(self, count: int) -> float:
        """Seconds until the last of `count` streams has been read."""
        made: list[int] = []

        def read(prompt: list[int]) -> None:
            made.append(self._stream(prompt))

        readers = [threading.Thread(target=read, args=(prompt,)) for prompt in prompts(count)]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        seconds = time.perf_counter() - began
        if len(made) != count:
            raise RuntimeError(f"{count - len(made)} of {count} streams failed")
        _check(made)
        return seconds

    def _stream(self, prompt: list[int]) -> int:
        """returns: tokens that the stream says it brought"""
        fields = {
            "model": VERSION.name,
            "prompt": prompt,
            "max_tokens": NEW_TOKENS,
            "temperature": 0,
        }
        body = json.dumps(
            fields | {"stream": True, "stream_options": {"include_usage": True}}
        ).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: local\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = b""
            while b"data: [DONE]" not in answer[-64:]:
                piece = connection.recv(65536)
                if not piece:
                    raise RuntimeError(f"a stream ended early: {answer[-300:]!r}")
                answer += piece
        if answer.count(b"\ndata: {") < NEW_TOKENS:
            raise RuntimeError("tokens came in fewer events than there are tokens")
        return int(answer.rpartition(b'"completion_tokens":')[2].split(b",")[0])


def prompts(count: int) -> list[list[int]]:
    """As many prompts of random ids."""
    generator = torch.Generator().manual_seed(5)
    ids: list[list[int]] = torch.randint(
        256, 50_000, (count, PROMPT_TOKENS), generator=generator
    ).tolist()
    return ids


def fill_cache(cache: Path, tokenizer: Tokenizer | None = None) -> None:
    """The model as a verified version, remembered as the one that was served last."""
    versions = VersionCache(cache, 10**12)
    versions.prepare()
    with versions.staging() as staging:
        save_checkpoint(staging / "checkpoint", _model(), tokenizer or _tokenizer(), {})
        (staging / "checkpoint").resolve().rename(staging / "model")
        (staging / "checkpoint").unlink()
        files = {
            f"model/{path.name}": {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
            }
            for path in (staging / "model").iterdir()
        }
        (staging / "manifest.json").write_text(json.dumps({"files": files}))
        versions.keep(staging, VERSION)
    versions.remember(VERSION, ALIAS)


def _model() -> GPT:
    model = GPT(GPT2).init_weights(1)
    with torch.no_grad():
        model.wte.weight[GPT2.vocab_size - 1] = 0.0  # end of text is never the likeliest
    return model


def _tokenizer() -> Tokenizer:
    """As many tokens as GPT-2 has: bytes, pairs of letters, pairs of those; each is a piece of text
    of its own."""
    singles = [bytes([byte]) for byte in range(256)]
    pairs = [bytes(pair) for pair in itertools.product(string.ascii_letters.encode(), repeat=2)]
    fours = (first + second for first, second in itertools.product(pairs, repeat=2))
    every = [
        *singles,
        *pairs,
        *itertools.islice(fours, GPT2.vocab_size - 1 - len(singles) - len(pairs)),
    ]
    return Tokenizer("gpt2", {token: rank for rank, token in enumerate(every)})


def _check(made: list[int]) -> None:
    if made != [NEW_TOKENS] * len(made):
        raise RuntimeError(f"{made} tokens were made where {NEW_TOKENS} each were asked for")


def _options() -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--precisions", type=several, default=["int8", "float32"])
    parser.add_argument(
        "--sequences", type=lambda text: [int(one) for one in text.split(",")], default=[1, ROWS]
    )
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
