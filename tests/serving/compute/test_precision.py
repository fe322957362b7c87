"""Number formats on the CPU: what they may cost in accuracy on a trained model, and which one is
chosen."""

import copy

import pytest
import torch

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.compute.native.processor import instructions_for
from devopsgpt_serving.compute.native.runner import NativeRunner, able
from devopsgpt_serving.compute.precision import (
    Int8Linear,
    choose_precision,
    of_torch,
    pack,
    packable,
)
from devopsgpt_serving.compute.runner import EagerRunner

CPU = torch.device("cpu")
SENTENCE = (
    b"An error budget is what a service may fail; spend it on change, and stop when it is gone. "
)
T = 64

pytestmark = pytest.mark.skipif(not packable(CPU), reason="this torch has no oneDNN")


def windows(seed):
    """Text that has to be learned and cannot be known by heart: the sentence with some bytes
    replaced."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.tensor(list(SENTENCE * 3))
    starts = torch.randint(len(text) - T, (8, 1), generator=generator)
    idx = text[starts + torch.arange(T)]
    noise = torch.randint(97, 123, idx.shape, generator=generator)
    return torch.where(torch.rand(idx.shape, generator=generator) < 0.1, noise, idx)


@pytest.fixture(scope="module")
def trained():
    """A model that was trained until its logits are peaked, as those of random weights are not."""
    config = GPTConfig(vocab_size=257, block_size=T, n_layer=2, n_head=4, n_embd=64)
    model = GPT(config).init_weights(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for a second one
    for step in range(120):
        idx = windows(step)
        _, loss = model(idx[:, :-1].contiguous(), idx[:, 1:].contiguous())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.set_num_threads(threads)
    assert loss.item() < 2.0, "not trained enough to judge by"
    return model.eval()


@torch.inference_mode()
def logprobs(model, idx, precision=None, runner=EagerRunner):
    if precision is None:
        return torch.log_softmax(model(idx)[0], -1)
    runner = runner(copy.deepcopy(model), 2, precision)
    half = T // 2  # in two pieces, so that keys and values come from the cache too
    rows = [
        torch.cat(
            [
                runner.prefill(1, ids[:half], 0, every=True),
                runner.prefill(1, ids[half:], half, every=True),
            ]
        )
        for ids in idx.tolist()
    ]
    return torch.log_softmax(torch.stack(rows).float(), -1)


def val_loss(scores, idx):
    return -scores[:, :-1].gather(2, idx[:, 1:, None]).mean().item()


@pytest.mark.parametrize("runner", [EagerRunner, NativeRunner])
@pytest.mark.parametrize(
    ("precision", "bound"), [("float32", 1e-4), ("bfloat16", 0.15), ("int8", 0.05)]
)
def test_log_probabilities_stay_near_float32(trained, precision, bound, runner):
    if not (
        able(trained.config, precision, CPU)
        if runner is NativeRunner
        else precision in of_torch(CPU)
    ):
        pytest.skip(f"this processor has no {precision}")
    idx = windows(1000)
    expected = logprobs(trained, idx)
    got = logprobs(trained, idx, precision, runner)
    assert (got - expected).abs().max() <= bound
    assert val_loss(got, idx) == pytest.approx(val_loss(expected, idx), rel=0.005)


def test_int8_of_the_narrower_instructions_stays_near_float32_too(trained, monkeypatch):
    if instructions_for("float32") is None:
        pytest.skip("this processor has not even AVX2")
    monkeypatch.setattr(
        "devopsgpt_serving.compute.native.runner.instructions_for", lambda _: "avx2"
    )
    idx = windows(1000)
    expected, got = logprobs(trained, idx), logprobs(trained, idx, "int8", NativeRunner)
    assert (got - expected).abs().max() <= 0.05
    assert val_loss(got, idx) == pytest.approx(val_loss(expected, idx), rel=0.005)


needs_torchs_int8 = pytest.mark.skipif(
    "int8" not in of_torch(CPU), reason="torch's int8 overflows without VNNI"
)


@needs_torchs_int8
def test_an_int8_layer_multiplies_by_its_rounded_weights():
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(40, 24, generator=generator), torch.randn(40, generator=generator)
    x = torch.randn(2, 5, 24, generator=generator) * torch.logspace(-3, 3, 5)[:, None]
    x[0, 0] = 0.0
    scale = weight.abs().amax(1, keepdim=True) / 127
    expected = torch.nn.functional.linear(x, (weight / scale).round() * scale, bias)
    error = (Int8Linear(weight, bias)(x) - expected).abs() / x.abs().amax(
        -1, keepdim=True
    ).clamp_min(1e-6)
    # 24 products, each off by at most half of 1/32512 of the largest, times weights to 3
    assert error.max() < 2e-3
    assert torch.equal(Int8Linear(weight, bias)(x)[0, 0], bias)


@needs_torchs_int8
def test_an_int8_row_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(4)
    layer = Int8Linear(torch.randn(48, 32, generator=generator), None)
    x = torch.randn(9, 32, generator=generator)
    assert torch.equal(layer(x)[4:5], layer(x[4:5]))


def test_packing_leaves_the_vocabularys_padding_out(trained):
    model = copy.deepcopy(trained)
    assert model.config.padded_vocab_size > model.config.vocab_size
    head = pack(model, "float32")
    assert head(torch.zeros(3, model.config.n_embd)).shape == (3, model.config.vocab_size)


@pytest.mark.parametrize("codes", [True, False])
@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_auto_takes_int8_then_bfloat16_then_float32(monkeypatch, bfloat16, vnni, codes):
    has = {"avx512_bf16": bfloat16, "avx512_vnni": vnni}
    flags = {name for name, there in has.items() if there}
    monkeypatch.setattr("devopsgpt_serving.compute.precision.cpu_instructions", lambda: flags)
    monkeypatch.setattr(
        "devopsgpt_serving.compute.precision.has_code", lambda wanted: codes and wanted == "int8"
    )
    expected = "int8" if vnni or codes else "bfloat16" if bfloat16 else "float32"
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("float32", CPU) == "float32"


def test_auto_takes_float32_where_torch_has_no_layouts(monkeypatch):
    monkeypatch.setattr("devopsgpt_serving.compute.precision.packable", lambda device: False)
    monkeypatch.setattr("devopsgpt_serving.compute.precision.has_code", lambda wanted: False)
    assert choose_precision("auto", CPU) == "float32"


@pytest.mark.parametrize(("able", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_on_cuda_and_never_int8(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    monkeypatch.setattr("devopsgpt_serving.compute.precision.has_code", lambda wanted: True)
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_a_format_that_is_not_to_be_had_is_refused():
    with pytest.raises(
        ValueError, match=r"precision int8 is not available on this meta, which has float32"
    ):
        choose_precision("int8", torch.device("meta"))
