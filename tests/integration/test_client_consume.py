"""Push delivery through the client and the real broker: the loop, the block, the worker, lost sockets."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.fakes.proxy import Proxy
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Message, Queue
from penstock.events import Event, Reconnected

SECONDS = 20
"""How long anything may take; nothing here is expected to take a tenth of it."""


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", retry=penstock.Backoff(initial=0, jitter=0))


async def drained(queue: Queue[bytes], count: int) -> None:
    """Wait until `count` messages were settled."""
    async with asyncio.timeout(SECONDS):
        while (await queue.stats()).settled_total < count:
            await queue.client.flush()


async def test_every_message_is_consumed_once_and_in_order(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"%d" % i for i in range(5_000)])
    got: list[bytes] = []
    async with asyncio.timeout(SECONDS), jobs.consume() as consumer:
        async for message in consumer:
            async with message:
                got.append(message.body)
            if len(got) == 5_000:
                break
    await client.flush()
    assert got == [b"%d" % i for i in range(5_000)]
    stats = await jobs.stats()
    assert (stats.settled_total, stats.ready, stats.in_flight) == (5_000, 0, 0)


async def test_messages_come_as_they_are_enqueued(jobs: Queue[bytes]) -> None:
    async with asyncio.timeout(SECONDS), jobs.consume() as consumer:
        for text in ("a", "b", "c"):
            await jobs.enqueue(text)
            async with await anext(consumer) as message:
                assert message.text == text


async def test_two_consumers_with_equal_credit_share_what_is_ready(jobs: Queue[bytes]) -> None:
    async with asyncio.timeout(SECONDS), jobs.consume(prefetch=10) as one, jobs.consume(prefetch=10) as two:
        await jobs.enqueue_many([b"x"] * 20)
        taken = [await anext(consumer) for consumer in (one, two) for _ in range(10)]
        assert len({message.offset for message in taken}) == 20


async def test_leaving_gives_everything_unsettled_back_without_an_attempt(
    client: Client, jobs: Queue[bytes]
) -> None:
    await jobs.enqueue_many([b"x"] * 100)
    async with asyncio.timeout(SECONDS):
        async with jobs.consume(prefetch=50) as consumer:
            for _ in range(5):
                await anext(consumer)
        await client.flush()
        assert (await jobs.stats()).in_flight == 0
        assert {message.attempt for message in await jobs.receive(100)} == {1}


# The block, row by row: what becomes of the message


async def leave_by(message: Message[bytes], error: BaseException | None) -> None:
    async with message:
        if error is not None:
            raise error


ROWS: dict[str, tuple[Callable[[], BaseException | None], dict[str, int]]] = {
    "its end": (lambda: None, {"settled_total": 1}),
    "an exception": (lambda: ValueError("bad"), {"ready": 1}),
    "Retry at once": (lambda: penstock.Retry(delay=0), {"ready": 1}),
    "Retry later": (lambda: penstock.Retry(delay=600), {"delayed": 1}),
    "DeadLetter": (lambda: penstock.DeadLetter("bad"), {"settled_total": 1}),
    "CancelledError": (asyncio.CancelledError, {"ready": 1}),
    "KeyboardInterrupt": (KeyboardInterrupt, {"ready": 1}),
    "SystemExit": (SystemExit, {"ready": 1}),
    "GeneratorExit": (GeneratorExit, {"ready": 1}),
}
ATTEMPTS = {"an exception": 2, "Retry at once": 2}
"""Of the message when it is back; the other rows count none."""


@pytest.mark.parametrize("row", ROWS)
async def test_leaving_the_block_by(row: str, client: Client, jobs: Queue[bytes]) -> None:
    error, expected = ROWS[row][0](), ROWS[row][1]
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    with pytest.raises(type(error)) if error else nullcontext():
        await leave_by(message, error)
    await client.flush()
    stats = await jobs.stats()
    counts = {name: getattr(stats, name) for name in ("ready", "delayed", "in_flight", "settled_total")}
    assert counts == {"ready": 0, "delayed": 0, "in_flight": 0, "settled_total": 0, **expected}
    if stats.ready:
        (again,) = await jobs.receive()
        assert again.attempt == ATTEMPTS.get(row, 1)
    if row == "DeadLetter":
        assert len(await client.queue("jobs.dead").receive(wait=5)) == 1


async def test_leaving_the_block_already_settled_does_nothing(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    async with message:
        await message.nack(delay=600)
    await client.flush()
    assert (await jobs.stats()).delayed == 1


async def test_leaving_the_block_too_late_never_raises(broker: BrokerProcess) -> None:
    events: list[Event] = []
    async with penstock.connect(broker.url, on_event=events.append) as client:
        queue = await client.create_queue("jobs")
        await queue.enqueue("x")
        (message,) = await queue.receive(visibility_timeout=0.05)
        async with message:
            assert len(await queue.receive(wait=SECONDS)) == 1
        await client.flush()
    assert penstock.events.SettleStale("jobs", 1) in events


# Leases


async def test_message_in_hand_stays_leased_beyond_its_visibility_timeout(client: Client) -> None:
    queue = await client.create_queue("jobs", visibility_timeout=0.3)
    await queue.enqueue_many([b"in hand", b"buffered"])
    async with asyncio.timeout(SECONDS), queue.consume(prefetch=2) as consumer:
        first = await anext(consumer)
        assert len(await queue.receive(wait=1)) == 0
        await first.ack()
        second = await anext(consumer)
        assert (second.text, second.delivery) == ("buffered", 1)


async def test_message_in_hand_beyond_max_processing_goes_to_somebody_else(client: Client) -> None:
    queue = await client.create_queue("jobs", visibility_timeout=0.3, retry=penstock.Backoff(initial=0))
    await queue.enqueue("x")
    async with asyncio.timeout(SECONDS), queue.consume(max_processing=0.1) as consumer:
        late = await anext(consumer)
        again = await anext(consumer)
        assert (again.id, again.attempt) == (late.id, 2)
        with pytest.raises(penstock.Stale):
            await late.ack()
        await again.ack()


# Lost sockets


@pytest.fixture
async def proxied(broker: BrokerProcess) -> AsyncIterator[tuple[Proxy, Client, list[Event]]]:
    events: list[Event] = []
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, on_event=events.append) as client:
        yield proxy, client, events


async def test_lost_socket_is_invisible_to_the_loop(proxied: tuple[Proxy, Client, list[Event]]) -> None:
    proxy, client, events = proxied
    jobs = await client.create_queue("jobs")
    await jobs.enqueue_many([b"%d" % i for i in range(300)])
    seen: Counter[int] = Counter()
    async with asyncio.timeout(SECONDS), jobs.consume(prefetch=20) as consumer:
        async for message in consumer:
            async with message:
                seen[message.offset] += 1
            if message.offset in (50, 150, 250) and seen[message.offset] == 1:
                proxy.cut()
            if len(seen) == 300:
                break
    await drained(jobs, 300)
    assert sum(isinstance(event, Reconnected) for event in events) >= 3
    assert (await jobs.stats()).in_flight == 0


async def test_session_leases_survive_a_lost_socket(proxied: tuple[Proxy, Client, list[Event]]) -> None:
    proxy, client, _ = proxied
    jobs = await client.create_queue("jobs")
    await jobs.enqueue_many([b"in hand", b"buffered"])
    async with asyncio.timeout(SECONDS), jobs.consume(prefetch=2) as consumer:
        first = await anext(consumer)
        proxy.cut()
        await first.ack()
        second = await anext(consumer)
        assert (second.text, second.delivery) == ("buffered", 1)
        await second.ack()
        assert (await jobs.stats()).settled_total == 2


async def test_what_died_on_the_wire_comes_again(proxied: tuple[Proxy, Client, list[Event]]) -> None:
    proxy, client, _ = proxied
    jobs = await client.create_queue("jobs")
    async with asyncio.timeout(SECONDS), jobs.consume(prefetch=10) as consumer:
        for i in range(30):
            receipt = await jobs.enqueue(b"%d" % i)
            proxy.cut()
            async with await anext(consumer) as message:
                assert message.id == receipt.id


async def test_broker_that_restarts_is_invisible_to_the_loop(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url) as client:
        jobs = await client.create_queue("jobs")
        await jobs.enqueue_many([b"x"] * 100)
        seen: set[int] = set()
        async with asyncio.timeout(SECONDS), jobs.consume(prefetch=10) as consumer:
            async for message in consumer:
                async with message:
                    seen.add(message.offset)
                if len(seen) == 40 and not message.redelivered:
                    proxy.close()
                    broker.kill()
                    broker = start_broker().wait_ready()
                    proxy.reopen(broker.address)
                if len(seen) == 100:
                    break
        await drained(jobs, 100)


async def test_client_that_dies_gives_its_messages_back_after_the_grace(start_broker: StartBroker) -> None:
    broker = start_broker("--set", "server.session_grace=200ms").wait_ready()
    async with Proxy(broker.address) as proxy, penstock.connect(broker.url) as witness:
        jobs = await witness.create_queue("jobs", visibility_timeout=3_600)
        await jobs.enqueue("x")
        dying = await penstock.connect(proxy.url)
        async with asyncio.timeout(SECONDS):
            consumer = await dying.queue("jobs").consume().__aenter__()
            taken = await anext(consumer)
            proxy.close()
            (again,) = await jobs.receive()
            assert (again.id, again.attempt) == (taken.id, 1)
        await dying.close(timeout=0)


async def test_goodbye_gives_session_leases_back_at_once(broker: BrokerProcess, jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    async with penstock.connect(broker.url) as leaving:
        consumer = await leaving.queue("jobs").consume().__aenter__()
        await anext(consumer)
    assert len(await jobs.receive(wait=5)) == 1


async def test_deleted_queue_ends_the_loop(client: Client, jobs: Queue[bytes]) -> None:
    async with asyncio.timeout(SECONDS), jobs.consume() as consumer:
        waiting = asyncio.ensure_future(anext(consumer))
        await client.delete_queue("jobs")
        with pytest.raises(penstock.NotFound):
            await waiting


async def test_consuming_an_unknown_queue_says_how_to_create_it(client: Client) -> None:
    with pytest.raises(penstock.NotFound, match="penstock queue create"):
        await client.queue("nowhere").consume().__aenter__()


# Workers


async def test_worker_retries_dead_letters_and_goes_on(client: Client) -> None:
    queue = await client.create_queue(
        "jobs", max_attempts=3, retry=penstock.Backoff(initial=0, jitter=0), visibility_timeout=3_600
    )
    await queue.enqueue_many([b"fine", b"always fails", b"fails once", b"unreadable"])
    tries: Counter[bytes] = Counter()

    async def handler(message: Message[bytes]) -> None:
        tries[message.body] += 1
        if message.body == b"unreadable":
            raise penstock.DeadLetter("unreadable")
        if message.body == b"always fails" or (message.body == b"fails once" and message.attempt == 1):
            raise ValueError(message.text)

    working = asyncio.ensure_future(queue.work(handler, concurrency=3))
    await drained(queue, 4)
    working.cancel()
    await asyncio.wait([working])
    assert tries == {b"fine": 1, b"always fails": 3, b"fails once": 2, b"unreadable": 1}
    dead = await client.queue("jobs.dead").receive(10, wait=5)
    assert {message.body for message in dead} == {b"always fails", b"unreadable"}


WORKER = """
import asyncio, sys, penstock

