"""Generation by GPT-2 124M of random weights: our engine against what people serve GPT-2 with, all
in one run.

    python -m benchmarks.serving --engines "ours int8,llama.cpp q8_0" --sequences 1,8 --rounds 3

Each engine lives in a process of its own; they take turns, so that a machine that drifts drifts for
all. A 64-token prompt, 128 new tokens, greedy. A run with every engine takes longer than ten
minutes; split it by --engines.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks._serving_answer import MOST_SEQUENCES
from benchmarks._serving_peers import PEERS
from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer

GPT2 = GPTConfig(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
PROMPT_TOKENS, NEW_TOKENS = 64, 128
# read once a step: blocks and head
WEIGHTS = GPT2.n_layer * 12 * GPT2.n_embd**2 + GPT2.vocab_size * GPT2.n_embd
BYTES = {"f32": 4.0, "float32": 4.0, "bf16": 2.0, "bfloat16": 2.0, "int8": 1.0, "q8_0": 34 / 32}


def main() -> None:
    """Compare the engines that can be had here, and print a table and what was left out."""
    options = _options()
    bandwidth = read_bandwidth()
    print(f"{torch.get_num_threads()} threads, {bandwidth / 1e9:.0f} GB/s read", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_checkpoint(folder, GPT(GPT2).init_weights(1), make_tokenizer(), {})
        running = {
            name: found
            for name in options.engines
            if (found := Worker.start(name, folder)) is not None
        }
        speeds, memory = take_turns(running, options.sequences, options.rounds, options.new_tokens)
        for worker in running.values():
            worker.stop()
    print(
        f"{'engine':24}{'bound at 1':>11}"
        + "".join(f"{n:>8} seq {'first':>9}" for n in options.sequences)
        + "    peak"
    )
    for name in running:
        bound = bandwidth / (WEIGHTS * BYTES[PEERS[name][1]])
        cells = "".join(
            f"{speeds[name, n][0]:>8.0f} t/s{speeds[name, n][1] * 1e3:>7.0f} ms"
            for n in options.sequences
        )
        print(f"{name:24}{bound:>7.0f} t/s{cells}{memory[name] / 1e6:>5.0f} MB")


def take_turns(
    running: dict[str, "Worker"], sequences: list[int], rounds: int, new_tokens: int
) -> tuple[dict[tuple[str, int], tuple[float, float]], dict[str, float]]:
    """Each engine's best of the rounds. returns: tokens/s and seconds to first token by (engine,
    sequences); bytes"""
    best: dict[tuple[str, int], tuple[float, float]] = {}
    memory: dict[str, float] = {}
    for count, _, (name, worker) in itertools.product(sequences, range(rounds), running.items()):
        if name.startswith("nanoGPT") and count > 8:
            # takes minutes and changes nothing from 8 to 32
            best[name, count] = float("nan"), float("nan")
            continue
        speed, first, memory[name] = worker.ask(
            count, 16 if name.startswith("nanoGPT") else new_tokens
        )
        before = best.get((name, count), (0.0, float("inf")))
        best[name, count] = max(before[0], speed), min(before[1], first)
    return best, memory


class Worker:
    """One engine in its own process."""

    def __init__(self, process: multiprocessing.Process, line: Connection) -> None:
        self.process, self.line = process, line

    @classmethod
    def start(cls, name: str, folder: Path) -> "Worker | None":
        """None, with the reason printed, where the engine is not to be had."""
        spawn = multiprocessing.get_context("spawn")
        line, theirs = spawn.Pipe()
        process = spawn.Process(target=_work, args=(name, folder, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            problem = line.recv()
        except EOFError:
            problem = "its process ended"
        if problem is None:
            return cls(process, line)  # type: ignore[arg-type]
        print(f"{name} is left out: {problem}", flush=True)
        return None

    def ask(self, sequences: int, new_tokens: int) -> tuple[float, float, float]:
        """returns: tokens/s of decoding, seconds to the last first token, peak bytes of the
        process"""
        self.line.send((sequences, new_tokens))
        answer: tuple[float, float, float] = self.line.recv()
        time.sleep(0.3)  # threads of OpenMP go on spinning for 0.2 s
        return answer

    def stop(self) -> None:
        self.line.send(None)
        self.process.join()


def _work(name: str, folder: Path, line: Connection) -> None:
    load, precision = PEERS[name]
    try:
        answer = load(folder, precision)
        answer(_prompts(1), 4)
    except Exception as error:  # whatever keeps a peer from working is told, and the others go on
        line.send(f"{error!r:.300}")
        return
    line.send(None)
    while (asked := line.recv()) is not None:
        count, new = asked
        prompts = _prompts(count)
        _, first = answer(prompts, 1)
        began = time.perf_counter()
        made, again = answer(prompts, new)
        seconds = time.perf_counter() - began
        if made != [new] * count:
            raise RuntimeError(f"{name} made {made} tokens where {new} each were asked for")
        if name.split()[0] in ("transformers", "nanoGPT", "ctranslate2"):
            seconds -= again  # these compute the first token in a call of its own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        line.send((count * new / seconds, min(first, again), peak))


def _prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    prompts: list[list[int]] = torch.randint(
        50_000, (count, PROMPT_TOKENS), generator=generator
    ).tolist()
    return prompts


def make_tokenizer() -> Tokenizer:
    """As many tokens as GPT-2 has: each byte, then pairs of bytes; what they say does not matter
    here."""
    pairs = itertools.product(range(256), repeat=2)
    singles = [bytes([byte]) for byte in range(256)]
    return Tokenizer(
        "gpt2",
        {
            token: i
            for i, token in enumerate([*singles, *map(bytes, itertools.islice(pairs, 50_000))])
        },
    )


def read_bandwidth() -> float:
    """Bytes/s at which all threads together read memory."""
    content = torch.ones(256 * 2**20)  # 1 GB: no cache holds it
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        content.sum()
        best = min(best, time.perf_counter() - began)
    return content.numel() * content.element_size() / best


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), default=list(PEERS), help=", ".join(PEERS)
    )
    parser.add_argument(
        "--sequences",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[1, 8, MOST_SEQUENCES],
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    options = parser.parse_args()
    if unknown := [name for name in options.engines if name not in PEERS]:
        parser.error(f"no engine {json.dumps(unknown)}; there are {', '.join(PEERS)}")
    return options


if __name__ == "__main__":
    main()
