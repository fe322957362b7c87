"""A checkpoint as one GGUF file, for llama.cpp and Ollama: weights, vocabulary and merges.

llama.cpp's own converter refuses a BPE of ours only because its hash is unknown to it; the pattern
that splits a text into words is GPT-2's, which llama.cpp calls `gpt-2`.
"""

import tempfile
from pathlib import Path

import gguf
import numpy as np

from devopsgpt_model.checkpoint import Checkpoint
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.tokenizer import END_OF_TEXT, Tokenizer, symbols_of

PRECISIONS = ("f32", "bf16", "q8_0")


def write_gguf(
    checkpoint: Checkpoint, path: Path, precision: str = "f32", name: str = "devopsgpt"
) -> None:
    """Write a checkpoint as GGUF, in one move.

    precision: of the matrices; embeddings of positions, norms and biases stay float32
    raises: ValueError for another precision than those of PRECISIONS
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        staged = Path(folder) / path.name
        writer = gguf.GGUFWriter(str(staged), "gpt2")
        writer.add_name(name)
        _add_shape(writer, checkpoint.model.config)
        _add_vocabulary(writer, checkpoint.tokenizer)
        _add_weights(writer, checkpoint, gguf.GGMLQuantizationType[precision.upper()])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        staged.replace(path)


def _add_shape(writer: gguf.GGUFWriter, config: GPTConfig) -> None:
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = [
        symbols_of(token) for token in sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    ]
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, END_OF_TEXT])
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [f"{symbols_of(left)} {symbols_of(right)}" for left, right in tokenizer.merges]
    )
    writer.add_bos_token_id(tokenizer.eot_id)
    writer.add_eos_token_id(tokenizer.eot_id)
    writer.add_add_bos_token(False)


def _add_weights(
    writer: gguf.GGUFWriter, checkpoint: Checkpoint, form: gguf.GGMLQuantizationType
) -> None:
    model, names = checkpoint.model, _tensor_names(checkpoint.model.config.n_layer)
    for name, parameter in model.named_parameters():
        rows = model.config.vocab_size if name == "wte.weight" else None  # less what pads it
        content = parameter.detach().float().numpy()[:rows]
        plain = content.ndim == 1 or name == "wpe.weight"
        kind = gguf.GGMLQuantizationType.F32 if plain else form
        stored = np.ascontiguousarray(content) if plain else gguf.quants.quantize(content, form)
        writer.add_tensor(names[name], stored, raw_dtype=kind)


def _tensor_names(n_layer: int) -> dict[str, str]:
    """Our name of each parameter -> llama.cpp's."""
    parts = {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    names = {
        "wte.weight": "token_embd.weight",
        "wpe.weight": "position_embd.weight",
        "ln_f.weight": "output_norm.weight",
        "ln_f.bias": "output_norm.bias",
    }
    for layer in range(n_layer):
        for part, theirs in parts.items():
            for kind in ("weight", "bias"):
                names[f"h.{layer}.{part}.{kind}"] = f"blk.{layer}.{theirs}.{kind}"
    return names
