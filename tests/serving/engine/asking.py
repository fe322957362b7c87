"""Asking an engine without a service, and a runner that can be watched."""

import queue
import threading
import time

from devopsgpt_model.generate import stream_ids
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.runner import EagerRunner
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.engine.sequence import Failed, Finished, Sequence
from devopsgpt_serving.version import Version
from serving.conftest import make_model

TOKENIZER = Tokenizer.plain_bytes()


class CountingRunner:
    """Another runner, what it computed remembered; may be slowed down, made to fail or to hang."""

    def __init__(self, inner, delay_s=0.0):
        self.inner, self.delay_s, self.error = inner, delay_s, None
        self.rows, self.block_size, self.device = inner.rows, inner.block_size, inner.device
        self.copy_prefix, self.reuses_answers = inner.copy_prefix, inner.reuses_answers
        self.prefilled, self.decoded = [], []
        self.moves = threading.Event()
        self.moves.set()

    def prefill(self, row, ids, start, every):
        self.prefilled.append((row, start, len(ids)))
        return self.inner.prefill(row, ids, start, every)

    def decode(self, ids, starts, asked=None):
        if self.error:
            raise self.error
        self.moves.wait()
        time.sleep(self.delay_s)
        self.decoded.append(len(asked))
        return self.inner.decode(ids, starts, asked)


def load(version="1", seed=1, rows=4, **shape):
    runner = CountingRunner(EagerRunner(make_model(seed, **shape), rows))
    return LocalModel(Version("m", version, f"models:/{version}", 0), runner, TOKENIZER)


class Asked:
    def __init__(self, engine, prompt, scheduler=None, deadline=float("inf"), **sampling):
        self.reports = queue.Queue()
        ids = TOKENIZER.encode(prompt) if isinstance(prompt, str) else prompt
        settings = Sampling(**({"max_tokens": 20, "temperature": 0.8} | sampling))
        self.sequence = Sequence(ids, settings, self.reports.put, deadline)
        engine.submit(scheduler or engine.current, [self.sequence])

    def end(self):
        """(text, reason or error)"""
        text = ""
        while True:
            report = self.reports.get(timeout=20)
            if isinstance(report, Finished):
                return text, report.reason
            if isinstance(report, Failed):
                return text, report.error
            text += report.text

    @property
    def text(self):
        return self.end()[0]


def alone(prompt, seed=1, model_seed=1, **settings):
    ids = TOKENIZER.encode(prompt)
    settings = {"max_tokens": 20, "temperature": 0.8} | settings
    return TOKENIZER.decode(
        stream_ids(make_model(model_seed), ids, eot_id=256, seed=seed, **settings)
    )
