import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from devopsgpt_model.checkpoint import (
    MAX_HEADER_BYTES,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer

FILES = [
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "training.json"),
]


@pytest.fixture
def folder(tiny_gpt, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", tiny_gpt, Tokenizer.plain_bytes(), {"step": 3})
    return tmp_path / "checkpoint"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_holds_these_files_and_no_pickle(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_checkpoint_comes_back_as_it_was(folder, tiny_gpt):
    loaded = load_checkpoint(folder)
    idx = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded.model(idx)[0], tiny_gpt(idx)[0], atol=0, rtol=0)
    assert loaded.training == {"step": 3}
    assert loaded.tokenizer.name == "bytes"


@pytest.mark.parametrize("kind", ["bytes", "bpe", "gpt2"])
def test_transformers_loads_it_with_the_same_logits(kind, request, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = (
        Tokenizer.plain_bytes() if kind == "bytes" else request.getfixturevalue(f"{kind}_tokenizer")
    )
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, block_size=32, n_layer=2, n_head=4, n_embd=64
    )
    model = GPT(config).init_weights(seed=3).eval()
    save_checkpoint(tmp_path / "c", model, tokenizer, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c").eval()
    idx = torch.randint(tokenizer.vocab_size, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(idx).logits, model(idx)[0], atol=1e-4, rtol=0)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "c")
    assert tokens("The service waits.").input_ids == tokenizer.encode("The service waits.")


def test_a_hub_checkpoint_without_prefix_and_with_masks_loads(folder, tiny_gpt):
    tensors = {
        k.removeprefix("transformer."): v
        for k, v in load_file(folder / "model.safetensors").items()
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    idx = torch.tensor([[5, 6]])
    torch.testing.assert_close(load_checkpoint(folder).model(idx)[0], tiny_gpt(idx)[0])


def test_config_and_tensors_that_disagree_are_refused(folder):
    edit(folder / "config.json", n_positions=65)
    with pytest.raises(
        CheckpointError, match=r"wpe.weight should have shape \(65, 32\).*has \[64, 32\]"
    ):
        load_checkpoint(folder)


def test_a_missing_and_a_foreign_tensor_are_refused(folder):
    edit(folder / "config.json", n_layer=3)
    with pytest.raises(CheckpointError, match=r"n_layer 3, 12 tensors each, and .* has 28 "):
        load_checkpoint(folder)
    edit(folder / "config.json", n_layer=1)
    with pytest.raises(CheckpointError, match=r"no place for tensor h\.1\."):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "claim", [{"n_layer": 10**6}, {"n_positions": 10**9}, {"n_embd": 2**40, "n_head": 1}]
)
def test_a_size_that_is_only_claimed_takes_no_memory(folder, claim):
    edit(folder / "config.json", **claim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("n_layer", [2.5, "2", True, None, 0, 1e400])
def test_a_size_that_is_no_count_is_refused(folder, n_layer):
    edit(folder / "config.json", n_layer=n_layer)
    with pytest.raises(CheckpointError, match="n_layer must be an integer of at least 1"):
        load_checkpoint(folder)


def with_header(folder, header):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    changed = json.loads(content[8 : 8 + length])
    header(changed)
    text = json.dumps(changed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_weights_in_a_format_that_is_none_are_refused(folder):
    def integers(header):
        header["transformer.wpe.weight"]["dtype"] = "I32"

    with_header(folder, integers)
    with pytest.raises(CheckpointError, match="should be stored as one of F32, F16"):
        load_checkpoint(folder)


def test_a_header_is_read_as_far_as_it_may_be_long(folder):
    path = folder / "model.safetensors"
    with_header(folder, lambda header: header.update(__metadata__={"x": "y" * MAX_HEADER_BYTES}))
    with pytest.raises(CheckpointError, match="its header must have at most"):
        load_checkpoint(folder)
    for damaged in (b"", b"\xff" * 8, (2).to_bytes(8, "little") + b"[]", b"[" * 600_000):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(folder)
    path.write_bytes((600_000).to_bytes(8, "little") + b"[" * 600_000)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)


def test_another_vocabulary_than_the_tokenizers_is_refused(folder):
    edit(folder / "config.json", vocab_size=258)
    with pytest.raises(CheckpointError, match="vocab_size 258, the tokenizer 257"):
        load_checkpoint(folder)


def test_another_architecture_is_refused(folder):
    edit(folder / "config.json", model_type="llama")
    with pytest.raises(CheckpointError, match="must be gpt2, got 'llama'"):
        load_checkpoint(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}"):
        load_checkpoint(folder)


def test_a_failed_save_leaves_the_checkpoint_before_it(folder, tiny_gpt):
    with pytest.raises(TypeError):
        save_checkpoint(folder, tiny_gpt, Tokenizer.plain_bytes(), {"step": object()})
    assert load_checkpoint(folder).training == {"step": 3}
    assert [path.name for path in folder.parent.iterdir() if ".json" in path.name] == []


def test_a_later_save_takes_the_place_of_the_first(folder, tiny_gpt):
    save_checkpoint(folder, tiny_gpt, Tokenizer.plain_bytes(), {"step": 4})
    assert load_checkpoint(folder).training == {"step": 4}
    assert len(list(folder.parent.iterdir())) == 2  # the link and what it points to
