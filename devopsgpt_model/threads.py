"""How many threads compute: no more than a container's share of the machine, which torch does not
look at.

On a node of 32 cores torch takes 32 threads, also where the container may use 4 CPUs' time: they
spin for one another until the kernel stops them all for the rest of its period. Linux tells the
share in files of control groups.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/")


def keep_to_quota() -> None:
    """Have torch compute with at most `usable_cpus` threads: on the calling thread, and on those
    that compute later.

    A thread that computed before keeps its own number, so a thread that lives long calls this
    itself.
    """
    import torch  # here: who only counts, as a launcher does, is spared the seconds that it takes

    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def usable_cpus() -> int:
    """Processors that this process may use: what it is bound to, and the quotas of its control
    groups, rounded up."""
    bound = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min([float(bound), *_quotas()])))


def _quotas() -> Iterator[float]:
    """CPUs that each control group above this process allows; nothing for one that sets no
    limit."""
    for folder in control_groups("cpu"):
        yield from _quota(read_text(folder / "cpu.max"))
        yield from _quota(
            f"{read_text(folder / 'cpu.cfs_quota_us')} {read_text(folder / 'cpu.cfs_period_us')}"
        )


def control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, of both versions, innermost first.

    A file of the other version is not there, nor one of a controller that is turned off.
    """
    groups = ROOT / "sys/fs/cgroup"
    for line in read_text("proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2: one tree for all controllers
            yield from _upwards(groups, path)
        elif controller in controllers.split(","):
            yield from _upwards(groups / controllers, path)
            yield from _upwards(groups / controller, path)


def _upwards(tree: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it. A container often sees its own as the tree's root, under
    its outer path."""
    folder = tree / path.lstrip("/")
    yield from (each for each in (folder, *folder.parents) if each.is_relative_to(tree))


def _quota(text: str) -> Iterator[float]:
    """text: microseconds of a period that may be used, and those of the period; "max" or -1 for all
    of it"""
    match text.split():
        case [quota, period] if quota.isdecimal() and int(quota) and int(period):
            yield int(quota) / int(period)


def read_text(path: str | Path) -> str:
    """A file's text, below the machine's root; nothing where it is not there."""
    try:
        return (ROOT / path).read_text()
    except OSError:
        return ""


@contextmanager
def repeat_every(every_s: float, do: Callable[[], None]) -> Iterator[None]:
    """Call a function every so many seconds, on a thread of its own, until the block is left."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every_s):
            do()

    thread = threading.Thread(target=work, daemon=True, name="repeat-every")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
