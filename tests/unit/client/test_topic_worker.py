"""Working on records in parallel: order per key, watermarks, attempts, dead letters."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.client_wire import turns
from tests.fakes.topic_broker import Broker, Held

from penstock import codecs, commits, topic_worker
from penstock.errors import Invalid, NotFound, OutcomeUnknown, QueueFull
from penstock.message import DeadLetter, Retry
from penstock.queue import Queue
from penstock.record import Record
from penstock.topic_worker import Watermark
from penstock.values import Backoff
from penstock_protocol.batch import Kind
from penstock_protocol.messages.schema import unpack_document

AT_ONCE = Backoff(initial=0, max=0)


def keyed(*bodies: bytes, partitions: int = 1) -> Broker:
    """A topic of `key:rest` values; all of them in each partition."""
    broker = Broker(partitions)
    broker.keyed = True
    for partition in range(partitions):
        broker.append(*bodies, partition=partition)
    return broker


async def worked(
    broker: Broker, handler: Callable[[Record[bytes]], Awaitable[object]], **options: Any
) -> None:
    """Work on all there is."""
    partitions = range(len(broker.logs))
    async with asyncio.timeout(10), broker.consumer(*partitions, until="now") as consumer:
        await consumer.work(handler, **options)


# Watermarks


@given(st.permutations(range(30)), st.integers(0, 30))
def test_watermark_is_below_every_unfinished_offset_and_as_high_as_that_allows(
    order: list[int], most: int
) -> None:
    mark, finished = Watermark(), set()
    for offset in range(30):
        mark.begin(offset)
    rose = 0
    for offset in order[:most]:
        rose += mark.finish(offset)
        finished.add(offset)
        below = next((n for n in range(30) if n not in finished), 30)
        assert (-1 if mark.last is None else mark.last) == below - 1
        assert (rose, len(mark)) == (below, 30 - below)


@given(
    keys=st.lists(st.sampled_from([b"a", b"b", b"c", b""]), min_size=1, max_size=40),
    chances=st.builds(Random, st.integers(0, 1_000_000)),
    concurrency=st.integers(1, 8),
    ends_after=st.integers(1, 60),
)
def test_commits_cover_nothing_unfinished_and_keys_keep_their_order(
    keys: list[bytes], chances: Any, concurrency: int, ends_after: int
) -> None:
    asyncio.run(_work_at_random(keys, chances, concurrency, ends_after))


async def _work_at_random(keys: list[bytes], chances: Any, concurrency: int, ends_after: int) -> None:
    broker = keyed(*[b"%s:%d" % (key, number) for number, key in enumerate(keys)])
    done: list[int] = []
    running: set[bytes | None] = set()
    most = 0

    async def handler(record: Record[bytes]) -> None:
        nonlocal most
        assert record.key not in running
        running.add(record.key)
        most = max(most, len(running))
        await turns(chances.randrange(6))
        running.remove(record.key)
        if chances.random() < 0.2:
            raise Retry(0)
        done.append(record.offset)

    async with broker.consumer(until="now") as consumer:
        working = asyncio.ensure_future(
            consumer.work(handler, concurrency=concurrency, retry=AT_ONCE, max_attempts=1_000_000)
        )
        while not working.done() and len(done) < ends_after:
            await turns(1)
            committed = broker.committed.get(0, (0, ""))[0]
            assert set(range(committed)) <= set(done)
        working.cancel()
        await asyncio.wait([working])
    committed = broker.committed.get(0, (0, ""))[0]
    assert committed == next((n for n in range(len(keys)) if n not in done), len(keys))
    assert most <= concurrency
    for key in set(keys):
        offsets = [offset for offset in done if keys[offset] == key]
        assert [n for i, n in enumerate(offsets) if n not in offsets[:i]] == sorted(set(offsets))


# Working


async def test_records_are_handled_at_once_but_for_those_of_one_key() -> None:
    broker = keyed(b"a:0", b"a:1", b"b:2", b"c:3")
    begun: list[int] = []
    go_on = asyncio.Event()

    async def handler(record: Record[bytes]) -> None:
        begun.append(record.offset)
        await go_on.wait()

    working = asyncio.ensure_future(worked(broker, handler))
    await turns(30)
    assert begun == [0, 2, 3]
    go_on.set()
    await working
    assert begun == [0, 2, 3, 1]
    assert broker.committed == {0: (4, "")}


async def test_records_without_a_key_wait_for_nobody() -> None:
    broker = Broker()
    broker.append(*[b"x"] * 5)
    together = asyncio.Barrier(5)

    async def handler(record: Record[bytes]) -> None:
        await together.wait()

    await worked(broker, handler, concurrency=5)
    assert broker.committed == {0: (5, "")}


async def test_partitions_take_turns() -> None:
    broker = keyed(*[b"%d:" % n for n in range(30)], partitions=3)
    handled: list[int] = []

    async def handler(record: Record[bytes]) -> None:
        handled.append(record.partition)
        await turns(1)

    await worked(broker, handler, concurrency=3)
    assert {handled[:60].count(partition) for partition in range(3)} <= {18, 19, 20, 21, 22}


async def test_a_slow_record_holds_back_the_commit_but_not_the_others() -> None:
    broker = keyed(*[b"%d:" % n for n in range(30)])
    go_on, others = asyncio.Event(), asyncio.Event()
    done = 0

    async def handler(record: Record[bytes]) -> None:
        nonlocal done
        if record.offset == 7:
            await go_on.wait()
        done += 1
        if done == 29:
            others.set()

    async with broker.consumer(until="now") as consumer:
        working = asyncio.ensure_future(consumer.work(handler))
        await others.wait()
        await consumer.commits.store_finished(consumer.readers.values())
        assert broker.committed == {0: (7, "")}
        go_on.set()
        await working
    assert broker.committed == {0: (30, "")}


async def test_what_is_in_hand_of_a_partition_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_worker, "IN_HAND_MAX", 20)
    monkeypatch.setattr(topic_worker, "FEED_RECORDS", 5)
    broker = keyed(*[b"%d:" % n for n in range(200)])
    go_on = asyncio.Event()
    handled = 0

    async def handler(record: Record[bytes]) -> None:
        nonlocal handled
        handled += 1
        if record.offset == 0:
            await go_on.wait()

    working = asyncio.ensure_future(worked(broker, handler, concurrency=4))
    await turns(200)
    assert 15 < handled <= 20
    go_on.set()
    await working
    assert handled == 200


async def test_finished_records_are_committed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "AUTO_COMMIT_RECORDS", 10)
    broker = keyed(*[b"%d:" % n for n in range(40)])
    seen: list[int] = []

    async def handler(record: Record[bytes]) -> None:
        seen.append(broker.committed.get(0, (0, ""))[0])
        await turns(2)

    await worked(broker, handler, concurrency=2)
    assert max(seen) >= 20


# Attempts


async def test_failed_record_is_tried_again_while_its_key_waits(caplog: pytest.LogCaptureFixture) -> None:
    broker = keyed(b"a:0", b"a:1", b"b:2")
    handled: list[int] = []

    async def handler(record: Record[bytes]) -> None:
        handled.append(record.offset)
        if handled.count(0) < 3 and record.offset == 0:
            raise ValueError("not yet")

    await worked(broker, handler, retry=AT_ONCE, concurrency=1)
    assert handled == [0, 2, 0, 0, 1]
    assert caplog.text.count("the handler failed for <Record 0 of 'lines' partition 0>") == 2
    assert broker.committed == {0: (3, "")}


async def test_record_that_waits_for_its_next_attempt_occupies_no_runner() -> None:
    broker = keyed(b"a:0", b"b:1")
    reached = asyncio.Event()

    async def handler(record: Record[bytes]) -> None:
        if record.offset == 0:
            raise Retry(3_600)
        reached.set()

    async with broker.consumer(until="now") as consumer:
        working = asyncio.ensure_future(consumer.work(handler, concurrency=1))
        await reached.wait()
        working.cancel()
        await asyncio.wait([working])
    assert broker.committed == {}


def test_pauses_grow_and_are_bounded() -> None:
    broker = Broker()
    policy = topic_worker.Policy(5, Backoff(initial=1, factor=3, max=20, jitter=0.5), None)
    worker = topic_worker.Worker[bytes](broker.consumer(), turns, policy, 1)  # type: ignore[arg-type]
    assert [worker._pause(failures) for failures in (1, 2, 3, 4, 10_000)] == [1, 3, 9, 20, 20]
    broker.chance = lambda: 1.0  # type: ignore[method-assign]
    assert worker._pause(1) == 1.5


@pytest.mark.parametrize("error", [ValueError("bad"), DeadLetter("bad"), Retry(0)])
async def test_without_a_dead_letter_the_last_failure_ends_the_work_uncommitted(error: Exception) -> None:
    broker = keyed(b"a:0", b"b:1", b"c:2")

    async def handler(record: Record[bytes]) -> None:
        if record.offset == 1:
            raise error

    with pytest.raises(type(error)):
        await worked(broker, handler, retry=AT_ONCE, max_attempts=2, concurrency=1)
    assert broker.committed == {0: (1, "")}


async def test_handler_cancelled_from_within_has_failed() -> None:
    broker = keyed(b"a:0")

    async def handler(record: Record[bytes]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled from within"):
        await worked(broker, handler, max_attempts=1)


# Dead letters


async def test_dead_letter_in_a_queue_tells_its_story_and_is_finished_when_it_is_durable() -> None:
    broker = keyed(b"a:0", b"a:1")
    client: Any = broker
    publish, waiting = broker.publisher.publish, asyncio.Event()

    async def slowly(*args: Any, **options: Any) -> Any:
        waiting.set()
        await turns(20)
        assert broker.committed == {}
        assert handled == [0]
        return await publish(*args, **options)

    broker.publisher.publish = slowly  # type: ignore[method-assign]
    handled: list[int] = []

    async def handler(record: Record[bytes]) -> None:
        handled.append(record.offset)
        if record.offset == 0:
            raise DeadLetter("no such user")

    await worked(broker, handler, dead_letter=Queue(client, "dead", codecs.json))
    assert waiting.is_set()
    ((address, body, cells),) = broker.publisher.published
    assert (address.name, body) == ("dead", b"a:0")
    assert unpack_document(cells[Kind.HEADERS]) == {
        "x-penstock-origin": "01234567-89ab-cdef-0123-456789abcdef:0",
        "x-penstock-origin-topic": "lines",
        "x-penstock-origin-partition": 0,
        "x-penstock-origin-offset": 0,
        "x-penstock-origin-key": b"a",
        "x-penstock-reason": "no such user",
        "x-penstock-attempts": 1,
    }
    assert broker.committed == {0: (2, "")}


async def test_dead_letter_in_a_topic_keeps_its_key() -> None:
    broker = keyed(b"a:0")

    async def handler(record: Record[bytes]) -> None:
        raise Retry(0) from KeyError("user")

    dead = broker.topic(codecs.json, name="dead")
    await worked(broker, handler, max_attempts=3, retry=AT_ONCE, dead_letter=dead)
    ((address, body, cells),) = broker.publisher.published
    assert (address.name, body) == ("dead", b"a:0")
    assert unpack_document(cells[Kind.KEY]) == b"a"
    headers = unpack_document(cells[Kind.HEADERS])
    assert (headers["x-penstock-reason"], headers["x-penstock-attempts"]) == ("KeyError: 'user'", 3)
    assert "x-penstock-origin-key" not in headers


async def failing(record: Record[bytes]) -> None:
    raise DeadLetter("bad")


async def test_dead_letter_is_published_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_worker, "PAUSE_SECONDS", 0)
    broker = keyed(b"a:0")
    client: Any = broker
    tried: list[str] = []

    async def repeat() -> None:
        tried.append("repeated")

    async def publish(*args: Any, **options: Any) -> Any:
        tried.append("published")
        raise QueueFull("full") if len(tried) < 3 else OutcomeUnknown("lost", repeat=repeat)

    broker.publisher.publish = publish  # type: ignore[method-assign]
    await worked(broker, failing, dead_letter=Queue(client, "dead", codecs.raw))
    assert tried == ["published"] * 3 + ["repeated"]
    assert broker.committed == {0: (1, "")}


async def test_dead_letter_that_nobody_takes_ends_the_work() -> None:
    broker = keyed(b"a:0")
    client: Any = broker
    broker.publisher.error = NotFound("no queue 'dead'")
    with pytest.raises(NotFound):
        await worked(broker, failing, dead_letter=Queue(client, "dead", codecs.raw))
    assert broker.committed == {}


# The end


@pytest.mark.parametrize("by", ["cancel", "sigterm", "stop"])
async def test_the_end_lets_running_handlers_finish_and_leaves_the_rest(by: str) -> None:
    broker = keyed(*[b"%d:" % n for n in range(10)])
    handler = Held(at=2)
    async with broker.consumer() as consumer:
        working = asyncio.ensure_future(consumer.work(handler, concurrency=1))
        await handler.begun.wait()
        if by == "cancel":
            working.cancel()
        elif by == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            consumer.stop()
        await turns(10)
        assert not working.done()
        handler.go_on.set()
        await asyncio.wait([working])
        assert working.cancelled() is (by == "cancel")
    assert handler.handled == [0, 1, 2]
    assert broker.committed == {0: (3, "")}


async def test_handlers_that_outlast_the_grace_are_cancelled_and_their_records_not_committed() -> None:
    broker = keyed(b"a:0", b"b:1")
    begun = asyncio.Event()

    async def handler(record: Record[bytes]) -> None:
        if record.offset == 1:
            begun.set()
            await asyncio.Event().wait()

    async with broker.consumer() as consumer:
        working = asyncio.ensure_future(consumer.work(handler, grace=0))
        await begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait([working])
    assert broker.committed == {0: (1, "")}


async def test_refused_fetch_ends_the_work() -> None:
    broker = keyed(b"a:0")
    broker.starts[0], broker.committed[0] = 1, (0, "")
    with pytest.raises(Exception, match="gone"):
        await worked(broker, failing)


async def test_work_without_a_group_commits_nothing() -> None:
    broker = keyed(b"a:0")
    handled: list[int] = []

    async def handler(record: Record[bytes]) -> None:
        handled.append(record.offset)

    async with broker.consumer(group=None, until="now") as consumer:
        await consumer.work(handler)
    assert (handled, broker.committed) == ([0], {})


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"max_attempts": 0}, {"grace": -1}])
async def test_what_cannot_work_is_invalid(options: dict[str, Any]) -> None:
    async with Broker().consumer() as consumer:
        with pytest.raises(Invalid):
            await consumer.work(failing, **options)


async def test_a_consumer_works_once_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker = Broker()
    async with broker.consumer() as consumer:
        working = asyncio.ensure_future(consumer.work(failing))
        await turns()
        with pytest.raises(Invalid, match="works already"):
            await consumer.work(failing)
        working.cancel()
        await asyncio.wait([working])


async def test_dead_letter_by_name_is_refused_before_anything_is_handled() -> None:
    handled: list[str] = []

    async def handler(record: Record[bytes]) -> None:
        handled.append(record.text)

    with pytest.raises(Invalid, match="no queue and no topic"):
        await worked(keyed(b"a:1"), handler, dead_letter="jobs.dead")
    assert handled == []


# What can never be meant


OF_ITSELF = {"dead_letter": keyed(b"a:1").topic()}


@pytest.mark.parametrize(
    "wrong", [{"retry": 5}, {"concurrency": 0}, {"max_attempts": 0}, {"dead_letter": "dead"}, OF_ITSELF]
)
async def test_what_cannot_be_meant_is_refused_before_a_record_is_handled(wrong: dict[str, Any]) -> None:
    async def handler(_: Record[bytes]) -> None:
        raise AssertionError("nothing was to be handled")

    with pytest.raises(Invalid):
        await worked(keyed(b"a:1"), handler, **wrong)


async def test_what_cannot_be_called_is_no_handler() -> None:
    handler: Any = 7
    with pytest.raises(Invalid, match=r"handler=7 cannot be called.*async def"):
        await worked(keyed(b"a:1"), handler)


async def test_a_plain_function_ends_the_work_at_once_and_its_record_is_not_finished() -> None:
    broker, calls = keyed(b"a:1", b"a:2"), []
    handler: Any = calls.append
    with pytest.raises(Invalid, match=r"handler returned None, which cannot be awaited"):
        await worked(broker, handler)
    assert len(calls) == 1


async def test_a_function_that_returns_a_coroutine_is_a_handler() -> None:
    handled: list[bytes] = []

    async def handle(record: Record[bytes]) -> None:
        handled.append(record.value)

    await worked(keyed(b"a:1", b"a:2"), lambda record: handle(record))
    assert len(handled) == 2
