"""From a verified folder to a model that answers: load, lay out the cache, warm up, generate
once."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from devopsgpt_model.checkpoint import (
    CheckpointError,
    check_shapes,
    load_checkpoint,
    read_config,
)
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.device import choose_device
from devopsgpt_model.gpt import GPT
from devopsgpt_model.threads import keep_to_quota
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.captured import CapturedRunner
from devopsgpt_serving.compute.native.build import NotCompiled
from devopsgpt_serving.compute.native.runner import NativeRunner, able
from devopsgpt_serving.compute.precision import Precision, choose_precision, of_torch
from devopsgpt_serving.compute.runner import EagerRunner, Runner
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.memory import available_bytes, check_fits, needed_bytes

log = logging.getLogger(__name__)

# GPT-2's longest has 128; an answer of 4,096 tokens is kept whole
MAX_TOKEN_BYTES = 1000
PROBE = "The service waits: naïve 日本語 🚀,\n\t1,024 times."


def loader(device: str, precision: str, rows: int) -> Callable[[Version, Path], LocalModel]:
    """How versions are loaded by this service.

    precision: "auto" or a number format
    raises: ValueError for a device that is not there, or does not have the format
    """
    chosen = str(choose_device(device))
    format = choose_precision(precision, torch.device(chosen))
    keep_to_quota()  # before the threads that load and compute begin: they take the number over
    log.info(
        "computing",
        extra={"device": chosen, "precision": format, "threads": torch.get_num_threads()},
    )

    def load(version: Version, folder: Path) -> LocalModel:
        # OpenMP keeps a team of threads for each thread that ever computed. With more of them than
        # processors they sleep between any two operations instead of spinning, so the engine's own
        # must be the only one that stays.
        with ThreadPoolExecutor(1, "loading") as passing:
            return passing.submit(read, version, folder).result()

    def read(version: Version, folder: Path) -> LocalModel:
        config = read_config(folder / "model")
        check_shapes(folder / "model", config)  # what is estimated from it is then true
        check_fits(
            needed_on_host(config, folder / "model", rows, format, chosen), available_bytes()
        )
        checkpoint = load_checkpoint(folder / "model", chosen)
        check_numbers(checkpoint.model)
        check_tokenizer(checkpoint.tokenizer)
        loaded = LocalModel(
            version, choose_runner(checkpoint.model, rows, format), checkpoint.tokenizer
        )
        warm_up(loaded)
        return loaded

    return load


def choose_runner(model: GPT, rows: int, precision: Precision) -> Runner:
    """The fastest that computes this model in this number format here. Takes the model over."""
    device = model.wte.weight.device
    if able(model.config, precision, device):
        try:
            return NativeRunner(model, rows, precision)
        except NotCompiled as problem:
            log.warning(
                "no compiled code for this processor is here: half as fast as it could be",
                extra={
                    "problem": str(problem),
                    "remedy": "install g++, or run devopsgpt_serving/compute/native/build.py",
                },
            )
    if precision not in of_torch(device):
        log.warning(
            "only compiled code has this format here, and not for this shape: float32 is taken",
            extra={"precision": precision},
        )
        precision = "float32"
    return (CapturedRunner if device.type == "cuda" else EagerRunner)(model, rows, precision)


def needed_on_host(
    config: GPTConfig, model: Path, rows: int, precision: Precision, device: str
) -> int:
    """Bytes of this machine's memory that loading takes; a GPU's own refuses what is too much by
    itself."""
    on_host = torch.device(device).type == "cpu"
    halves = able(config, precision, torch.device(device)) and precision != "float32"
    return needed_bytes(
        config, model / "model.safetensors", rows if on_host else 0, 2 if halves else 4
    )


@torch.inference_mode()
def check_numbers(model: GPT) -> None:
    """raises: CheckpointError for a weight that is NaN or infinite, which may not show before some
    token or position comes up

    One pass: of GPT-2 124M it takes a tenth of the seconds that torch.isfinite takes.
    """
    for name, weight in model.named_parameters():
        if not all(torch.isfinite(end) for end in torch.aminmax(weight)):  # NaN wins both
            raise CheckpointError(f"tensor {name} has numbers that are NaN or infinite")


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """raises: CheckpointError for one that does not give a text back, or whose tokens are endless;
    TokenizerError"""
    if tokenizer.longest_token > MAX_TOKEN_BYTES:
        raise CheckpointError(
            f"a token may stand for at most {MAX_TOKEN_BYTES} bytes, one stands for "
            f"{tokenizer.longest_token}"
        )
    if (back := tokenizer.decode(tokenizer.encode(PROBE))) != PROBE:
        raise CheckpointError(f"the tokenizer gives {PROBE!r} back as {back!r:.100}")


def warm_up(loaded: LocalModel) -> None:
    """From text to text once, with every row. raises: CheckpointError for weights that yield no
    numbers"""
    runner, tokenizer = loaded.runner, loaded.tokenizer
    prompt = tokenizer.encode(PROBE)[: max(1, runner.block_size - 1)]
    logits = runner.prefill(0, prompt, 0, every=False)
    finite, answer = torch.isfinite(logits).all(), int(logits[0].argmax())
    if runner.block_size > 1:
        others = runner.rows - 1
        logits = runner.decode([answer] + [tokenizer.eot_id] * others, [len(prompt)] + [0] * others)
        finite &= torch.isfinite(logits).all()
    if not finite:
        raise CheckpointError(
            f"version {loaded.version.number}: the weights yield logits that are no numbers"
        )
    tokenizer.decode([answer, int(logits[0].argmax())])
