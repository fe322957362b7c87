"""Something done again and again beside work that takes long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(do: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call a function every so many seconds, on a thread of its own, until the block is left."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every_s):
            do()

    thread = threading.Thread(target=work, daemon=True, name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
