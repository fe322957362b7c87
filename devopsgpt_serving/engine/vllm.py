"""The engine setting `vllm`: the same lanes and routes, the arithmetic in a vLLM server beside this
service.

The alias watch stays here. A new version is fetched and verified as ever, then the link
`<cache>/vllm` is turned to it; the vLLM beside us (deploy/vllm/follow.sh) sees the link turn and
starts with that folder, under the version's key as its model name. Once it lists that name, the
version is served. Prompts go out as token ids and ids come back, so text, stop strings, limits and
scores are made here as they are for our own engine.
"""

import asyncio
import http.client
import json
import math
import os
import queue
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from devopsgpt_model.atomic import replace_symlink
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.runner import Runner
from devopsgpt_serving.engine.engine import Stopping
from devopsgpt_serving.engine.lane import Lane, LoadedModel, Observers, Row
from devopsgpt_serving.engine.sampling import Sampling, TokenScore
from devopsgpt_serving.engine.sequence import Progress, Scored, Sequence
from devopsgpt_serving.engine.text_stream import TextStream
from devopsgpt_serving.versions.cache import Version

LINK = "vllm"
WAIT_S = 0.005  # for the next token, before newcomers are looked for again
CONNECT_TIMEOUT_S = 10.0
FIRST_TOKEN_TIMEOUT_S = 60.0  # of a server that may still capture its graphs
# as often as vLLM is asked whether it is there; readiness probes come every 2 s, for 2 s at most
WATCH_EVERY_S = 1.0
TOKEN_ID = "token_id:"


class VllmUnavailable(ConnectionError):
    """A vLLM server that does not answer, or not sensibly."""


