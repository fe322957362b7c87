"""Checkpoint folders in Hugging Face's GPT-2 layout: transformers and vLLM load them as they are.

`model.safetensors`, `config.json`, `generation_config.json`, the tokenizer's two files, and
`training.json`, which tells how the weights came to be. Data only: nothing in a folder is ever
executed.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from devopsgpt_model.atomic import atomic_folder, write_json
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer

PREFIX = "transformer."
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # OpenAI's layout keeps these (in, out)
# masks and the tied head of older files
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
STORED_AS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}  # bytes of a number
# GPT-2 XL's, of 580 tensors, has 60 kB
MAX_HEADER_BYTES = 1_000_000
TENSORS_OF_A_LAYER = 12


class CheckpointError(ValueError):
    """A checkpoint folder that is incomplete, damaged, or disagrees with itself."""


@dataclass
class Checkpoint:
    """A loaded checkpoint. training: what training.json says, empty for a checkpoint from
    elsewhere."""

    model: GPT
    tokenizer: Tokenizer
    training: dict[str, object]


def save_checkpoint(
    folder: Path, model: GPT, tokenizer: Tokenizer, training: dict[str, object]
) -> None:
    """Write a checkpoint folder whole: a complete one takes the place of what was there.

    raises: OSError on a full disk, what was there untouched
    """
    with atomic_folder(folder) as staging:
        try:
            save_file(
                export_weights(model), staging / "model.safetensors", metadata={"format": "pt"}
            )
        except SafetensorError as error:
            raise OSError(
                f"{folder} could not be written: {error}; make room and start again"
            ) from error
        tokenizer.save(staging, model.config.block_size)
        write_json(staging / "config.json", hugging_face_config(model.config, tokenizer.eot_id))
        ends = dict(
            bos_token_id=tokenizer.eot_id,
            eos_token_id=tokenizer.eot_id,
            pad_token_id=tokenizer.eot_id,
            # where nothing else is said, transformers' pipeline would write past the context's end
            max_length=model.config.block_size,
        )
        write_json(staging / "generation_config.json", ends)
        write_json(staging / "training.json", training)


def load_checkpoint(folder: Path, device: str = "cpu", dropout: float = 0.0) -> Checkpoint:
    """Model (float32, in evaluation mode) and tokenizer of a checkpoint folder.

    dropout: for training on; what the checkpoint was trained with does not count
    raises: CheckpointError where a file is missing or damaged, or config and tensors disagree
    """
    tokenizer = Tokenizer.load(folder)
    config = replace(read_config(folder), dropout=dropout)
    check_vocabulary(folder, config, tokenizer)
    check_shapes(folder, config)  # before memory is taken for what config.json claims
    model = GPT(config)
    import_weights(model, read_weights(folder), str(folder))
    training = folder / "training.json"
    return Checkpoint(
        model.to(device).eval(),
        tokenizer,
        json.loads(training.read_text()) if training.exists() else {},
    )


def read_config(folder: Path) -> GPTConfig:
    """The shape in config.json. raises: CheckpointError where it is missing, damaged or not
    GPT-2's."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
        if content.get("model_type") != "gpt2":
            raise CheckpointError(
                f"{path}: model_type must be gpt2, got {content.get('model_type')!r}"
            )
        return GPTConfig(
            vocab_size=content["vocab_size"],
            block_size=content["n_positions"],
            n_layer=content["n_layer"],
            n_head=content["n_head"],
            n_embd=content["n_embd"],
        )
    except FileNotFoundError:
        raise CheckpointError(f"no config.json in {folder}; is it a checkpoint folder?") from None
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no GPT-2 config: {error!r:.200}") from error


def check_vocabulary(folder: Path, config: GPTConfig, tokenizer: Tokenizer) -> None:
    """raises: CheckpointError for a tokenizer that has fewer ids than the model, or more."""
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: config.json has vocab_size {config.vocab_size}, the tokenizer "
            f"{tokenizer.vocab_size}"
        )