async def handler(message):
    print(message.text, flush=True)
    await asyncio.Event().wait()

async def main():
    async with penstock.connect(sys.argv[1]) as client:
        await client.queue("jobs").work(handler, concurrency=2, grace=0.1)
        print("ended", flush=True)

asyncio.run(main())
"""


async def test_sigterm_ends_a_worker_process_cleanly_and_releases_what_it_had(
    broker: BrokerProcess, jobs: Queue[bytes], tmp_path: Path
) -> None:
    await jobs.enqueue_many([b"a", b"b", b"c"])
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    worker = await asyncio.create_subprocess_exec(
        sys.executable, str(program), broker.url, stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert {await worker.stdout.readline() for _ in range(2)} == {b"a\n", b"b\n"}
        worker.terminate()
        assert await worker.stdout.readline() == b"ended\n"
        assert await worker.wait() == 0
    messages = await jobs.receive(10, wait=5)
    assert sorted(message.text for message in messages) == ["a", "b", "c"]
    assert {message.attempt for message in messages} == {1}


# Closing the client


async def test_closing_the_client_ends_the_loop_and_gives_everything_back(
    broker: BrokerProcess, jobs: Queue[bytes]
) -> None:
    await jobs.enqueue_many([b"x"] * 10)
    closing = await penstock.connect(broker.url)
    handled: list[int] = []

    async def consume() -> None:
        async with closing.queue("jobs").consume(prefetch=5) as consumer:
            async for message in consumer:
                async with message:
                    handled.append(message.offset)
                    if len(handled) == 3:
                        await closing.close()

    async with asyncio.timeout(SECONDS):
        await consume()
        messages = await jobs.receive(10, wait=5)
        assert [message.attempt for message in messages] == [1] * len(messages)
        assert len(messages) + (await jobs.stats()).settled_total == 10


async def test_closing_sends_the_staged_acks(broker: BrokerProcess, jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    async with penstock.connect(broker.url) as client, (await client.queue("jobs").receive())[0]:
        pass
    assert (await jobs.stats()).settled_total == 1
