"""The decode kernel against torch's attention; tests/gpu has it on a GPU."""

import json

import pytest

from model.kernels.interpreting import interpret, needs_triton

BEGIN = """
import json, torch
from torch.nn import functional as F
from devopsgpt_model.kernels.decoding import SPLIT, attend

def case(starts, places, heads=2, width=16, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows = len(starts)
    qkv = torch.randn(rows, 3 * heads * width, generator=generator).to(dtype)
    keys, values = (
        torch.randn(rows, heads, places, width, generator=generator).to(dtype) for _ in range(2)
    )
    return qkv, keys, values, torch.tensor(starts)

def plain(qkv, keys, values, starts):
    rows, heads, places, width = keys.shape
    q, k, v = qkv.view(rows, 3, heads, 1, width).unbind(1)
    keys, values, at = keys.clone(), values.clone(), torch.arange(rows)
    keys[at, :, starts], values[at, :, starts] = k[:, :, 0], v[:, :, 0]
    mask = (torch.arange(places) <= starts[:, None])[:, None, None]
    y = F.scaled_dot_product_attention(q.float(), keys.float(), values.float(), attn_mask=mask)
    return y.reshape(rows, -1), keys, values
"""
AGREES = """
for starts, places, kind in [([0, 5, 127, 128, 129, 299], 300, "float32"), ([7], 64, "float32"),
                             ([63, 0], 64, "bfloat16"), ([200, 255, 130], 256, "bfloat16")]:
    qkv, keys, values, at = case(starts, places, dtype=getattr(torch, kind))
    expected, new_keys, new_values = plain(qkv, keys, values, at)
    off = (attend(qkv, keys, values, at).float() - expected).abs().max().item()
    written = torch.equal(keys, new_keys) and torch.equal(values, new_values)
    print(json.dumps([kind, off, written]))
"""
ALONE = """
qkv, keys, values, at = case([3, 150, 40, 255], 256)
keys[:, :, :, 0][:, :, 200:] += 50  # what a row does not hold, and others do, is not looked at
padded = attend(
    torch.cat([qkv, qkv[:1]]), torch.cat([keys, keys[:1]]), torch.cat([values, values[:1]]),
    torch.cat([at, torch.tensor([-1])])
)
together = attend(qkv, keys.clone(), values.clone(), at)
for row in range(4):
    one = slice(row, row + 1)
    alone = attend(qkv[one], keys[one].clone(), values[one].clone(), at[one])
    beyond = keys[one].clone()
    beyond[:, :, int(at[row]) :] = float("nan")
    unseen = attend(qkv[one], beyond, values[one].clone(), at[one])
    print(json.dumps([torch.equal(alone, together[one]), torch.equal(unseen, alone)]))
print(json.dumps([torch.equal(padded[:4], together), not padded[4].any()]))
"""


@needs_triton
def test_the_kernel_attends_and_writes_as_torch_does():
    lines = [json.loads(line) for line in interpret(BEGIN + AGREES).splitlines()]
    assert [kind for kind, *_ in lines] == ["float32", "float32", "bfloat16", "bfloat16"]
    for kind, off, written in lines:
        assert off == pytest.approx(0, abs=2e-6 if kind == "float32" else 1e-2)
        assert written


@needs_triton
def test_a_rows_numbers_are_its_own_to_the_bit():
    """Whatever other rows hold, however many there are, and whatever lies behind what it holds."""
    lines = [json.loads(line) for line in interpret(BEGIN + ALONE).splitlines()]
    assert lines == [[True, True]] * 5
