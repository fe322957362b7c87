"""Follows the alias: looks at the registry from time to time, loads what it finds, swaps it in.

Any failure leaves the model that is served in place, and is told by `state`.
"""

import gc
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.errors import (
    LoadsKilled,
    NoModelYet,
    RegistryUnavailable,
    VllmUnavailable,
)
from devopsgpt_serving.tracing import Tracing
from devopsgpt_serving.version import Version, printable
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.load_marks import LoadMarks
from devopsgpt_serving.versions.registry import Registry
from devopsgpt_serving.versions.verification import read_lineage

log = logging.getLogger(__name__)

LONGEST_RETRY_S = 600.0
# An alias that names another version after each download is served as it was found last.
MOST_LOOKS = 3
MOST_KILLED_LOADS = 2


@dataclass(frozen=True)
class State:
    """What is served, and how the registry does. problem: why not what the alias names"""

    served: Version | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    """What the served version recorded of its making."""
    registry_up: bool | None = None
    problem: str | None = "the registry has not been asked yet"
    fetching: bool = False
    """Whether a version is on its way from the registry to this disk."""
    from_cache: bool = False
    """Whether the version was taken from disk because the registry could not give its own, or not
    yet."""
    reloads: int = 0
    failed_reloads: int = 0


@dataclass
class Refused:
    """A version that could not be loaded, and when to try it again."""

    key: str
    tries: int
    next_try: float
    problem: str


