"""The C++ that computes a step: what it gives, that rows are alone in it, and what happens where it
is not compiled."""

import copy
import logging
import os
import queue
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from devopsgpt_model.checkpoint import CheckpointError
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.native import build, processor
from devopsgpt_serving.compute.native.build import NotCompiled
from devopsgpt_serving.compute.native.runner import NativeRunner
from devopsgpt_serving.compute.runner import EagerRunner
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import choose_runner, warm_up
from serving.conftest import BLOCK_SIZE, make_model

CPU = torch.device("cpu")
PROMPT = list(range(3, 90))

WIDEST = {
    precision: processor.instructions_for(precision)
    for precision in ("float32", "bfloat16", "int8")
}
KINDS = [
    (instructions, precision)
    for instructions, formats in build.INSTRUCTIONS.items()
    for precision in formats
]

kinds = pytest.mark.parametrize(("instructions", "precision"), KINDS, indirect=["instructions"])
needs_code = pytest.mark.skipif(
    WIDEST["float32"] is None, reason="this processor has neither AVX-512 nor AVX2"
)


@pytest.fixture
def instructions(request, monkeypatch):
    """The narrower ones are tried on a processor that has wider ones, too."""
    precision = request.node.callspec.params["precision"]
    if request.param != WIDEST[precision] and not (request.param == "avx2" and WIDEST["float32"]):
        pytest.skip(f"this processor has no {request.param}, or not with {precision}")
    monkeypatch.setattr(
        "devopsgpt_serving.compute.native.runner.instructions_for", lambda _: request.param
    )
    return request.param


def fill(runner, row, ids, chunk=1000):
    """Compute a prompt. returns: logits of every token"""
    chunks = [
        runner.prefill(row, ids[at : at + chunk], at, every=True)
        for at in range(0, len(ids), chunk)
    ]
    return torch.cat(chunks)


@pytest.mark.parametrize("precision", ["float32"])
@pytest.mark.parametrize("instructions", build.INSTRUCTIONS, indirect=True)
@pytest.mark.parametrize("n_head", [1, 2, 4, 8])
def test_every_width_of_head_gives_what_torch_does(n_head, instructions, precision):
    config = GPTConfig(vocab_size=300, block_size=100, n_layer=2, n_head=n_head, n_embd=128)
    model = GPT(config).init_weights(2).eval()
    eager, native = EagerRunner(copy.deepcopy(model), 2), NativeRunner(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            fill(native, 1, PROMPT), fill(eager, 1, PROMPT), atol=1e-5, rtol=0
        )
        got, expected = (
            native.decode([5, 6], [0, len(PROMPT)]),
            eager.decode([5, 6], [0, len(PROMPT)]),
        )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@kinds
def test_a_rows_numbers_are_the_same_in_any_company(instructions, precision):
    model, rows = make_model(3, n_embd=64), 30  # past two tiles of tokens
    together, alone = (
        NativeRunner(copy.deepcopy(model), rows, precision),
        NativeRunner(model, 1, precision),
    )
    lengths = [1 + 3 * row % BLOCK_SIZE for row in range(rows)]
    for row, length in enumerate(lengths):
        fill(together, row, PROMPT[:length])
    for count in (2, 7, rows):
        logits = together.decode(list(range(count)), lengths[:count])
        for row in range(count):
            fill(alone, 0, PROMPT[: lengths[row]])
            assert torch.equal(alone.decode([row], [lengths[row]])[0], logits[row]), (count, row)


@kinds
def test_rows_that_nobody_asks_for_are_left_alone(instructions, precision):
    runner = NativeRunner(make_model(3), 4, precision)
    for row in range(4):
        fill(runner, row, PROMPT[: 20 + row])
    starts = [20, 21, 22, 23]
    kept = [keys[[0, 2]].clone() for keys in runner.keys]
    some = runner.decode([1, 2, 3, 4], starts, asked=[1, 3])
    assert all(
        torch.equal(keys[[0, 2]], before) for keys, before in zip(runner.keys, kept, strict=True)
    )
    assert torch.equal(some, runner.decode([1, 2, 3, 4], starts)[[1, 3]])


@kinds
def test_a_prompt_in_chunks_is_the_whole_prompt(instructions, precision):
    runner = NativeRunner(make_model(4), 2, precision)
    assert torch.equal(fill(runner, 0, PROMPT), fill(runner, 1, PROMPT, chunk=7))


@kinds
def test_a_copied_beginning_is_the_computed_one(instructions, precision):
    runner = NativeRunner(make_model(5), 2, precision)
    whole = fill(runner, 0, PROMPT)
    fill(runner, 1, [200] * 90)
    runner.copy_prefix(0, 1, 41)
    assert torch.equal(runner.prefill(1, PROMPT[41:], 41, every=True), whole[41:])


@kinds
def test_weights_that_are_no_numbers_are_refused(instructions, precision):
    model = make_model(6)
    with torch.no_grad():
        model.h[1].mlp.c_fc.weight[5, 7] = float("nan")
    loaded = LocalModel(
        Version("m", "1", "", 0), NativeRunner(model, 2, precision), Tokenizer.plain_bytes()
    )
    with pytest.raises(CheckpointError, match="no numbers"):
        warm_up(loaded)


@needs_code
def test_a_seed_gives_the_same_text_in_any_company():
    tokenizer = Tokenizer.plain_bytes()
    engine = Engine(max_running=8, max_queue=8, prefill_chunk=16)
    engine.start()
    precision = "int8" if WIDEST["int8"] else "float32"
    engine.install(
        LocalModel(Version("m", "1", "", 0), NativeRunner(make_model(7), 8, precision), tokenizer)
    )

    def ask(jobs):
        ends, made = queue.Queue(), []
        for seed, prompt in jobs:
            settings = Sampling(max_tokens=20 + seed, temperature=0.9, top_p=0.9, seed=seed)
            made.append(Sequence(tokenizer.encode(prompt), settings, ends.put))
        engine.submit(engine.current, made)
        while not all(one.ended for one in made):
            assert not getattr(ends.get(timeout=20), "error", None)
        return [one.tokens for one in made]

    jobs = list(
        enumerate(["a", "a long prompt " * 6, "xyz", "b" * 40, "the same", "the same", "last"])
    )
    try:
        together = ask(jobs)
        assert together == [ask([job])[0] for job in jobs]
        assert len({len(tokens) for tokens in together}) == len(jobs)
    finally:
        engine.stop()


V4 = "avx512_f avx512_bw avx512_cd avx512_dq avx512_vl"
V3 = "avx2 bmi bmi2 f16c fma3 lzcnt"


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        (f"{V4} avx512_vnni", "int8", "avx512"),
        (f"{V4} {V3}", "int8", "avx2"),
        (V3, "bfloat16", None),
        ("sse2", "float32", None),
    ],
)
def test_the_widest_instructions_that_the_processor_has_are_taken(
    monkeypatch, flags, precision, expected
):
    has = dict.fromkeys(flags.split(), True) | {"amx_tile": False, "num_sockets": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert processor.instructions_for(precision) == expected


def test_torch_knows_the_names_that_are_asked_for():
    """A name that torch does not have would read as an instruction that no processor has."""
    if torch.cpu.get_capabilities()["architecture"] != "x86_64":
        pytest.skip("this processor is not an x86-64")
    asked = set().union(*processor.NEEDED.values(), *processor.NEEDED_FOR.values())
    assert asked | {"amx_bf16"} <= torch.cpu.get_capabilities().keys()


@needs_code
def test_loading_takes_it_where_it_is_to_be_had():
    assert isinstance(choose_runner(make_model(), 2, "float32"), NativeRunner)


def test_a_shape_that_it_does_not_know_is_left_to_torch():
    # heads of 8
    model = GPT(
        GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=4, n_embd=32)
    ).init_weights(1)
    assert type(choose_runner(model, 2, "float32")) is EagerRunner


def test_a_format_that_only_compiled_code_has_becomes_float32_for_such_a_shape(monkeypatch, caplog):
    monkeypatch.setattr("devopsgpt_serving.versions.loading.of_torch", lambda device: ["float32"])
    config = GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=4, n_embd=32)  # heads of 8
    model = GPT(config).init_weights(1).eval()
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2, 3]]))[0][0]
    with caplog.at_level(logging.WARNING):
        runner = choose_runner(model, 2, "int8")
    torch.testing.assert_close(
        runner.prefill(0, [1, 2, 3], 0, every=True), expected, atol=1e-5, rtol=0
    )
    assert [record.precision for record in caplog.records] == ["int8"]


@needs_code
def test_without_a_compiler_torch_computes_and_the_log_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(build, "COMPILED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        runner = choose_runner(make_model(), 2, "float32")
    assert type(runner) is EagerRunner
    assert runner.prefill(0, [1, 2, 3], 0, every=False).isfinite().all()
    assert [record.problem for record in caplog.records] == ["there is no g++ to compile it"]


@needs_code
def test_what_the_compiler_complains_of_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "COMPILED", tmp_path / "compiled")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    with pytest.raises(NotCompiled, match="no such option"):
        build.library(WIDEST["float32"], "float32")
    assert list((tmp_path / "compiled").iterdir()) == []


@needs_code
def test_a_library_that_is_none_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "COMPILED", tmp_path)
    name = build.library(WIDEST["float32"], "float32").name
    (tmp_path / name).write_text("not a library")
    with pytest.raises(NotCompiled, match="does not load"):
        NativeRunner(make_model(), 2)


@needs_code
def test_a_folder_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build, "COMPILED", tmp_path / "file" / "compiled")
    with pytest.raises(NotCompiled, match="cannot be written"):
        build.library(WIDEST["float32"], "float32")


@needs_code
def test_the_image_compiles_every_format_without_our_packages():
    command = [sys.executable, "-I", build.__file__]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [Path(path) for path in made] == [build.library(*kind) for kind in KINDS]
