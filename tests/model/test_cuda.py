"""What only a GPU can show. `python -m pytest -m gpu tests/model`"""

import dataclasses

import numpy as np
import pytest
import torch
from test_train import CONFIG, job  # noqa: F401  a fixture

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.ranks import Ranks
from devopsgpt_model.saver import Saver
from devopsgpt_model.step import TrainingStep
from devopsgpt_model.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]
ON_GPU = dataclasses.replace(CONFIG, device="cuda", dtype="bfloat16", grad_accum_steps=2)


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_step_and_a_save_never_wait_for_the_gpu(compiled):
    device = torch.device("cuda")
    model = GPT(GPTConfig(vocab_size=257, block_size=32, n_layer=2, n_head=2, n_embd=64, dropout=0.1)).to(device)
    config = dataclasses.replace(ON_GPU, compile=compiled)
    step = TrainingStep(model, config, device, torch.bfloat16, Ranks())
    data = ShuffledWindows(np.arange(2000, dtype=np.uint16) % 257, 32, 4, seed=1)
    with Saver(device) as saver:
        for number in range(2):  # the first ones compile, and get their memory
            step(number, data)
            saver.save(((name, each.detach()) for name, each in model.named_parameters()), lambda copy: None)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(2, 5):
                step(number, data)
                saver.save(((name, each.detach()) for name, each in model.named_parameters()), lambda copy: None)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_what_is_saved_from_a_gpu_is_the_moment_of_the_save():
    weights, written = torch.zeros(10_000_000, device="cuda"), []
    with Saver(weights.device) as saver:
        for _ in range(3):
            saver.save([("w", weights)], lambda copy: written.append(float(copy["w"].mean())))
            weights += 1
    assert written == [0.0, 1.0, 2.0]


def test_a_run_on_a_gpu_learns_what_one_on_a_cpu_learns(job, tmp_path):  # noqa: F811
    on_cpu = dataclasses.replace(job, config=dataclasses.replace(CONFIG, dropout=0.0))
    on_gpu = dataclasses.replace(
        job, out=tmp_path / "gpu", config=dataclasses.replace(ON_GPU, dropout=0.0, grad_accum_steps=1)
    )
    expected, measured = train(on_cpu), train(on_gpu)
    assert measured["val_loss"] == pytest.approx(expected["val_loss"], rel=0.02)
