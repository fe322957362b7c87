"""What a step frees is kept for the next one."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed, for the rest of the process; nothing where the C
    library is another.

    Tensors of over 32 MB are given back to the kernel and mapped anew in each step otherwise, page
    by page, each page
    filled with zeros: 100,000 pages a step of 6 layers of 384. docs/performance.md, Training
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)
