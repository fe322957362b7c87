"""onnxruntime with dynamic int8, on a graph of GPT-2 with a KV cache; one of the peers of
benchmarks/serving.py."""

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._serving_answer import Answer
from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.gpt import GPT


class Cached(nn.Module):
    """The network with the past as inputs and outputs, which is what a graph without state
    needs."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """idx: (B, t); past: keys and values of each layer in turn, (B, H, P, D). returns: logits
        (B, 1, V), present"""
        held, count = past[0].size(2), idx.size(1)
        positions = torch.arange(held, held + count)
        seen = torch.arange(held + count) <= positions[:, None]
        x = self.model.wte(idx) + self.model.wpe(positions)
        present: list[Tensor] = []
        for block, keys, values in zip(self.model.h, past[::2], past[1::2], strict=True):
            q, k, v = block.attn._heads(block.ln_1(x))
            present += [torch.cat((keys, k), 2), torch.cat((values, v), 2)]
            scores = (q @ present[-2].transpose(2, 3)) * q.size(3) ** -0.5
            x = x + block.attn._merge(scores.masked_fill(~seen, -1e9).softmax(-1) @ present[-1])
            x = x + block.mlp(block.ln_2(x))
        return self.model.logits(self.model.ln_f(x[:, -1:])), *present


def onnxruntime(folder: Path, _: str) -> Answer:
    """onnxruntime on two threads; keys and values stay in its own values between steps."""
    import onnxruntime as ort

    model = load_checkpoint(folder, "cpu").model.eval()
    path = folder.parent / "int8.onnx"
    if not path.exists():
        write_onnx(model, path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    config, names = model.config, [one.name for one in session.get_inputs()][1:]
    outputs = [one.name for one in session.get_outputs()]

    def step(idx: np.ndarray, past: list[ort.OrtValue]) -> tuple[np.ndarray, list[ort.OrtValue]]:
        feeds = dict(zip(names, past, strict=True)) | {"idx": ort.OrtValue.ortvalue_from_numpy(idx)}
        logits, *present = session.run_with_ort_values(outputs, feeds)
        return logits.numpy().argmax(-1), present

    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        nothing = np.zeros((len(prompts), config.n_head, 0, config.head_dim), np.float32)
        began = time.perf_counter()
        idx, past = step(
            np.array(prompts), [ort.OrtValue.ortvalue_from_numpy(nothing) for _ in names]
        )
        first = time.perf_counter() - began
        for _ in range(new - 1):
            idx, past = step(idx, past)
        return [new] * len(prompts), first

    return answer


def write_onnx(model: GPT, path: Path) -> None:
    """The graph with 8-bit matrices, a scale for each output."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    config, plain = model.config, path.with_name("float32.onnx")
    past = [torch.zeros(2, config.n_head, 3, config.head_dim) for _ in range(2 * config.n_layer)]
    before = [f"past{i}" for i in range(len(past))]
    after = [f"present{i}" for i in range(len(past))]
    axes = {"idx": {0: "B", 1: "t"}, "logits": {0: "B"}} | {
        name: {0: "B", 2: "P"} for name in before + after
    }
    with warnings.catch_warnings(), torch.no_grad():
        # the tracing exporter is on its way out and says so at length
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Cached(model),
            (torch.zeros(2, 2, dtype=torch.int64), *past),
            str(plain),
            input_names=["idx", *before],
            output_names=["logits", *after],
            dynamic_axes=axes,
            dynamo=False,
        )
    quantize_dynamic(
        plain, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )
