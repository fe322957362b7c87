"""How much sooner the first token comes where a prompt begins as one before it did: GPT-2 124M of
random weights."""

import itertools
import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks._serving_peers import ours
from benchmarks.serving import GPT2, make_tokenizer
from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.gpt import GPT

OWN_TOKENS, ROUNDS = 16, 9


def main() -> None:
    """Ask after somebody who asked with the same beginning, and with another one, by turns."""
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_checkpoint(folder, GPT(GPT2).init_weights(1), make_tokenizer(), {})
        answer = ours(folder, "auto", forget=False)
    for length in (16, 64, 256):
        known = _tokens(draw, length)
        seconds: dict[str, list[float]] = {"new": [], "known": []}
        for _, kind in itertools.product(range(ROUNDS), seconds):
            beginning = known if kind == "known" else _tokens(draw, length)
            answer([known + _tokens(draw, OWN_TOKENS)], 1)  # who asked before
            seconds[kind].append(answer([beginning + _tokens(draw, OWN_TOKENS)], 1)[1])
            time.sleep(0.3)
        new, again = (statistics.median(seconds[kind]) for kind in ("new", "known"))
        print(
            f"{length} shared + {OWN_TOKENS} own tokens: first token after {new * 1e3:.0f} ms, "
            f"{again * 1e3:.0f} ms where the beginning was known: {new / again:.1f}x",
            flush=True,
        )


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(50_000) for _ in range(count)]


if __name__ == "__main__":
    main()
