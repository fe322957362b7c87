"""Whether a version fits into the memory there is, asked before it is loaded: the kernel kills who
takes too much, and every restart would load the same version again."""

from collections.abc import Iterator
from pathlib import Path

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.threads import control_groups, read_text

RESERVE_BYTES = 50_000_000  # tokenizer, threads, intermediate results
UNLIMITED = 1 << 60  # bytes; version 1 of control groups says 2^63 less a page where none is set


def needed_bytes(config: GPTConfig, weights: Path, cache_rows: int, cache_bytes: int) -> int:
    """Memory that loading takes at its peak.

    What was read from the file, the model in float32, its layers laid out anew, which takes as much
    again for a moment in int8, and keys and values. Measured with GPT-2 124M and 8 rows: 1.99 GB in
    float32 where this says 2.15, 1.76 in int8 (1.84), 1.45 in bfloat16 (1.84).

    cache_rows: sequences that are computed together; cache_bytes: of a number of keys and values
    """
    parameters = (
        config.parameter_count + (config.padded_vocab_size - config.vocab_size) * config.n_embd
    )
    cached = 2 * config.n_layer * config.block_size * config.n_embd * cache_rows * cache_bytes
    return weights.stat().st_size + 2 * 4 * parameters + cached + RESERVE_BYTES


def check_fits(needed: int, available: int | None) -> None:
    """raises: MemoryError where more is needed than available. available: None where that is
    unknown"""
    if available is not None and needed > available:
        raise MemoryError(
            f"loading it takes about {needed / 1e9:.3g} GB of memory and {available / 1e9:.3g} GB "
            "are available; raise the limit, lower DEVOPSGPT_SERVING_MAX_BATCH_SIZE, or promote a "
            "smaller version"
        )


def available_bytes() -> int | None:
    """Memory that this process can still take: the machine's, within the limits of its control
    groups. None where the system tells of neither."""
    return min([*_of_machine(), *_of_groups()], default=None)


def _of_machine() -> Iterator[int]:
    for line in read_text("proc/meminfo").splitlines():
        match line.split():
            case ["MemAvailable:", kilobytes, "kB"]:
                yield int(kilobytes) * 1024


def _of_groups() -> Iterator[int]:
    """What each control group above this process leaves; pages of files go where room is wanted."""
    for folder in control_groups("memory"):
        for limit, usage, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = read_text(folder / limit).strip(), read_text(folder / usage).strip()
            if most.isdecimal() and used.isdecimal() and int(most) < UNLIMITED:
                pages = dict(
                    line.split(" ", 1)
                    for line in read_text(folder / "memory.stat").splitlines()
                    if " " in line
                )
                yield max(0, int(most) - int(used) + int(pages.get(cached, "0")))
