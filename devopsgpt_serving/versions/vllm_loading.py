"""How versions are loaded where vLLM computes: it is pointed at the folder and waited for.

The follower fetches and verifies a version as ever; then the link `<cache>/vllm` is turned to it.
The vLLM beside us (deploy/vllm/follow.sh) sees the link turn and starts with that folder, under the
version's key as its model name. Once it lists that name, the version is served.
"""

import http.client
import math
import os
import queue
import time
from collections.abc import Callable
from pathlib import Path

from devopsgpt_model.atomic import replace_symlink
from devopsgpt_model.checkpoint import check_shapes, check_vocabulary, read_config
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.engine.vllm_client import Call, Events, RemoteModel, read_scores
from devopsgpt_serving.engine.vllm_scheduler import VllmModel
from devopsgpt_serving.errors import VllmUnavailable
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import check_tokenizer

LINK = "vllm"
FIRST_TOKEN_TIMEOUT_S = 60.0  # of a server that may still capture its graphs


def vllm_loader(
    url: str, api_key: str, rows: int, cache: Path, start_s: float
) -> Callable[[Version, Path], VllmModel]:
    """How versions are loaded: vLLM is pointed at the folder and waited for. start_s: how long it
    may take"""

    def load(version: Version, folder: Path) -> VllmModel:
        tokenizer = Tokenizer.load(folder / "model")
        config = read_config(folder / "model")
        check_shapes(folder / "model", config)
        check_vocabulary(folder / "model", config, tokenizer)
        check_tokenizer(tokenizer)
        block_size = config.block_size
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
        return VllmModel(version, remote, tokenizer)

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
    call = Call(remote, asked, events, FIRST_TOKEN_TIMEOUT_S)
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
