"""How the service leaves: a stream that is cut off is told, a dead engine is seen."""

import json
import signal
import time
from contextlib import ExitStack

import httpx
from serving.conftest import until
from serving.test_process import process, status


def test_a_stream_that_is_cut_off_is_told_so(common_shelf, tmp_path, tried):
    streams = 8  # each takes half a second on a quiet machine

    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, max_batch_size=1)
    with process(tmp_path, **where, drain_s=1) as (running, url, log):
        until(lambda: status(f"{url}/api/readyz") == 200, say=log.read_text)
        body = {"model": common_shelf.name, "prompt": "x", "max_tokens": 120, "n": 8}
        with ExitStack() as stack:
            opened = [
                stack.enter_context(
                    httpx.stream(
                        "POST", f"{url}/v1/completions", json=body | {"stream": True}, timeout=30
                    )
                )
                for _ in range(streams)
            ]
            readers = [answer.iter_lines() for answer in opened]
            first = [next(reader) for reader in readers[:1]]
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            ends = [[line for line in reader if line] for reader in readers]
        took = time.monotonic() - began
        assert running.wait(20) == 0
    assert first
    cut = 0
    for lines in ends:
        assert lines[-1] == "data: [DONE]"
        error = json.loads(lines[-2].removeprefix("data: ")).get("error")
        if error:
            assert error["code"] == "draining"
            cut += 1
    assert cut >= 1
    tried(
        f"{streams} streams that outlast the drain of 1 s",
        f"{cut} ended with an error event and [DONE] after {took:.1f} s",
    )
