"""From the engine's thread to the event loop: the reports of one request's sequences, in order.

Leaving early, by an error or because the caller hung up, cancels what is under way.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request

from devopsgpt_serving.api.error_answers import CLIENT_GONE, from_engine
from devopsgpt_serving.api.schemas import Usage
from devopsgpt_serving.api.service import Service
from devopsgpt_serving.engine.loaded_model import Scheduler
from devopsgpt_serving.engine.mailbox import Reports
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.sequence import (
    Failed,
    Finished,
    FinishReason,
    NewText,
    Report,
    Scored,
    Sequence,
)
from devopsgpt_serving.errors import ApiError, DeadlinePassed, QueueFull, Stopping

T = TypeVar("T")

# The engine tells of a passed deadline between two steps: one may be under way, of seconds where a
# long prompt is read on a slow processor. Later than this it hangs, and tells nothing.
DEADLINE_GRACE_S = 5.0


@dataclass
class Answer:
    """A whole answer."""

    text: str = ""
    scored: list[Scored] = field(default_factory=list)
    finish_reason: FinishReason = "length"


BUSY_WAIT_S = 0.05  # until a full engine is asked again, where nothing of this request is inside


class PendingAnswers:
    """The sequences of one request. Up to a window of them are in the engine at a time, the first
    ones all or none; the others wait here, so that a long list of prompts leaves room to others.

    raises: ApiError 429 or 503
    """

    def __init__(
        self,
        request: Request,
        service: Service,
        scheduler: Scheduler,
        wanted: list[tuple[list[int], Sampling]],
    ) -> None:
        # no sequence refers to this object, which refers to them and to the model: a cycle would
        # keep a replaced model in memory until the next garbage collection
        reports: Reports = asyncio.Queue()
        self.reports = reports
        state, post, deadline = request.state, service.mailbox.post, service.deadline()

        def sequence(index: int, prompt: list[int], sampling: Sampling) -> Sequence:
            begun = False

            def report(what: Report) -> None:
                nonlocal begun
                post(reports, index, what, at_once=not begun or not isinstance(what, NewText))
                begun = True

            return Sequence(
                prompt, sampling, report, deadline, state.request_id, state.version, state.span
            )

        self.deadline = deadline
        self.sequences = [sequence(index, *one) for index, one in enumerate(wanted)]
        self._service, self._scheduler = service, scheduler
        state.sequences = self.sequences  # the request's span tells of them
        window = max(service.settings.max_choices, service.engine.capacity // 2)
        self._outside = deque(self.sequences[window:])
        try:
            self._submit(self.sequences[:window])
        except (QueueFull, Stopping) as error:
            raise from_engine(error, service.backlog.retry_after_s()) from error

    def _submit(self, sequences: list[Sequence]) -> None:
        """Hand sequences to the engine, all or none. raises: QueueFull, Stopping"""
        backlog, block_size = self._service.backlog, self._scheduler.loaded.block_size
        for sequence in sequences:
            backlog.add(sequence, block_size - len(sequence.prompt))
        try:
            self._service.engine.submit(self._scheduler, sequences)
        except (QueueFull, Stopping):
            for sequence in sequences:
                backlog.drop(sequence)
            raise

    async def _fill(self, inside: int, ended: int) -> int:
        """Hand in as many sequences as have ended, and wait for a place where none is inside.

        returns: sequences that are inside. raises: ApiError 503 or 504
        """
        wanted = min(ended, len(self._outside))
        while wanted:
            try:
                self._submit([self._outside[0]])
            except Stopping as error:
                raise from_engine(error) from error
            except QueueFull:
                if inside:  # the next one that ends makes room
                    return inside
                self._check_deadline()
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            self._outside.popleft()
            inside, wanted = inside + 1, wanted - 1
        return inside

    def _check_deadline(self) -> None:
        if time.monotonic() > self.deadline:
            raise from_engine(DeadlinePassed("no place in the queue within the request's deadline"))

    async def stream(self) -> AsyncIterator[list[tuple[int, NewText | Finished]]]:
        """Reports until every sequence has ended, in lists as they came. raises: ApiError where one
        failed"""
        inside, owed = len(self.sequences) - len(self._outside), 0
        try:
            while inside:
                came, ready, failed = [await self._next()], [], None
                while not self.reports.empty():
                    came.append(self.reports.get_nowait())
                for index, report in came:
                    if isinstance(report, Failed):
                        failed = report.error
                        break
                    owed += isinstance(report, Finished)
                    inside -= isinstance(report, Finished)
                    ready.append((index, report))
                yield ready
                if failed:
                    raise from_engine(failed)
                before = inside
                inside = await self._fill(inside, owed)
                owed -= inside - before
        finally:
            self.cancel()

    async def _next(self) -> tuple[int, Report]:
        """The next report. raises: ApiError 504 where the engine is silent past the deadline"""
        try:
            async with asyncio.timeout(self.deadline + DEADLINE_GRACE_S - time.monotonic()):
                return await self.reports.get()
        except TimeoutError as error:
            raise from_engine(
                DeadlinePassed("the engine did not answer within the request's deadline")
            ) from error

    async def collect(self) -> list[Answer]:
        """Every answer, whole. raises: ApiError where one failed"""
        answers = [Answer() for _ in self.sequences]
        async for reports in self.stream():
            for index, report in reports:
                if isinstance(report, Finished):
                    answers[index].finish_reason = report.reason
                else:
                    answers[index].text += report.text
                    answers[index].scored += report.scored
        return answers

    async def whole(self, request: Request) -> list[Answer]:
        """Every answer, whole. raises: ApiError where one failed, or the caller hung up"""
        try:
            return await unless_gone(request, self.collect())
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Let the engine drop what has not ended."""
        for sequence in self.sequences:
            sequence.cancelled = True

    def usage(self, prompts: list[list[int]]) -> Usage:
        """Token counts as OpenAI gives them: each prompt once, however many answers it has."""
        read = sum(len(prompt) for prompt in prompts)
        written = sum(len(sequence.tokens) for sequence in self.sequences)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. raises: ApiError 499 where the caller hangs up first; the work is
    cancelled then"""
    task, gone = asyncio.create_task(work), asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_GONE, "client_closed_request", "the caller hung up")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
