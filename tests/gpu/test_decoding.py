"""What only a GPU can show of the service's decoding; needs torch alone. `python -m pytest -m gpu tests/gpu`"""

import copy

import pytest
import torch

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.captured import CapturedRunner
from devopsgpt_serving.runner import EagerRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]


def test_a_replayed_graph_computes_what_eager_steps_do():
    config = GPTConfig(vocab_size=50257, block_size=256, n_layer=4, n_head=8, n_embd=512)
    model = GPT(config).init_weights(1).eval().cuda()
    captured, eager = CapturedRunner(copy.deepcopy(model), 4, "bfloat16"), EagerRunner(model, 4, "bfloat16")
    prompts = [[1, 2, 3], list(range(100)), [10]]
    for row, prompt in enumerate(prompts):
        for runner in (captured, eager):
            runner.prefill(row, prompt, 0, every=False)
    starts = [len(prompt) for prompt in prompts]
    for step in range(40):  # past a power of two in length
        ids = [step, 20 + step, 40 + step]
        torch.testing.assert_close(captured.decode(ids, starts), eager.decode(ids, starts), atol=0.05, rtol=0)
        starts = [start + 1 for start in starts]
