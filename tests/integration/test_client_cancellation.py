"""Cancelling at every await: after k turns of the loop, for k = 0, 1, 2, … until the call is done by itself.

The leases here last an hour and the broker stays: a message that was leased and forgotten would not come
back, and whoever then waits for every message would wait in vain.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import pytest

import penstock
from penstock import Client, Message, Queue, Topic

SECONDS = 20
"""How long a message may take to come back; none is expected to take a hundredth of it."""
DENSE = 60
"""Every number of turns up to this one is tried, then ever larger steps."""
ENOUGH = 3
"""So often has a call to be done before it is cancelled."""
MESSAGES = 3

Call: TypeAlias = Coroutine[Any, Any, Any]
Ended: TypeAlias = "asyncio.Task[Any]"


async def cancelled_at_every_turn(
    start: Callable[[], Call], *, again: int | None = None
) -> AsyncIterator[Ended]:
    """The calls, each ended: cancelled after one more turn than the one before, or done. `again`: cancelled
    once more that many turns later, while it unwinds."""
    turns = done = 0
    cancelled = 0
    while done < ENOUGH:
        task = asyncio.ensure_future(start())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        if again is not None:
            for _ in range(again):
                await asyncio.sleep(0)
            task.cancel()
        async with asyncio.timeout(SECONDS):
            await asyncio.wait([task])
        done += not task.cancelled()
        cancelled += task.cancelled()
        yield task
        turns += 1 if turns < DENSE else turns // 10
    assert cancelled > 1, "the call was over before it could be cancelled"


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", visibility_timeout=3_600, max_deliveries=None)


class Books:
    """What must be in a queue: everything enqueued that was not settled."""

    def __init__(self, queue: Queue[bytes]) -> None:
        self._queue = queue
        self._enqueued = 0

    async def fill(self) -> None:
        """See to it that `MESSAGES` messages are ready."""
        missing = MESSAGES - (self._enqueued - (await self._queue.stats()).settled_total)
        await self._queue.enqueue_many([b"x"] * missing)
        self._enqueued += missing

    async def check(self) -> None:
        """Every message not settled can be received, as one that nobody tried; all are given back."""
        await self._queue.client.flush()
        expected = self._enqueued - (await self._queue.stats()).settled_total
        found: list[Message[bytes]] = []
        while len(found) < expected:
            messages = await self._queue.receive(MESSAGES, wait=SECONDS)
            assert messages, f"{expected - len(found)} of {expected} messages were leased and forgotten"
            found += messages
        assert len(found) == expected
        assert {message.attempt for message in found} <= {1}
        await self._queue.release(found)
        await self.fill()


@pytest.fixture
async def books(jobs: Queue[bytes]) -> Books:
    made = Books(jobs)
    await made.fill()
    return made


# Queues


async def test_cancelled_receive_forgets_no_message(jobs: Queue[bytes], books: Books) -> None:
    async for ended in cancelled_at_every_turn(lambda: jobs.receive(2)):
        if not ended.cancelled():
            assert len(ended.result()) == 2
            await ended.result().release()
        await books.check()


async def test_receive_cancelled_while_a_message_arrives_forgets_it_not(jobs: Queue[bytes]) -> None:
    books = Books(jobs)

    async def receive_and_enqueue() -> penstock.Messages[bytes]:
        receiving = asyncio.ensure_future(jobs.receive(wait=SECONDS))
        filling = asyncio.ensure_future(books.fill())
        try:
            await asyncio.wait([receiving, filling])
        except asyncio.CancelledError:
            receiving.cancel()
            await asyncio.wait([receiving, filling])
            if not receiving.cancelled():  # it had them already: its caller was cancelled, not the call
                await receiving.result().release()
            raise
        return receiving.result()

    async for ended in cancelled_at_every_turn(receive_and_enqueue):
        if not ended.cancelled():
            await ended.result().release()
        await books.check()
        await (await jobs.receive(MESSAGES)).ack()


async def test_cancelled_wait_takes_nothing_that_comes_later(jobs: Queue[bytes]) -> None:
    for turns in range(DENSE):
        waiting = asyncio.ensure_future(jobs.receive(wait=SECONDS))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await jobs.enqueue(b"%d" % turns)
        (message,) = await jobs.receive(wait=SECONDS)
        assert message.body == b"%d" % turns
        await message.ack()


async def test_wait_for_that_times_out_forgets_no_message(jobs: Queue[bytes], books: Books) -> None:
    received = timed_out = 0
    for microseconds in range(0, 4_000, 50):
        try:
            messages = await asyncio.wait_for(jobs.receive(2), microseconds / 1e6)
        except TimeoutError:
            timed_out += 1
        else:
            received += 1
            await messages.release()
        await books.check()
    assert timed_out
    assert received


SETTLES: dict[str, Callable[[Message[bytes]], Call]] = {
    "ack": lambda message: message.ack(),
    "release": lambda message: message.release(),
    "extend": lambda message: message.extend(7_200),
}


@pytest.mark.parametrize("settle", SETTLES)
async def test_cancelled_settle_leaves_the_message_settled_or_returned(
    settle: str, jobs: Queue[bytes], books: Books
) -> None:
    async def receive_and_settle() -> None:
        for message in await jobs.receive():
            async with message:
                await SETTLES[settle](message)

    async for _ in cancelled_at_every_turn(receive_and_settle):
        await books.check()


@pytest.mark.parametrize("again", [None, 0, 1, 2, 5], ids=lambda again: f"again after {again}")
async def test_cancelled_consumer_forgets_no_message(
    again: int | None, jobs: Queue[bytes], books: Books
) -> None:
    async def consume() -> None:
        taken = 0
        async with jobs.consume(prefetch=2) as consumer:
            async for message in consumer:
                async with message:
                    await asyncio.sleep(0)
                taken += 1
                if taken == 2:
                    break

    async for _ in cancelled_at_every_turn(consume, again=again):
        await books.check()


async def test_cancelled_anext_leaves_its_message_in_the_consumer(jobs: Queue[bytes]) -> None:
    async with jobs.consume() as consumer:

        async def enqueue_and_take() -> Message[bytes]:
            enqueueing.append(asyncio.ensure_future(jobs.enqueue("x")))
            return await anext(consumer)

        offset = 0
        enqueueing: list[asyncio.Future[penstock.Receipt]] = []
        async for ended in cancelled_at_every_turn(enqueue_and_take):
            if not enqueueing:  # cancelled before it began
                continue
            await enqueueing.pop()
            async with asyncio.timeout(SECONDS):
                message = await anext(consumer) if ended.cancelled() else ended.result()
            async with message:
                assert message.offset == offset
            offset += 1


@pytest.mark.parametrize("grace", [0, SECONDS])
async def test_cancelled_worker_forgets_no_message(grace: float, jobs: Queue[bytes], books: Books) -> None:
    async def work() -> None:
        handled = 0
        all_handled = asyncio.Event()

        async def handler(message: Message[bytes]) -> None:
            nonlocal handled
            await asyncio.sleep(0)
            handled += 1
            if handled == MESSAGES:
                all_handled.set()

        working = asyncio.ensure_future(jobs.work(handler, concurrency=2, grace=grace))
        try:
            await all_handled.wait()
        finally:
            working.cancel()
            await asyncio.wait([working])

    async for _ in cancelled_at_every_turn(work):
        await books.check()


# Topics


@pytest.fixture
async def lines(client: Client) -> Topic[bytes]:
    topic = await client.create_topic("lines")
    await topic.produce_many([b"%d" % i for i in range(10)])
    return topic


async def test_cancelled_fetch_leaves_nothing_behind(client: Client, lines: Topic[bytes]) -> None:
    async for ended in cancelled_at_every_turn(lambda: lines.fetch(0, 4)):
        if not ended.cancelled():
            assert [record.offset for record in ended.result()] == [4, 5, 6, 7, 8, 9]
        assert [record.offset for record in await lines.fetch(0, 8)] == [8, 9]
    assert client.wire.connections == 1


async def test_cancelled_wait_for_a_record_leaves_nothing_behind(client: Client, lines: Topic[bytes]) -> None:
    end = 10
    producing: list[asyncio.Future[Any]] = []

    async def produce_and_fetch() -> penstock.Records[bytes]:
        fetching = asyncio.ensure_future(lines.fetch(0, end, wait=SECONDS))
        producing.append(asyncio.ensure_future(lines.produce("x")))
        return await fetching

    async for ended in cancelled_at_every_turn(produce_and_fetch):
        if not ended.cancelled():
            assert len(ended.result()) == 1
        await asyncio.gather(*producing)  # not in the call, which may be cancelled there, too
        end = await lines.offset(0, "latest")
    assert client.wire.connections == 1
    assert len(await lines.fetch(0, 0, max_records=10_000)) == end


async def cancelled_readers(client: Client, lines: Topic[bytes], **options: Any) -> AsyncIterator[None]:
    """Each has ended as a call of `cancelled_at_every_turn`; it commits nothing unfinished."""
    group = client.group("g")
    finished = 0

    async def read() -> None:
        nonlocal finished
        finished = 0
        async with lines.consumer("g", auto_commit=True, **options) as consumer:
            async for record in consumer:
                await asyncio.sleep(0)
                if record.offset == 5:
                    break
                finished = record.offset + 1

    async for ended in cancelled_at_every_turn(read):
        yield
        committed = (await group.offsets("lines")).get(0, 0)
        assert committed == (finished if not ended.cancelled() else committed)
        assert committed <= finished
        await group.commit("lines", {0: 0})


async def test_cancelled_reader_commits_nothing_unfinished(client: Client, lines: Topic[bytes]) -> None:
    async for _ in cancelled_readers(client, lines, partitions=[0]):
        pass


async def test_cancelled_member_leaves_and_commits_nothing_unfinished(
    client: Client, lines: Topic[bytes]
) -> None:
    async for _ in cancelled_readers(client, lines):
        async with asyncio.timeout(SECONDS):  # else its partitions are nobody's until its session ends
            async with lines.consumer("g", until="now") as successor:
                assert successor.assignment == (0,)
    assert client.wire.connections == 1


async def begin_anew(group: penstock.Group) -> None:
    """As soon as the cancelled member has left: nobody waits for its LEAVE."""
    while True:
        try:
            return await group.commit("lines", {0: 0})
        except penstock.Stale:
            await asyncio.sleep(0)


async def test_cancelled_worker_commits_what_is_finished_below_what_is_not(
    client: Client, lines: Topic[bytes]
) -> None:
    group = client.group("g")
    handled: set[int] = set()

    async def handler(record: penstock.Record[bytes]) -> None:
        await asyncio.sleep(0)
        handled.add(record.offset)

    async def work() -> None:
        handled.clear()
        async with lines.consumer("g", until="now") as consumer:
            await consumer.work(handler, concurrency=3)

    async for ended in cancelled_at_every_turn(work):
        committed = (await group.offsets("lines")).get(0, 0)
        assert handled >= set(range(committed))
        if not ended.cancelled():
            assert committed == len(handled) == await lines.offset(0, "latest")
        await begin_anew(group)
