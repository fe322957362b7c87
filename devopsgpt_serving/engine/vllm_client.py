"""A vLLM server beside this service, spoken to over its OpenAI routes.

Prompts go out as token ids and ids come back, so text, stop strings, limits and scores are made
here as they are for our own engine.
"""

import http.client
import json
import queue
import socket
import threading
import time
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from devopsgpt_serving.engine.sampling import TokenScore
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.errors import VllmUnavailable

CONNECT_TIMEOUT_S = 10.0
# as often as vLLM is asked whether it is there; readiness probes come every 2 s, for 2 s at most
WATCH_EVERY_S = 1.0
TOKEN_ID = "token_id:"


@dataclass(frozen=True)
class RemoteModel:
    """A model that a vLLM server computes. rows: sequences that it is given at a time"""

    url: str
    name: str
    rows: int
    block_size: int
    api_key: str = field(default="", repr=False)

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
    """One sequence on its way: a thread that reads vLLM's events into the scheduler's queue."""

    def __init__(
        self,
        remote: RemoteModel,
        sequence: Sequence,
        events: "Events",
        timeout_s: float,
    ) -> None:
        self._body = request_body(remote.name, sequence)
        self._sequence, self._events = sequence, events
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
            self._events.put((self._sequence, self, error))
        finally:
            self._connection.close()

    def _read_events(self, answer: http.client.HTTPResponse) -> None:
        if answer.status != 200:
            raise VllmUnavailable(
                f"vLLM answers {answer.status}: {answer.read(300).decode(errors='replace')}"
            )
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                self._events.put((self._sequence, self, json.loads(line[6:])))
        raise VllmUnavailable("vLLM's answer ended before it was finished")


Events = queue.SimpleQueue[tuple[Sequence, Call, dict[str, Any] | Exception]]


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
        "min_p": sampling.min_p,
        "min_tokens": sampling.min_tokens,
        "ignore_eos": sampling.ignore_eos,
        "stop_token_ids": sorted(sampling.stop_token_ids),
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
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
