"""Decoding by the engine with its thread, at 1, 8 and 32 sequences, and what a step is made of."""

import queue
import time

import torch

from benchmarks.gpu.rows import CUDA, milliseconds, row
from benchmarks.serving import make_tokenizer
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.compute.captured import CapturedRunner
from devopsgpt_serving.compute.runner import EagerRunner
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.engine.sequence import Failed, Sequence
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import warm_up

PROMPT, NEW, TURNS = (64, 128, 3) if CUDA else (16, 8, 1)
SHAPE = (
    GPTConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
    if CUDA
    else GPTConfig(vocab_size=50257, block_size=64, n_layer=2, n_head=2, n_embd=64)
)
GREEDY = Sampling(max_tokens=NEW, temperature=0.0)
DRAWN = Sampling(max_tokens=NEW, temperature=0.8, top_p=0.9, seed=1)


class Asking:
    """An engine with a model of random weights."""

    def __init__(self, rows: int) -> None:
        model = GPT(SHAPE).init_weights(1).eval()
        began = time.perf_counter()
        self.runner = (
            CapturedRunner(model.cuda(), rows, "bfloat16")
            if CUDA
            else EagerRunner(model, rows, "float32")
        )
        loaded = LocalModel(Version("m", "1", "", 0), self.runner, make_tokenizer())
        warm_up(loaded)
        row(f"{rows} rows, warm-up and capture", time.perf_counter() - began, "s")
        self.engine = Engine(max_running=rows, max_queue=rows, prefill_chunk=128)
        self.engine.start()
        self.engine.install(loaded)

    def texts(self, prompts: list[list[int]], how: Sampling) -> tuple[list[list[int]], float]:
        """The answers' ids, and tokens a second. raises: RuntimeError where the engine failed"""
        if (scheduler := self.engine.current) is None:
            raise RuntimeError("the engine has no model")
        reports: queue.Queue[object] = queue.Queue()
        began = time.perf_counter()
        asked = [Sequence(prompt, how, reports.put) for prompt in prompts]
        self.engine.submit(scheduler, asked)
        while not all(each.ended for each in asked):
            if isinstance(report := reports.get(timeout=60), Failed):
                raise RuntimeError(f"the engine failed: {report.error}")
        answers = [each.tokens for each in asked]
        return answers, sum(map(len, answers)) / (time.perf_counter() - began)


def decoding() -> None:
    """Tokens a second, whether texts depend on their company, and the parts of a step."""
    for rows in (8, 32) if CUDA else (8,):
        asking = Asking(rows)
        for count in [count for count in (1, 8, 32) if count <= rows]:
            for name, how in (("greedy", GREEDY), ("top_p 0.9", DRAWN)):
                speeds = [asking.texts(prompts(count, turn), how)[1] for turn in range(TURNS)]
                row(f"{rows} rows, {count} sequences, {name}", max(speeds), "tokens/s")
        same_text(asking, rows)
        asking.engine.stop()
        step_of(asking.runner, rows)


def prompts(count: int, seed: int) -> list[list[int]]:
    """Random ids, so that no prompt begins as another."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[list[int]] = torch.randint(50_000, (count, PROMPT), generator=generator).tolist()
    return drawn


def same_text(asking: Asking, rows: int) -> None:
    """The same prompts together, again and alone."""
    asked = prompts(rows, 99)
    together, again = (asking.texts(asked, DRAWN)[0] for _ in range(2))
    alone = [asking.texts([prompt], DRAWN)[0][0] for prompt in asked[:8]]
    same = sum(map(list.__eq__, together, again))
    row(f"{rows} rows, texts that are the same again", float(same), f"of {rows}")
    same = sum(map(list.__eq__, together, alone))
    row(f"{rows} rows, texts that are the same alone", float(same), "of 8")


def step_of(runner: EagerRunner, rows: int) -> None:
    """What a step and a piece of a prompt take, without the engine."""
    with torch.inference_mode():
        one = milliseconds(lambda: runner.decode([1], [PROMPT]), 50)
        row(f"{rows} rows, a step", one, "ms")
        read = milliseconds(lambda: runner.decode([1], [PROMPT]).argmax(1).tolist(), 50)
        row(f"{rows} rows, a step whose token is read", read, "ms")
        piece = milliseconds(lambda: runner.prefill(0, list(range(PROMPT)), 0, every=False), 20)
        row(f"{rows} rows, a prompt of {PROMPT}", piece, "ms")
