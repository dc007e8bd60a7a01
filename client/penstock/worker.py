"""The worker loop: as many tasks as may run at once iterate one consumer, each handling a message at a time.

It ends by SIGTERM, by being cancelled, or by the consumer's failure. However it ends, it first stops the
credit, then gives running handlers their grace, then cancels them, which releases their messages.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from penstock import checks
from penstock.consumer import Consumer
from penstock.message import DeadLetter, Message, Retry

if TYPE_CHECKING:
    from penstock.queue import Queue

T = TypeVar("T")

log = logging.getLogger("penstock")

EXAMPLE = "async def handle(message): …"
CONCURRENCY_MAX = 10_000
"""Each is a task. What a queue hands out at once by default is ten times as much."""


async def work(
    queue: "Queue[T]",
    handler: Callable[[Message[T]], Awaitable[object]],
    *,
    concurrency: int,
    grace: float,
) -> None:
    """See `Queue.work`. `grace` in seconds."""
    checks.function("handler", handler, EXAMPLE)
    checks.whole("concurrency", concurrency, 1, CONCURRENCY_MAX)
    loop = asyncio.get_running_loop()
    async with queue.consume() as consumer:
        runners = [loop.create_task(_run(consumer, handler)) for _ in range(concurrency)]
        await until_terminated(runners, consumer.stop, grace)


async def _run(consumer: Consumer[T], handler: Callable[[Message[T]], Awaitable[object]]) -> None:
    """Handle messages until the consumer ends. What a handler raises settles its message, and no more."""
    async for message in consumer:
        try:
            async with message:
                returned: object = handler(message)
                if isawaitable(returned):
                    await returned
                else:
                    await message.release()
        except (Retry, DeadLetter) as asked:
            log.info("%r: %s %s", message, type(asked).__name__, asked)
        except Exception:
            log.exception("the handler failed for %r", message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            log.warning("the handler of %r was cancelled from within; it is released", message)
        else:
            checks.awaited("handler", returned, EXAMPLE)


async def until_terminated(
    runners: list[asyncio.Task[None]], stop: Callable[[], object], grace: float
) -> None:
    """Wait for SIGTERM, for being cancelled, or for the first runner to end; then `stop`, and give the others
    `grace` seconds. Raises what a runner raised."""
    terminated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        with on_sigterm(terminated.cancel):
            await asyncio.wait([terminated, *runners], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop()
        await _end(runners, grace)
    for runner in runners:
        if not runner.cancelled():
            runner.result()


async def _end(runners: list[asyncio.Task[None]], grace: float) -> None:
    """Give the runners their grace, then cancel them; cancelled itself, it does so at once."""
    try:
        await asyncio.wait(runners, timeout=grace)
    finally:
        for runner in runners:
            runner.cancel()
        await asyncio.gather(*runners, return_exceptions=True)


_stops: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Callable[[], Any]]] = WeakKeyDictionary()
"""Whom SIGTERM stops, per loop: there is one handler per process, and any number of worker loops."""


@contextmanager
def on_sigterm(stop: Callable[[], Any]) -> Generator[None]:
    """Call `stop` when SIGTERM comes; not if the program handles it itself or this is another thread."""
    loop = asyncio.get_running_loop()
    stops = _stops.setdefault(loop, [])
    if not stops and not _handle_sigterm(loop, stops):
        yield
        return
    stops.append(stop)
    try:
        yield
    finally:
        stops.remove(stop)
        if not stops:
            loop.remove_signal_handler(signal.SIGTERM)


def _handle_sigterm(loop: asyncio.AbstractEventLoop, stops: list[Callable[[], Any]]) -> bool:
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    try:
        loop.add_signal_handler(signal.SIGTERM, lambda: [stop() for stop in list(stops)])
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True
