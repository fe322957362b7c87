"""llama.cpp, a peer of benchmarks/serving.py."""

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks._serving_answer import MOST_SEQUENCES, Answer
from devopsgpt_model.checkpoint import load_checkpoint


def llama_cpp(folder: Path, precision: str) -> Answer:
    """llama.cpp through its C interface, all sequences in one llama_decode a step."""
    from devopsgpt_pipeline.registry.gguf_file import write_gguf

    path = folder.parent / f"{precision}.gguf"
    if not path.exists():
        write_gguf(load_checkpoint(folder, "cpu"), path, precision)
    peer = LlamaCpp(path, load_checkpoint(folder, "cpu").tokenizer.vocab_size)
    return peer.answer


class LlamaCpp:
    """A model in llama.cpp. raises: RuntimeError for a file that it does not load"""

    def __init__(self, path: Path, vocab_size: int) -> None:
        import llama_cpp

        self.llama, self.vocab_size = llama_cpp, vocab_size
        llama_cpp.llama_backend_init()
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = 256 * 32, 2048, 512
        settings.n_seq_max = MOST_SEQUENCES
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        defaults = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), defaults)
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.model or not self.context:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def answer(self, prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        """See Answer."""
        memory = self.llama.llama_get_memory(self.context)
        self.llama.llama_memory_clear(memory, True)
        began = time.perf_counter()
        ids = self._decode(
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        )
        first, length = time.perf_counter() - began, len(prompts[0])
        for step in range(new - 1):
            ids = self._decode(
                (token, length + step, sequence, True) for sequence, token in enumerate(ids)
            )
        return [new] * len(prompts), first

    def _decode(self, placed: Iterator[tuple[int, int, int, bool]]) -> list[int]:
        """The likeliest next tokens.

        placed: (token, position, sequence, whether its logits are asked for)
        """
        asked, count, batch = [], 0, self.batch
        for count, (token, position, sequence, wanted) in enumerate(placed, 1):
            at = count - 1
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.logits[at] = wanted
            batch.seq_id[at][0] = sequence
            asked += [at] if wanted else []
        batch.n_tokens = count
        if self.llama.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        logits = (self.llama.llama_get_logits_ith(self.context, at) for at in asked)
        rows = (np.ctypeslib.as_array(each, (self.vocab_size,)) for each in logits)
        return [int(row.argmax()) for row in rows]
