"""Which loads of a version did not end: a mark lies beside the cache's versions while one is under
way.

    <cache>/.loading-<name and alias>-<version's key>-<random>    locked by the process that loads

The kernel frees the lock of a process that is killed, as for want of memory, so a mark without one
tells of such a load.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from devopsgpt_serving.versions.cache import locked, name_of_alias

log = logging.getLogger(__name__)

MARK_PREFIX = ".loading-"


class LoadMarks:
    """The marks of one alias of one registered model."""

    def __init__(self, folder: Path, name: str, alias: str) -> None:
        self.folder = folder
        self._prefix = f"{MARK_PREFIX}{name_of_alias(name, alias)}-"
        self._mine: Path | None = None
        self._stopping = False

    def unfinished(self, key: str) -> int:
        """How many loads of a version ended with their process."""
        return len(self._left(f"{key}-*"))

    def clear(self, keep: Collection[str] = ()) -> None:
        """Forget the loads that ended with their process, but for those of some versions."""
        for mark in self._left("*"):
            if not any(mark.name.startswith(f"{self._prefix}{key}-") for key in keep):
                mark.unlink(missing_ok=True)

    @contextmanager
    def loading(self, key: str) -> Iterator[None]:
        """Mark a version while the block loads it, and forget earlier marks once it ends."""
        descriptor = self._mark(key)
        try:
            yield
            for mark in self._left(f"{key}-*"):
                mark.unlink(missing_ok=True)
        finally:
            self._unmark()
            if descriptor is not None:
                os.close(descriptor)

    def stop(self) -> None:
        """The process is told to end: a load that it leaves is no sign of anything."""
        self._stopping = True
        self._unmark()

    def _mark(self, key: str) -> int | None:
        if self._stopping:
            return None
        try:
            descriptor, path = tempfile.mkstemp(prefix=f"{self._prefix}{key}-", dir=self.folder)
        except OSError as error:  # a disk without room for a name: it is loaded all the same
            log.error("a load could not be marked", extra={"key": key, "problem": str(error)})
            return None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._mine = Path(path)
        return descriptor

    def _unmark(self) -> None:
        mark, self._mine = self._mine, None
        if mark is not None:
            mark.unlink(missing_ok=True)

    def _left(self, pattern: str) -> list[Path]:
        """Marks whose process is gone."""
        left = []
        for mark in self.folder.glob(f"{self._prefix}{pattern}"):
            with suppress(OSError), locked(mark) as free:
                if free:
                    left.append(mark)
        return left