class AliasFollower:
    """The thread that keeps the engine's model and the registry's alias the same."""

    def __init__(
        self,
        registry: Registry,
        cache: VersionCache,
        engine: Engine,
        load: Callable[[Version, Path], LoadedModel],
        *,
        poll_interval_s: float,
        poll_jitter: float,
        tracing: Tracing,
    ) -> None:
        self.registry = registry
        self.cache = cache
        self.engine = engine
        self.load = load
        self.poll_interval_s = poll_interval_s
        self.poll_jitter = poll_jitter
        self.tracing = tracing
        self.marks = LoadMarks(cache.folder, registry.name, registry.alias)
        self.state = State()
        self._refused: Refused | None = None
        self._stopping = False
        self._poke = threading.Event()
        self._asked: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Look at once, then again and again."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it does now, which is not waited for."""
        self._stopping = True
        self.marks.stop()
        self._poke.set()

    def ask(self) -> "Future[None]":
        """Have the thread look as soon as it can, also at a version that was refused before.

        A look may take minutes. All who ask during one share the next, whose alias is as new as
        what they ask for.
        returns: done after a look that began later than this call
        """
        asked: Future[None] = Future()
        self._asked.put(asked)
        self._poke.set()
        return asked

    def _follow(self) -> None:
        while not self._stopping:
            asked = [self._asked.get() for _ in range(self._asked.qsize())]
            asked = [one for one in asked if one.set_running_or_notify_cancel()]
            self._look(again=bool(asked))
            for one in asked:
                one.set_result(None)
            self._poke.wait(
                self.poll_interval_s * (1 + random.uniform(-self.poll_jitter, self.poll_jitter))
            )
            self._poke.clear()  # before the loop looks for what it tells of

    def _look(self, again: bool) -> None:
        """Look at the alias and bring the engine up to it. again: also a version that was refused
        before"""
        try:
            if again:
                self._refused = None
                self.marks.clear()
            with self.tracing.step("registry.poll"):
                self._catch_up()
        except Exception as error:  # the next look may do better; the thread must live to take it
            log.exception("looking at the registry failed")
            self._note(problem=f"looking at the registry failed: {error!r:.300}")
            self._fall_back()

    def _catch_up(self) -> None:
        try:
            wanted = self.registry.resolve()
        except NoModelYet as error:
            self._note(registry_up=True, problem=str(error))
            return
        except RegistryUnavailable as error:
            self._note(registry_up=False, problem=str(error))
            self._fall_back()
            return
        self._note(registry_up=True)
        if self._refused is not None and self._refused.key != wanted.key:
            self._refused = None  # the alias moved: should it return, that counts as asked for
        self.marks.clear(keep=[each.key for each in (wanted, self._last_good()) if each])
        for looks in range(1, MOST_LOOKS + 1):
            instead = self._take_up(wanted, for_good=looks == MOST_LOOKS)
            if instead is None:
                return
            wanted = instead

    def _take_up(self, wanted: Version, for_good: bool) -> Version | None:
        """Fetch and serve a version. for_good: whatever the alias names by then

        returns: what the alias names instead, to be taken up in its place
        """
        if self.state.served is not None and wanted.key == self.state.served.key:
            self._note(served=wanted, problem=None, from_cache=False)
            return None
        refused = (
            self._refused if self._refused is not None and self._refused.key == wanted.key else None
        )
        if refused is not None and time.monotonic() < refused.next_try:
            self._note(problem=refused.problem)
            return None
        try:
            folder = self._fetch(wanted, refused)
            if not for_good and (now := self._named_now(wanted)).key != wanted.key:
                log.info(
                    "a version was fetched in vain",
                    extra={"version": wanted.number, "named": now.number},
                )
                return now
            self._serve(wanted, folder, problem=None, from_cache=False)
        except NoModelYet as error:
            self._note(problem=str(error))
        except RegistryUnavailable as error:
            self._refuse(wanted, error, registry_up=False)
        # whatever it is, the version is at fault or the machine: damaged, no room, no memory
        except Exception as error:
            self._refuse(wanted, error, registry_up=True)
        return None

    def _fetch(self, wanted: Version, refused: Refused | None) -> Path:
        """A version's folder. On its way the state tells of it, and what was served last is served
        if nothing is.

        refused: how the last try ended, where there was one
        """
        here = self.cache.has(wanted)
        doing = f"version {wanted.number} is being {'loaded' if here else 'fetched'}"
        self._note(
            problem=f"{doing} again; {refused.problem}" if refused else doing, fetching=not here
        )
        try:
            # a download may take minutes; and what was never served may take the process with it
            self._fall_back(instead_of=wanted)
            in_use = [self.state.served.key] if self.state.served else []
            with self.tracing.step("registry.fetch", model_version=wanted.number):
                return self.registry.fetch(wanted, self.cache, in_use)
        finally:
            self._note(fetching=False)

    def _named_now(self, wanted: Version) -> Version:
        """What the alias names after a download: it may have been rolled back meanwhile. raises:
        NoModelYet"""
        try:
            return self.registry.resolve()
        except RegistryUnavailable:  # an unreachable registry does not revoke the alias
            return wanted

    def _serve(self, version: Version, folder: Path, problem: str | None, from_cache: bool) -> None:
        began = time.monotonic()
        lineage, reloads = read_lineage(folder), self.state.reloads + 1
        with self.tracing.step("model.load", model_version=version.number):
            loaded = self._load(version, folder)
        if reloads == 1:
            _freeze_imported_objects()
        with self.tracing.step("model.swap", model_version=version.number):
            self.engine.install(loaded)
        self._refused = None
        self._note(
            served=version, lineage=lineage, problem=problem, from_cache=from_cache, reloads=reloads
        )
        try:
            self.cache.remember(version, self.registry.alias)
        except OSError as error:  # a full disk: it is served all the same
            log.error(
                "the version could not be noted",
                extra={"version": version.number, "problem": str(error)},
            )
        self.cache.trim({version.key})
        seconds = round(time.monotonic() - began, 3)
        log.info(
            "serving a new version", extra={"version": version.number, "load_seconds": seconds}
        )

    def _load(self, version: Version, folder: Path) -> LoadedModel:
        """raises: LoadsKilled, and whatever is wrong with the version"""
        if (killed := self.marks.unfinished(version.key)) >= MOST_KILLED_LOADS:
            raise LoadsKilled(
                f"{killed} loads of it did not end, as when the system kills a process for want of "
                "memory; promote another version, or raise the limit and POST /admin/reload"
            )
        with self.marks.loading(version.key):
            try:
                return self.load(version, folder)
            except Exception:
                raise
            except BaseException as error:  # as code in Rust panics; the thread must outlive it
                raise RuntimeError(f"loading it failed: {error!r:.300}") from error

    def _refuse(self, version: Version, error: Exception, registry_up: bool) -> None:
        tries = self._refused.tries + 1 if self._refused and self._refused.key == version.key else 1
        wait_s = (
            min(LONGEST_RETRY_S, self.poll_interval_s * 2 ** (tries - 1)) if registry_up else 0.0
        )
        problem = f"version {version.number} cannot be served: {str(error) or repr(error):.500}"
        self._refused = Refused(version.key, tries, time.monotonic() + wait_s, problem)
        self._note(
            problem=problem, registry_up=registry_up, failed_reloads=self.state.failed_reloads + 1
        )
        log.error("a version was refused", extra={"version": version.number, "problem": str(error)})
        self._fall_back()
        # a person has to ask (/admin/reload): each try stops what vLLM serves for minutes, or may
        # stop this process
        stops_vllm = isinstance(error, VllmUnavailable) and self.state.served is not None
        if stops_vllm or isinstance(error, LoadsKilled):
            self._refused = Refused(version.key, tries, math.inf, problem)

    def _last_good(self) -> Version | None:
        """What was served last under this name and alias, where it was noted."""
        return self.cache.last_good(self.registry.name, self.registry.alias)

    def _fall_back(self, instead_of: Version | None = None) -> None:
        """With nothing to serve yet, serve what was served last under this name and alias, from
        this disk.

        instead_of: a version that is tried in any case
        """
        version = self._last_good() if self.state.served is None else None
        tried = [instead_of.key if instead_of else "", self._refused.key if self._refused else ""]
        if version is None or version.key in tried:
            return
        try:
            if (folder := self.cache.verified(version)) is not None:
                self._serve(version, folder, problem=self.state.problem, from_cache=True)
        except Exception as error:
            log.error(
                "the last good version failed too",
                extra={"version": version.number, "problem": str(error)},
            )

    def _note(self, **changes: object) -> None:
        if isinstance(problem := changes.get("problem"), str):  # it may quote what others wrote
            changes["problem"] = printable(problem)
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]


def _freeze_imported_objects() -> None:
    """Leave what was imported out of garbage collections: 300,000 objects, which hold up every
    thread for 150 ms."""
    gc.collect()
    gc.freeze()
