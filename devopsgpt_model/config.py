"""Shapes and settings: what a GPT is made of, and what a training run can be told.

Every tunable of training is declared once, here. The Dagster launchpad's schema and the command
line's options are derived from `TrainingConfig`, unit-bearing field docstrings included.
"""

import ast
import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

VOCAB_MULTIPLE = 64  # matrix units want round sizes; the padding is cut off again on export


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a network. Source: Radford et al. 2019, table 2."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r:.40}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def padded_vocab_size(self) -> int:
        """vocab_size rounded up to a multiple of 64: 50,257 becomes 50,304."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def parameter_count(self) -> int:
        """Weights, the head tied to the token embedding. source: Radford et al. 2019"""
        width = self.n_embd
        # attention 4w^2 + 4w, MLP 8w^2 + 5w, two norms 4w
        per_layer = 12 * width**2 + 13 * width
        return (self.vocab_size + self.block_size) * width + self.n_layer * per_layer + 2 * width


GPT2_SIZES = {
    "gpt2": GPTConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": GPTConfig(vocab_size=50257, block_size=1024, n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": GPTConfig(vocab_size=50257, block_size=1024, n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": GPTConfig(vocab_size=50257, block_size=1024, n_layer=48, n_head=25, n_embd=1600),
}


def in_millions(parameters: int) -> str:
    """124M, or 1.1M for small ones: how people name a model's size."""
    millions = parameters / 1e6
    return f"{millions:.0f}M" if millions >= 10 else f"{millions:.2g}M"


