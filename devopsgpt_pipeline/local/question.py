"""Asking the service what a person with curl would ask."""

import json
import time
from typing import Any

import requests

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers

READY_DEADLINE_S = 60.0


class NoAnswer(RuntimeError):
    """A service that has no model, or refuses the question."""


def ask(home: Home, tracking_uri: str, question: str) -> None:
    """Start the service, put a question to it over HTTP, print the answer and the version that gave
    it."""
    server = servers.serving_server(home, servers.free_port(), tracking_uri)
    with servers.running([server]):
        wait_for_model(server.url)
        body = {"prompt": question, "max_token_len": 60}
        print(
            f"\n$ curl {server.url}/api/generate -H 'content-type: application/json' -d "
            f"'{json.dumps(body)}'"
        )
        response = requests.post(f"{server.url}/api/generate", json=body, timeout=60)
        if not response.ok:
            raise NoAnswer(f"the service answered {response.status_code}: {response.text}")
        _print_answer(question, response.json())


def wait_for_model(url: str) -> None:
    """Wait until the service has loaded the champion. raises: NoAnswer with its reason after a
    minute"""
    deadline = time.monotonic() + READY_DEADLINE_S
    while not (response := requests.get(f"{url}/api/readyz", timeout=10)).ok:
        if time.monotonic() > deadline:
            raise NoAnswer(
                f"the service has no model after {READY_DEADLINE_S:.0f} s: {response.text}"
            )
        time.sleep(0.2)


def _print_answer(question: str, answer: dict[str, Any]) -> None:
    print(f"\n{question}{answer['completions'][0]['text']}\n")
    print(f"answered by {answer['model']} version {answer['version']}")
