"""Encoding in processes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets.encode import WAITING_BATCHES, Encoders, encode_documents

TEXTS = [
    "",
    "plain",
    "naïve café — “quoted”",
    "<|endoftext|> is text",
    "\n\n    indented()\n" * 20,
    "日本語 🚀",
]


@pytest.fixture(scope="module")
def encoders(bpe_tokenizer):
    with Encoders(bpe_tokenizer, processes=2) as encoders:
        yield encoders


def test_processes_give_the_ids_of_one_text_after_the_other(encoders, bpe_tokenizer):
    batches = [TEXTS[i:] + TEXTS[:i] for i in range(len(TEXTS))]
    found = list(encoders.encode(batches))
    for texts, encoded in zip(batches, found, strict=True):
        one_by_one = [[*bpe_tokenizer.encode(text), bpe_tokenizer.eot_id] for text in texts]
        assert encoded.tokens.dtype == np.uint16
        assert encoded.tokens.tolist() == [one for ids in one_by_one for one in ids]
        assert encoded.sizes.tolist() == [
            [len(ids), len(text.encode())] for ids, text in zip(one_by_one, texts, strict=True)
        ]


def test_no_more_batches_are_read_than_the_processes_can_work_on(encoders):
    read = []

    def batches():
        for number in range(40):
            read.append(number)
            yield [f"text {number}"]

    ahead = [len(read) - done for done, _ in enumerate(encoders.encode(batches()), 1)]
    assert max(ahead) == WAITING_BATCHES * encoders.processes
    assert len(read) == 40


def test_an_empty_batch_is_nothing():
    encoded = encode_documents(Tokenizer.plain_bytes(), [])
    assert (encoded.tokens.size, encoded.sizes.shape) == (0, (0, 2))


def test_the_processes_end_with_a_killed_parent():
    code = (
        "import time\n"
        "from devopsgpt_model.tokenizer import Tokenizer\n"
        "from devopsgpt_pipeline.datasets.encode import Encoders\n"
        "encoders = Encoders(Tokenizer.plain_bytes(), processes=2)\n"
        "list(encoders.encode([['a'], ['b'], ['c']]))\n"
        "print(*encoders._pool._processes, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        processes = [int(pid) for pid in parent.stdout.readline().split()]
        assert processes
        assert all(alive(pid) for pid in processes)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while any(alive(pid) for pid in processes) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in processes)


def alive(pid):
    """Running, and not a zombie that nobody waited for."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
