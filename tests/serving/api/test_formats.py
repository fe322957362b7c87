"""int8 and bfloat16 over HTTP: the contract does not change with the number format."""

import json
import threading

import pytest
import torch

from devopsgpt_serving.compute.precision import available
from serving.conftest import serving


@pytest.fixture(scope="module", params=["int8", "bfloat16"])
def reduced(request, common_shelf, tmp_path_factory):
    if request.param not in available(torch.device("cpu")):
        pytest.skip(f"this processor has no {request.param}")
    where = dict(
        tracking_uri=common_shelf.url, model_name=common_shelf.name, precision=request.param
    )
    with serving(tmp_path_factory.mktemp(request.param), **where, max_batch_size=4) as service:
        service.wait_for("1")
        yield service


def test_a_seed_gives_the_same_text_alone_among_others_and_streamed(reduced):
    asked = dict(max_tokens=40, seed=7, temperature=0.9, top_k=40)
    alone = reduced.complete("hello", **asked).json()
    assert alone["usage"] == {"prompt_tokens": 5, "completion_tokens": 40, "total_tokens": 45}
    assert alone["choices"][0]["finish_reason"] == "length"
    others = [
        threading.Thread(
            target=reduced.complete, args=("other " * count,), kwargs={"max_tokens": 60}
        )
        for count in range(1, 6)
    ]
    for other in others:
        other.start()
    answer = reduced.complete("hello", **asked, stream=True)
    events = [
        json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")
    ]
    assert "".join(event["choices"][0]["text"] for event in events) == alone["choices"][0]["text"]
    for other in others:
        other.join()
    assert reduced.complete("hello", **asked).json()["choices"] == alone["choices"]


def test_scores_stay_near_float32s(reduced, service):
    asked = dict(max_tokens=0, echo=True, logprobs=1)
    prompt = "the pager rings at night"
    scores = reduced.complete(prompt, **asked).json()["choices"][0]["logprobs"]["token_logprobs"]
    expected = service.complete(prompt, **asked).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert scores[0] is None
    assert scores[1:] == pytest.approx(expected[1:], abs=0.15)
    assert scores[1:] != expected[1:]
