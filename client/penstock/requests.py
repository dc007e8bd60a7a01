"""Requests that wait for an answer: one queue for the answers of a client, one task that hands them out.

The queue is made with the first request. It is exclusive, so it goes with the session; when that is lost, the
requests that wait learn of it, and the next one makes another. Answers are taken at most once: who asked has
gone with this process if one is lost.
"""

import asyncio
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from penstock.errors import ClientClosed, Error, Invalid, Timeout
from penstock.events import LateReply
from penstock.message import Message

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.queue import Queue

T = TypeVar("T")

EXPIRES_SECONDS = 60.0
"""The queue for answers outlives its client at most for that long, whatever happens to it."""
ANSWERS_AHEAD = 16


class Waiting(NamedTuple):
    """Who asked: the future of his answer, and the handle whose codec it goes through."""

    answer: "asyncio.Future[Message[Any]]"
    queue: "Queue[Any]"


class Requests:
    """All requests of one client."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._waiting: dict[str, Waiting] = {}
        self._numbers = count(1)
        self._opening = asyncio.Lock()
        self._answers: Queue[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def ask(
        self, queue: "Queue[T]", body: Any, seconds: float, options: Mapping[str, Any]
    ) -> Message[T]:
        """See `Queue.request`."""
        ours = {"reply_to", "correlation_id"} & options.keys()
        if ours:
            raise Invalid(f"a request has its own {ours.pop()}", hint="call enqueue to choose it yourself")
        correlation_id: str | None = None
        try:
            async with asyncio.timeout(seconds):
                answers = await self._opened()
                correlation_id = f"{answers.name}:{next(self._numbers)}"
                answer: asyncio.Future[Message[Any]] = asyncio.get_running_loop().create_future()
                self._waiting[correlation_id] = Waiting(answer, queue)
                addressed = {**options, "reply_to": answers.name, "correlation_id": correlation_id}
                await queue.enqueue(body, **addressed)
                return await answer
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            raise Timeout(
                f"no answer from {queue.name!r} within {seconds:g} s; it may be handled all the same",
                hint="is a worker running that replies? pass a longer timeout=",
                detail={"correlation_id": correlation_id},
            ) from None
        finally:
            self._waiting.pop(correlation_id or "", None)

    async def _opened(self) -> "Queue[bytes]":
        """The queue for answers, which is being read."""
        async with self._opening:
            if self._answers is None:
                made = await self._client.create_queue(None, exclusive=True, expires=EXPIRES_SECONDS)
                self._answers = made
                self._reading = asyncio.get_running_loop().create_task(self._read(made))
                self._reading.add_done_callback(self._ended)
            return self._answers

    async def _read(self, answers: "Queue[bytes]") -> None:
        async with answers.consume(prefetch=ANSWERS_AHEAD, settle=True) as consumer:
            async for message in consumer:
                self._answered(message)

    def _answered(self, message: Message[bytes]) -> None:
        waiting = self._waiting.pop(message.correlation_id or "", None)
        if waiting is None or waiting.answer.done():
            self._client.wire.emit(LateReply(message))
        else:
            waiting.answer.set_result(message.through(waiting.queue.codec))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._answers = None
        error = None if task.cancelled() else task.exception()
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            if not each.answer.done():
                each.answer.set_exception(_why(error))


def _why(error: BaseException | None) -> Error:
    """Why no answer can come any more."""
    if error is None or isinstance(error, ClientClosed):
        return ClientClosed("the client was closed before the answer came")
    return Timeout(
        f"the queue for answers is gone ({error}); the request may be handled all the same",
        hint="ask again",
    )