def model_size(init_from: str, parameters: int) -> str:
    """What searches find a model by, and what starts from it: the size of GPT-2 that it is, or its
    parameters."""
    return init_from if init_from in GPT2_SIZES else in_millions(parameters)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that a training run can be told. Defaults: a small network from scratch, for a
    laptop's CPU."""

    init_from: str = "scratch"
    """Initial weights: "scratch"; a GPT-2 size (gpt2, gpt2-medium, gpt2-large, gpt2-xl);
    "champion"; a checkpoint folder; or a GPT-2 model on the Hugging Face hub, as in distilgpt2 or
    owner/name@revision."""

    n_layer: int = 4
    """Transformer blocks. Used with init_from=scratch only."""

    n_head: int = 4
    """Attention heads per block. Used with init_from=scratch only."""

    n_embd: int = 128
    """Width of the residual stream, a multiple of n_head. Used with init_from=scratch only."""

    block_size: int = 256
    """Tokens per training sequence; at most the initial checkpoint's context (1,024 for GPT-2)."""

    dropout: float = 0.1
    """Share of embeddings and of each block's outputs dropped while training, in [0, 1)."""

    batch_size: int = 8
    """Sequences per micro-batch and process."""

    grad_accum_steps: int = 1
    """Micro-batches per optimizer step, summed over all processes; a multiple of their number."""

    max_steps: int = 450
    """Optimizer steps."""

    optimizer: str = "adamw"
    """"adamw", or "muon" for the blocks' matrices with AdamW for all else: more learned from each
    token, with steps 10 to 15% longer."""

    learning_rate: float = 3e-3
    """Peak learning rate, of either optimizer."""

    min_learning_rate: float = 0.0
    """Learning rate at max_steps, reached linearly from the peak; equal to it for a constant
    rate."""

    warmup_steps: int = 40
    """Optimizer steps over which the learning rate rises from zero to its peak."""

    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""

    beta1: float = 0.9
    """AdamW's decay of the gradient's running mean."""

    beta2: float = 0.99
    """AdamW's decay of the squared gradient's running mean."""

    grad_clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""

    eval_interval: int = 100
    """Optimizer steps between evaluations on the whole held-out set; state is saved at each."""

    patience: int = 0
    """Evaluations without a better val_loss before training stops early; 0 never stops early."""

    log_interval: int = 10
    """Optimizer steps between reported metrics."""

    seed: int = 1337
    """Seed of initial weights, data order and dropout."""

    device: str = "auto"
    """"cpu", "cuda", "cuda:N" or "mps"; "auto" takes CUDA where there is one, else the CPU."""

    dtype: str = "auto"
    """Matrix arithmetic under autocast: "float32" or "bfloat16"; "auto" takes bfloat16 where the
    processor has it."""

    compile: str = "auto"
    """Whether torch.compile prepares the step: "on", "off", or "auto" for runs long enough to earn
    its time back."""

    parallel: str = "ddp"
    """How several processes share the work: "ddp" holds the whole model in each, "fsdp" splits
    weights and optimizer state over them, for sizes that do not fit."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must be at most learning_rate ({self.learning_rate}), got "
                f"{self.min_learning_rate}"
            )
        for name in ("dropout", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.init_from == "scratch" and self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if not self.init_from:
            raise ValueError(
                "init_from must name the initial weights, got an empty string; use scratch or gpt2"
            )


CHOICES = {
    "optimizer": ("adamw", "muon"),
    "dtype": ("auto", "float32", "bfloat16"),
    "compile": ("auto", "on", "off"),
    "parallel": ("ddp", "fsdp"),
}
_AT_LEAST_ONE = (
    *("n_layer", "n_head", "n_embd", "block_size", "batch_size", "grad_accum_steps", "max_steps"),
    *("eval_interval", "log_interval"),
)
_NOT_NEGATIVE = (
    "min_learning_rate",
    "warmup_steps",
    "weight_decay",
    "grad_clip",
    "patience",
    "seed",
)

# 1 sequence * 32 accum * 1024 = 32,768 tokens/step at a constant learning rate: how the seed
# repository fine-tunes
_FINETUNE = TrainingConfig(
    init_from="gpt2",
    dropout=0.0,
    block_size=1024,
    batch_size=1,
    grad_accum_steps=32,
    max_steps=100,
    learning_rate=3e-5,
    min_learning_rate=3e-5,
    warmup_steps=0,
    beta2=0.95,
    eval_interval=5,
)

# 225 steps * 8 sequences * 256 = 460,800 tokens: Muon learns more from them than AdamW from twice
# as many. docs/performance.md, Recipe
_SAMPLE = TrainingConfig(optimizer="muon", dropout=0.0, max_steps=225, eval_interval=75)

# The seed repository's presets, its settings where it named one. It evaluated on random batches;
# here each evaluation is the whole held-out set.
PRESETS = {
    "sample": _SAMPLE,
    "finetune_sre": replace(
        _FINETUNE, init_from="gpt2-large", max_steps=500, learning_rate=2e-5, min_learning_rate=2e-5
    ),
    "finetune_sre_small": _FINETUNE,
    "finetune_shakespeare": replace(_FINETUNE, init_from="gpt2-xl", max_steps=20),
    # 12 sequences * 256 = 3,072 tokens/step; of the dataset's own tokenizer, where the seed's were
    # characters
    "train_sre_cpu": TrainingConfig(
        dropout=0.0,
        batch_size=12,
        max_steps=2000,
        learning_rate=1e-3,
        min_learning_rate=1e-4,
        warmup_steps=100,
        eval_interval=250,
        device="cpu",
    ),
}


def _with_muon(config: TrainingConfig) -> TrainingConfig:
    """A fine-tuning preset with Muon and a rate that decays: three times the constant one at its
    peak. docs/performance.md, Recipe"""
    return replace(
        config,
        optimizer="muon",
        learning_rate=3 * config.learning_rate,
        min_learning_rate=0.0,
        warmup_steps=config.max_steps // 10,
    )


PRESETS |= {
    f"{name}_muon": _with_muon(PRESETS[name])
    for name in ("finetune_sre", "finetune_sre_small", "finetune_shakespeare")
}


def preset(name: str) -> TrainingConfig:
    """The named settings. raises: ValueError for an unknown name, listing the known ones."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line each."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    if not isinstance(body, ast.ClassDef):
        raise ValueError(f"field_docs wants a class, got {cls!r}")
    docs: dict[str, str] = {}
    for field, doc in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(doc, ast.Expr)
            and isinstance(doc.value, ast.Constant)
        ):
            docs[ast.unparse(field.target)] = " ".join(str(doc.value.value).split())
    return docs


def training_config(settings: dict[str, object]) -> TrainingConfig:
    """Settings from JSON. raises: ValueError for a name that is no setting, or a value out of
    range."""
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(
            f"unknown training setting {unknown[0]!r}; the settings are {', '.join(sorted(known))}"
        )
    return TrainingConfig(**settings)  # type: ignore[arg-type]


def changed(preset_name: str, changes: Sequence[str]) -> TrainingConfig:
    """A preset with some settings changed. raises: ValueError for a setting that is unknown or out
    of range"""
    types = {field.name: field.type for field in dataclasses.fields(TrainingConfig)}
    values = dataclasses.asdict(preset(preset_name))
    for change in changes:
        name, _, text = change.partition("=")
        if name not in types:
            raise ValueError(
                f"unknown training setting {name!r} in {change!r}; --list-settings shows them all"
            )
        values[name] = _parse(name, text, types[name])
    return training_config(values)


def _parse(name: str, text: str, kind: object) -> object:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)  # type: ignore[operator]
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else getattr(kind, "__name__", kind)
        raise ValueError(f"{name} must be {wanted}, got {text!r}") from None


def describe(config: TrainingConfig) -> str:
    """Every setting with its value and its docstring."""
    docs = field_docs(TrainingConfig)
    lines = [
        f"{name} = {value}\n    {docs[name]}" for name, value in dataclasses.asdict(config).items()
    ]
    return "\n".join(lines)
