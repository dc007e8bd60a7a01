"""The worker loop: what handlers do to messages, and how it ends. The test plays the broker."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.fakes.client_wire import FakeClient, delivered, queue_of, turns

from penstock.errors import Invalid, NotFound
from penstock.message import DeadLetter, Message, Retry
from penstock_protocol.messages.queues import Ack, Consume, Credit, Extend, Nack, Outcome, Settled, Stop
from penstock_protocol.messages.session import Done
from penstock_protocol.slices import decode_ranges

Handler = Callable[[Message[bytes]], Awaitable[object]]


class Broker(FakeClient):
    """Delivers its messages one by one, as credit allows."""

    def __init__(self, *bodies: bytes) -> None:
        super().__init__()
        self._bodies = list(enumerate(bodies))
        self.wire.answers = {kind: lambda _: Settled(1, b"") for kind in (Ack, Nack, Extend)}
        self.wire.answers |= {Stop: lambda _: Done(), Consume: self._consume}
        self.wire.send = self._credit

    def _consume(self, consume: Consume) -> Done:
        asyncio.get_running_loop().call_soon(self._deliver, consume.credit)
        return Done()

    def _credit(self, credit: Credit) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, credit.messages)

    def _deliver(self, credit: int) -> None:
        while credit and self._bodies and 1 in self.wire.subscriptions:
            offset, body = self._bodies.pop(0)
            self.wire.deliver(1, delivered(body, first=offset, token=100 + offset))
            credit -= 1

    def work(self, handler: Handler, **options: Any) -> "asyncio.Task[None]":
        return asyncio.ensure_future(queue_of(self).work(handler, **options))

    def settled(self) -> dict[int, Outcome | None]:
        """Offset → outcome (None: acked)."""
        return {
            offset: getattr(settle, "outcome", None)
            for kind in (Ack, Nack)
            for settle in self.wire.of(kind)
            for each in decode_ranges(memoryview(settle.payload))
            for offset in range(each.first, each.first + each.messages)
        }


async def stopped(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_message_is_handled_and_acked() -> None:
    broker = Broker(b"a", b"b", b"c")
    handled: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(message: Message[bytes]) -> None:
        handled.put_nowait(message.body)

    working = broker.work(handler, concurrency=2)
    assert sorted([await handled.get() for _ in range(3)]) == [b"a", b"b", b"c"]
    await stopped(working)
    await broker.settler.flush()
    assert broker.settled() == {0: None, 1: None, 2: None}


RAISED = {
    "an exception": (ValueError("bad"), Outcome.RETRY),
    "Retry": (Retry(), Outcome.RETRY),
    "DeadLetter": (DeadLetter("bad"), Outcome.DEAD_LETTER),
    "a cancellation of its own": (asyncio.CancelledError(), Outcome.RELEASE),
}


@pytest.mark.parametrize("case", RAISED)
async def test_what_a_handler_raises_settles_its_message_and_the_loop_goes_on(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    error, outcome = RAISED[case]
    broker = Broker(b"raises", b"next")
    reached = asyncio.Event()

    async def handler(message: Message[bytes]) -> None:
        if message.body == b"raises":
            raise error
        reached.set()

    with caplog.at_level(logging.INFO, "penstock"):
        working = broker.work(handler, concurrency=1)
        await reached.wait()
        await stopped(working)
    await broker.settler.flush()
    assert broker.settled() == {0: outcome, 1: None}
    assert "Message 0 of 'jobs'" in caplog.text


async def test_a_plain_function_ends_the_work_at_once_and_its_message_is_released() -> None:
    broker = Broker(b"a", b"b")
    plain: Any = lambda message: None  # noqa: E731
    with pytest.raises(Invalid, match=r"handler returned None, which cannot be awaited"):
        await broker.work(plain, concurrency=1)
    await broker.settler.flush()
    assert set(broker.settled().values()) == {Outcome.RELEASE}


async def test_no_more_handlers_run_than_asked_for() -> None:
    broker = Broker(*[b"x"] * 20)
    running, most, left = 0, 0, 20
    done = asyncio.Event()

    async def handler(message: Message[bytes]) -> None:
        nonlocal running, most, left
        running += 1
        most = max(most, running)
        await turns(5)
        running -= 1
        left -= 1
        if not left:
            done.set()

    working = broker.work(handler, concurrency=3)
    await done.wait()
    await stopped(working)
    assert most == 3


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_no_handlers_at_all_is_invalid(concurrency: int) -> None:
    with pytest.raises(Invalid, match="concurrency"):
        await Broker().work(turns, concurrency=concurrency)


class Blocked:
    """A handler that runs until it is let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, message: Message[bytes]) -> None:
        self.begun.set()
        await self.go_on.wait()


async def ended_by_cancel(working: "asyncio.Task[None]") -> None:
    working.cancel()


async def ended_by_sigterm(working: "asyncio.Task[None]") -> None:
    os.kill(os.getpid(), signal.SIGTERM)


ENDINGS = pytest.mark.parametrize("end", [ended_by_cancel, ended_by_sigterm])


@ENDINGS
async def test_the_end_lets_running_handlers_finish_and_releases_the_rest(
    end: Callable[["asyncio.Task[None]"], Awaitable[None]],
) -> None:
    broker = Broker(b"running", b"buffered")
    handler = Blocked()
    working = broker.work(handler, concurrency=1, grace=60)
    await handler.begun.wait()
    await end(working)
    await broker.wire.until(Stop)
    assert not working.done()
    handler.go_on.set()
    await asyncio.wait([working])
    await broker.settler.flush()
    assert working.cancelled() is (end is ended_by_cancel)
    assert broker.settled() == {0: None, 1: Outcome.RELEASE}


@ENDINGS
async def test_handlers_that_outlast_the_grace_are_cancelled_and_their_messages_released(
    end: Callable[["asyncio.Task[None]"], Awaitable[None]],
) -> None:
    broker = Broker(b"running")
    handler = Blocked()
    working = broker.work(handler, concurrency=2, grace=0)
    await handler.begun.wait()
    await end(working)
    await asyncio.wait([working])
    await broker.settler.flush()
    assert broker.settled() == {0: Outcome.RELEASE}


async def test_a_second_cancel_ends_the_grace() -> None:
    broker = Broker(b"running")
    handler = Blocked()
    working = broker.work(handler, concurrency=1, grace=3_600)
    await handler.begun.wait()
    working.cancel()
    await broker.wire.until(Stop)
    await stopped(working)
    await broker.settler.flush()
    assert broker.settled() == {0: Outcome.RELEASE}


async def test_sigterm_ends_every_worker_loop_and_its_handling_is_restored() -> None:
    brokers = [Broker(b"x"), Broker(b"x")]
    handlers = [Blocked(), Blocked()]
    workers = [broker.work(handler) for broker, handler in zip(brokers, handlers, strict=True)]
    for handler in handlers:
        await handler.begun.wait()
        handler.go_on.set()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.gather(*workers)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_program_that_handles_sigterm_itself_keeps_doing_so() -> None:
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        handler = Blocked()
        working = Broker(b"x").work(handler)
        await handler.begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await turns()
        assert caught == [signal.SIGTERM]
        assert not working.done()
        handler.go_on.set()
        await stopped(working)
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_deleted_queue_ends_the_loop_with_not_found() -> None:
    broker = Broker(b"x")
    handler = Blocked()
    working = broker.work(handler, concurrency=2, grace=60)
    await handler.begun.wait()
    handler.go_on.set()
    broker.wire.deliver(1)
    with pytest.raises(NotFound):
        await working
