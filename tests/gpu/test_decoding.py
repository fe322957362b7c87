"""What only a GPU can show of decoding; needs torch, numpy and tiktoken. `python -m pytest -m gpu
tests/gpu`"""

import copy
import queue

import pytest
import torch

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.captured import CapturedRunner
from devopsgpt_serving.compute.runner import EagerRunner
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.engine.sequence import Failed, Sequence
from devopsgpt_serving.version import Version

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]


def test_a_replayed_graph_computes_what_eager_steps_do():
    config = GPTConfig(vocab_size=50257, block_size=256, n_layer=4, n_head=8, n_embd=512)
    model = GPT(config).init_weights(1).eval().cuda()
    captured, eager = (
        CapturedRunner(copy.deepcopy(model), 4, "bfloat16"),
        EagerRunner(model, 4, "bfloat16"),
    )
    prompts = [[1, 2, 3], list(range(100)), [10]]
    for row, prompt in enumerate(prompts):
        for runner in (captured, eager):
            runner.prefill(row, prompt, 0, every=False)
    starts = [len(prompt) for prompt in prompts]
    for step in range(40):  # past a power of two in length
        ids = [step, 20 + step, 40 + step]
        torch.testing.assert_close(
            captured.decode(ids, starts), eager.decode(ids, starts), atol=0.05, rtol=0
        )
        starts = [start + 1 for start in starts]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has one GPU or none")
def test_a_graph_of_the_second_gpu_computes_what_eager_steps_do():
    config = GPTConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=64)
    for number in (0, 1):  # torch keeps the stream of the first capture
        model = GPT(config).init_weights(1).eval().to(f"cuda:{number}")
        captured = CapturedRunner(copy.deepcopy(model), 2, "bfloat16")
        eager = EagerRunner(model, 2, "bfloat16")
        for step in range(5):
            torch.testing.assert_close(
                captured.decode([step, 9], [step, step]),
                eager.decode([step, 9], [step, step]),
                atol=0.05,
                rtol=0,
            )


@pytest.mark.parametrize("rows", [8, 32])
def test_a_text_is_the_same_alone_in_company_and_again(rows):
    config = GPTConfig(vocab_size=257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
    engine = Engine(max_running=rows, max_queue=rows, prefill_chunk=128)
    engine.start()
    runner = CapturedRunner(GPT(config).init_weights(1).eval().cuda(), rows, "bfloat16")
    engine.install(LocalModel(Version("m", "1", "", 0), runner, Tokenizer.plain_bytes()))
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randint(256, (rows, 64), generator=generator).tolist()

    def ask(prompts):
        ends = queue.Queue()
        asked = [Sequence(prompt, Sampling(max_tokens=64, seed=1), ends.put) for prompt in prompts]
        engine.submit(engine.current, asked)
        while not all(sequence.ended for sequence in asked):
            assert not getattr(ends.get(timeout=60), "error", None)
        assert not [end for end in ends.queue if isinstance(end, Failed)]
        return [sequence.tokens for sequence in asked]

    try:
        together = ask(prompts)
        assert ask(prompts) == together  # of each prompt all but a token is known now
        assert [ask([prompt])[0] for prompt in prompts[::8]] == together[::8]
    finally:
        engine.stop()


@pytest.mark.parametrize("known", [1, 63, 128, 199])
def test_a_prompt_gives_the_same_numbers_however_much_of_it_is_known(known):
    config = GPTConfig(vocab_size=257, block_size=1024, n_layer=4, n_head=12, n_embd=768)
    runner = CapturedRunner(GPT(config).init_weights(1).eval().cuda(), 2, "bfloat16")
    prompt = [token % 256 for token in range(200)]
    whole = runner.prefill(0, prompt, 0, every=False)
    runner.copy_prefix(0, 1, known)
    assert torch.equal(runner.prefill(1, prompt[known:], known, every=False), whole)
    for each in (*runner.cache.keys, *runner.cache.values):
        assert torch.equal(each[1], each[0])