@dataclass(frozen=True)
class RemoteModel:
    """What a lane must know of a model that is computed elsewhere."""

    url: str
    name: str
    rows: int
    block_size: int
    api_key: str = field(default="", repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection of its own: closing it is how vLLM is told to stop."""
        parts = urllib.parse.urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return kind(parts.hostname or "", parts.port, timeout=timeout_s)

    @property
    def headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Content-Type": "application/json"} | key

    def listed(self, timeout_s: float = CONNECT_TIMEOUT_S) -> list[str]:
        """Names that the server answers to. raises: VllmUnavailable"""
        connection = self.connect(timeout_s)
        try:
            connection.request("GET", "/v1/models", headers=self.headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise VllmUnavailable(f"vLLM at {self.url} answers {answer.status} to /v1/models")
            return [str(card["id"]) for card in json.loads(answer.read())["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise VllmUnavailable(
                f"vLLM at {self.url} does not answer as it should: {error!r:.200}"
            ) from error
        finally:
            connection.close()


def vllm_loader(
    url: str, api_key: str, rows: int, cache: Path, start_s: float
) -> Callable[[Version, Path], LoadedModel]:
    """How versions are loaded: vLLM is pointed at the folder and waited for. start_s: how long it
    may take"""

    def load(version: Version, folder: Path) -> LoadedModel:
        tokenizer = Tokenizer.load(folder / "model")
        block_size = int(json.loads((folder / "model" / "config.json").read_text())["n_positions"])
        remote = RemoteModel(url, version.key, rows, block_size, api_key)
        link = cache / LINK
        before = os.readlink(link) if link.is_symlink() else None
        replace_symlink(link, f"{version.key}/model")
        try:
            wait_until_listed(remote, start_s)
            generate_once(remote, tokenizer.eot_id)
        except VllmUnavailable:
            if before is not None:
                replace_symlink(link, before)  # back to what worked
            raise
        # a VllmLane asks only for its shape; there is no arithmetic here
        return LoadedModel(version, cast(Runner, remote), tokenizer)

    return load


def wait_until_listed(remote: RemoteModel, seconds: float) -> None:
    """raises: VllmUnavailable where the server does not list the model in time, with what it said
    last"""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if remote.name in (names := remote.listed()):
                return
            problem = f"it serves {', '.join(names) or 'nothing'}"
        except VllmUnavailable as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise VllmUnavailable(
                f"vLLM does not serve {remote.name} after {seconds:.0f} s: {problem}"
            )
        time.sleep(0.2)


def generate_once(remote: RemoteModel, token: int) -> None:
    """Have the model go on from a token, as ours are warmed up. raises: VllmUnavailable where that
    fails"""
    events: Events = queue.SimpleQueue()
    asked = Sequence([token], Sampling(max_tokens=1, temperature=0.0), lambda report: None)
    call = Call(remote, request_body(remote.name, asked), Row(0), events, FIRST_TOKEN_TIMEOUT_S)
    try:
        _, _, event = events.get(timeout=FIRST_TOKEN_TIMEOUT_S)
        if isinstance(event, Exception):
            raise event
        scores = [
            score
            for choice in event["choices"]
            for score in read_scores(choice.get("logprobs"), None)
        ]
        if not all(score.logprob is not None and math.isfinite(score.logprob) for score in scores):
            raise ValueError(f"no finite log-probability in {scores}")
    except (
        OSError,
        http.client.HTTPException,
        LookupError,
        TypeError,
        ValueError,
        queue.Empty,
    ) as error:
        raise VllmUnavailable(f"{remote.name} generates nothing at vLLM: {error!r:.200}") from error
    finally:
        call.close()


class Watch:
    """Whether vLLM serves a model now, asked at most once a second however many want to know."""

    def __init__(self, remote: RemoteModel) -> None:
        self._remote = remote
        self._problem: str | None = None
        self._next = 0.0
        self._asking = threading.Lock()

    def problem(self) -> str | None:
        """Why it does not; None where it does. Who comes while another asks hears what was known
        before."""
        if time.monotonic() >= self._next and self._asking.acquire(blocking=False):
            try:
                self._problem = self._look()
                self._next = time.monotonic() + WATCH_EVERY_S
            finally:
                self._asking.release()
        return self._problem

    def _look(self) -> str | None:
        try:
            names = self._remote.listed(WATCH_EVERY_S)
        except VllmUnavailable as error:
            # a vLLM under load may be silent for a second: that is no reason to send its callers
            # elsewhere
            return self._problem if isinstance(error.__cause__, TimeoutError) else str(error)
        if self._remote.name in names:
            return None
        return (
            f"vLLM serves {', '.join(names) or 'nothing'}, not {self._remote.name}; it may be "
            "starting"
        )


class Call:
    """One sequence on its way: a thread that reads vLLM's events into the lane's queue."""

    def __init__(
        self,
        remote: RemoteModel,
        body: dict[str, Any],
        row: Row,
        events: "Events",
        timeout_s: float,
    ) -> None:
        self._body, self._row, self._events = body, row, events
        self._headers = remote.headers
        self._connection = remote.connect(timeout_s)
        self._socket: socket.socket | None = None
        self._closed = False
        threading.Thread(target=self._read, name="vllm-call", daemon=True).start()

    def close(self) -> None:
        """Hang up: vLLM stops computing, the thread ends."""
        self._closed = True
        if self._socket is not None:
            with suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        try:
            self._connection.connect()
            # kept here: the connection lets go of it where the server closes after its answer
            self._socket = self._connection.sock
            if self._closed:
                return
            self._connection.request(
                "POST", "/v1/completions", json.dumps(self._body), self._headers
            )
            with self._connection.getresponse() as answer:
                self._read_events(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._events.put((self._row, self, error))
        finally:
            self._connection.close()

    def _read_events(self, answer: http.client.HTTPResponse) -> None:
        if answer.status != 200:
            raise VllmUnavailable(
                f"vLLM answers {answer.status}: {answer.read(300).decode(errors='replace')}"
            )
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                self._events.put((self._row, self, json.loads(line[6:])))
        raise VllmUnavailable("vLLM's answer ended before it was finished")


Events = queue.SimpleQueue[tuple[Row, Call, dict[str, Any] | Exception]]


class VllmLane(Lane):
    """Rows are places at vLLM; stepping hands out what came back."""

    def __init__(self, loaded: LoadedModel, prefill_chunk: int, observers: Observers) -> None:
        super().__init__(loaded, prefill_chunk, observers)
        self.remote = cast(RemoteModel, loaded.runner)
        self.calls: dict[int, Call] = {}
        self.unscored: dict[int, int] = {}
        self.events: Events = queue.SimpleQueue()
        self.watch = Watch(self.remote)

    async def trouble(self) -> str | None:
        return await asyncio.to_thread(self.watch.problem)

    def step(self) -> None:
        """Send who waits, then hand out what has come, waiting a moment for it."""
        self._drop()
        self._seat()
        with suppress(queue.Empty):
            self._take(*self.events.get(timeout=WAIT_S))
            while True:
                self._take(*self.events.get_nowait())

    def _seat(self) -> None:
        super()._seat()
        for row in list(self.prefilling):
            if row.sequence is not None:
                sequence = row.sequence
                left = min(sequence.deadline - time.monotonic(), threading.TIMEOUT_MAX)
                self.unscored[row.index] = (
                    len(sequence.prompt) if sequence.sampling.echo_logprobs else 0
                )
                if self.unscored[row.index]:
                    sequence.echo = TextStream(self.loaded.tokenizer)
                body = request_body(self.remote.name, sequence)
                self.calls[row.index] = Call(self.remote, body, row, self.events, max(0.1, left))
        self.prefilling.clear()

    def _take(self, row: Row, call: Call, event: dict[str, Any] | Exception) -> None:
        """One event of a row; what comes for a sequence that has ended is dropped."""
        sequence = row.sequence
        if self.calls.get(row.index) is not call or sequence is None:
            return
        try:
            if isinstance(event, Exception):
                raise event
            if "error" in event:
                raise VllmUnavailable(f"vLLM failed: {event['error']}")
            for choice in event["choices"]:
                self._take_choice(row, sequence, choice)
        except (OSError, http.client.HTTPException, LookupError, TypeError, ValueError) as error:
            # told like a service that stops: the caller may try again, or elsewhere
            problem = (
                error
                if isinstance(error, VllmUnavailable)
                else f"vLLM did not finish: {error!r:.200}"
            )
            self._give_up(sequence, Stopping(str(problem)))
            self._free(row)

    def _take_choice(self, row: Row, sequence: Sequence, choice: dict[str, Any]) -> None:
        for score in read_scores(choice.get("logprobs"), sequence.sampling.logprobs):
            if self.unscored[row.index]:
                self.unscored[row.index] -= 1
                sequence.report(
                    Progress("", (Scored(score, len(sequence.echo.text), of_prompt=True),))
                )
                sequence.echo.push(score.token)
            else:
                self._advance_by(row, sequence, score)
            if sequence.ended:
                return
        if choice.get("finish_reason"):
            self._end(row, sequence, "stop" if choice["finish_reason"] == "stop" else "length")

    def _advance_by(self, row: Row, sequence: Sequence, score: TokenScore) -> None:
        """A token that vLLM drew: report it, and see whether the answer ends."""
        if score.token == self.loaded.tokenizer.eot_id:
            return self._end(row, sequence, "stop")
        sequence.take(score.token, None if sequence.sampling.logprobs is None else score)
        self.observers.token(sequence)
        if sequence.stream.stopped:
            self._end(row, sequence, "stop")
        elif len(sequence.tokens) >= min(
            sequence.sampling.max_tokens, self.remote.block_size - len(sequence.prompt)
        ):
            self._end(row, sequence, "length")

    def _free(self, row: Row) -> None:
        if call := self.calls.pop(row.index, None):
            call.close()
        super()._free(row)


def request_body(model: str, sequence: Sequence) -> dict[str, Any]:
    """vLLM's /v1/completions for one sequence: token ids out, one scored id a token back."""
    sampling = sequence.sampling
    return {
        "model": model,
        "prompt": sequence.prompt,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": max(sampling.top_p, 1e-6),
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "echo": sampling.echo_logprobs,
        "logprobs": sampling.logprobs or 0,  # 0 scores the drawn token alone, and so names it
        "return_tokens_as_token_ids": True,
        "stream": True,
    }


def read_scores(logprobs: dict[str, Any] | None, top: int | None) -> list[TokenScore]:
    """Scored tokens of a chunk. raises: LookupError, ValueError for one of another form"""
    if not logprobs:
        return []
    scores = []
    for name, value, likeliest in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        pairs = sorted(
            ((_id(each), float(score)) for each, score in (likeliest or {}).items()),
            key=lambda one: -one[1],
        )
        scores.append(
            TokenScore(_id(name), None if value is None else float(value), tuple(pairs[: top or 0]))
        )
    return scores


def _id(name: str) -> int:
    if not name.startswith(TOKEN_ID):
        raise ValueError(f"vLLM should name tokens {TOKEN_ID}..., got {name[:40]!r}")
    return int(name.removeprefix(TOKEN_ID))