def check_shapes(folder: Path, config: GPTConfig) -> None:
    """Compare what config.json claims with the header of model.safetensors, and read no weight.

    raises: CheckpointError for a missing, foreign or misshapen tensor, or a number format that
    GPT-2 is not stored in
    """
    found = {
        name.removeprefix(PREFIX): facts
        for name, facts in read_header(folder).items()
        if not name.endswith(NOT_WEIGHTS)
    }
    if TENSORS_OF_A_LAYER * config.n_layer > len(found):  # no list is made for n_layer 10^6
        raise CheckpointError(
            f"{folder}: config.json has n_layer {config.n_layer}, {TENSORS_OF_A_LAYER} tensors "
            f"each, and model.safetensors has {len(found)} tensors"
        )
    wanted = weight_shapes(config)
    if missing := sorted(set(wanted) - set(found)):
        raise CheckpointError(
            f"{folder}: config.json asks for tensor {missing[0]}, which is not there"
        )
    if foreign := sorted(set(found) - set(wanted)):
        raise CheckpointError(f"{folder}: config.json has no place for tensor {foreign[0]:.100}")
    for name, shape in wanted.items():
        stored, form = found[name].get("shape"), found[name].get("dtype")
        if stored != list(shape):
            raise CheckpointError(
                f"{folder}: tensor {name} should have shape {shape} by config.json and has "
                f"{stored!r:.100}"
            )
        if str(form) not in STORED_AS:  # it may be anything, a list, too
            raise CheckpointError(
                f"{folder}: tensor {name} should be stored as one of {', '.join(STORED_AS)}, got "
                f"{form!r:.40}"
            )
    claimed = sum(math.prod(s) * STORED_AS[str(found[name]["dtype"])] for name, s in wanted.items())
    if claimed > (size := (folder / "model.safetensors").stat().st_size):
        raise CheckpointError(
            f"{folder}: model.safetensors is damaged: its tensors have {claimed} bytes by its "
            f"header, and the whole file has {size}"
        )


def weight_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor as Hugging Face stores it: matrices (in, out), no padding."""
    width = config.n_embd
    block: dict[str, tuple[int, ...]] = {
        f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")
    }
    matrices = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    block |= {f"{name}.weight": shape for name, shape in matrices.items()}
    block |= {f"{name}.bias": (out,) for name, (_, out) in matrices.items()}
    return {
        "wte.weight": (config.vocab_size, width),
        "wpe.weight": (config.block_size, width),
        **{
            f"h.{at}.{name}": shape for at in range(config.n_layer) for name, shape in block.items()
        },
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }


def read_header(folder: Path) -> dict[str, dict[str, object]]:
    """What the beginning of model.safetensors tells of each tensor. raises: CheckpointError where
    it is missing, damaged or longer than MAX_HEADER_BYTES"""
    path = folder / "model.safetensors"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise CheckpointError(
                    f"{path} is damaged: its header must have at most {MAX_HEADER_BYTES} bytes, "
                    f"and no more than the file, got {length}"
                )
            header = json.loads(file.read(length))
        tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
        if not all(isinstance(facts, dict) for facts in tensors.values()):
            raise CheckpointError(f"{path} is damaged: a tensor has no description")
        return tensors
    except FileNotFoundError:
        raise CheckpointError(
            f"no model.safetensors in {folder}; is it a checkpoint folder?"
        ) from None
    except CheckpointError:
        raise
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged, fetch or train it again: {error!r:.200}"
        ) from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of model.safetensors as stored. raises: CheckpointError where it is missing or
    damaged."""
    path = folder / "model.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except FileNotFoundError:
        raise CheckpointError(
            f"no model.safetensors in {folder}; is it a checkpoint folder?"
        ) from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged, fetch or train it again: {error}") from error


def hugging_face_config(config: GPTConfig, eot_id: int) -> dict[str, object]:
    """config.json as transformers writes it for a GPT2LMHeadModel."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        **{f"{part}_pdrop": config.dropout for part in ("attn", "embd", "resid")},
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "torch_dtype": "float32",
    }


def export_weights(model: GPT) -> dict[str, Tensor]:
    """Weights under Hugging Face's names: (in, out) matrices, the vocabulary's padding cut off.

    On a CPU some share the model's memory.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().float().cpu()
        if name == "wte.weight":
            tensor = tensor[: model.config.vocab_size]
        tensors[PREFIX + name] = (tensor.t() if name.endswith(CONV1D) else tensor).contiguous()
    return tensors


def import_weights(model: GPT, tensors: dict[str, Tensor], source: str) -> None:
    """Fill a model from Hugging Face's tensors. raises: CheckpointError for a missing, foreign or
    misshapen one."""
    found = {
        name.removeprefix(PREFIX): t
        for name, t in tensors.items()
        if not name.endswith(NOT_WEIGHTS)
    }
    wanted = dict(model.named_parameters())
    if missing := sorted(set(wanted) - set(found)):
        raise CheckpointError(
            f"{source}: config.json asks for tensor {missing[0]}, which is not there"
        )
    if foreign := sorted(set(found) - set(wanted)):
        raise CheckpointError(f"{source}: config.json has no place for tensor {foreign[0]}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            tensor = found[name].t() if name.endswith(CONV1D) else found[name]
            place = parameter[: model.config.vocab_size] if name == "wte.weight" else parameter
            if tensor.shape != place.shape:
                raise CheckpointError(
                    f"{source}: tensor {name} should have shape {tuple(place.shape)} by "
                    "config.json "
                    f"and has {tuple(tensor.shape)}"
                )
            place.copy_(tensor)
            if name == "wte.weight":
                parameter[model.config.vocab_size :].zero_()
