"""Tables: the last value of every key, whatever log and broker do meanwhile. The test is the broker."""

import asyncio
import gc
from collections import deque
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.client_wire import LOG, FakeClient, delivered, payload_of, turns

from penstock import codecs, table
from penstock.errors import ClientClosed, Corrupt, Invalid, NotFound, OffsetOutOfRange, Timeout
from penstock.table import Change, Row, Rows, Table
from penstock.topic import Topic
from penstock_protocol.batch import Kind
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document
from penstock_protocol.messages.topics import Commit, DescribeTopic, Fetch, Fetched

Entry = tuple[bytes | None, bytes | None, int]
"""(key, value, time of the append); value None is a tombstone."""
FETCHED_MAX = 3


class Broker(FakeClient):
    """A compacted topic in memory. Fetches bring three records; at the end they wait for `append`."""

    def __init__(self, partitions: int = 1, cleanup: str = "compact") -> None:
        super().__init__()
        self.logs: list[list[Entry]] = [[] for _ in range(partitions)]
        self.starts = [0] * partitions
        self.cleanup, self.uuid = cleanup, LOG.bytes
        self.time = 1
        self.failures: deque[Exception] = deque()
        """What the next fetches are answered with."""
        self.held: set[int] = set()
        """Partitions whose fetches wait."""
        self.wire.answers = {DescribeTopic: lambda _: self._described(), Fetch: self._fetch}

    def _described(self) -> Any:
        partitions = [
            {"start": start, "end": len(log)} for start, log in zip(self.starts, self.logs, strict=True)
        ]
        settings = {"cleanup": self.cleanup}
        described = {"uuid": self.uuid, "settings": settings, "partitions": partitions}
        return Document(memoryview(pack_document(described)))

    def _fetch(self, request: Fetch) -> Any:
        partition, offset = request.partition, request.offset
        if self.failures:
            return self.failures.popleft()
        log, start = self.logs[partition], self.starts[partition]
        if not start <= offset <= len(log):
            return OffsetOutOfRange("gone", detail={"start": start, "end": len(log)})
        some = log[offset : offset + FETCHED_MAX]
        if not some or partition in self.held:
            return None
        parts = []
        for number, (key, value, time) in enumerate(some):
            cells: list[tuple[Kind, Any]] = [] if key is None else [(Kind.KEY, msgpack.packb(key))]
            cells += [(Kind.ABSENT, 1)] if value is None else []
            stamps = {"first": offset + number, "partition": partition, "token": 0, "time": time}
            parts.append(delivered(value or b"", cells=[cells], **stamps))
        slices, payload = payload_of(*parts)
        return Fetched(slices, start, len(log), offset + len(some), payload)

    def append(self, *records: tuple[bytes | None, bytes | None], partition: int = 0) -> None:
        self.logs[partition] += [(key, value, self.time) for key, value in records]
        self.time += 1
        self.wire.answer(Fetch)

    def table(self, codec: codecs.Codec[Any] = codecs.raw, **options: Any) -> Table[Any]:
        client: Any = self
        return Topic(client, "lines", codec).table(**options)


async def shown(table: Table[Any]) -> dict[bytes, Any]:
    await turns(20)
    return dict(table.items())


# What it shows


async def test_the_last_value_of_each_key_is_there_once_it_is_ready() -> None:
    broker = Broker(2)
    broker.append((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (None, b"no key"), (b"a", b"4"), partition=0)
    broker.append((b"c", b"5"), partition=1)
    async with broker.table() as table:
        assert not table.is_ready
        await table.ready()
        assert table.is_ready
        assert dict(table.items()) == {b"a": b"4", b"b": b"2", b"c": b"5"}
        assert (table["a"], table.get(b"c"), table.get("d"), table.get("d", 7)) == (b"4", b"5", None, 7)
        assert ("a" in table, b"d" in table, len(table)) == (True, False, 3)
        assert sorted(table) == sorted(table.keys()) == [b"a", b"b", b"c"]
        with pytest.raises(KeyError):
            table["d"]
    assert broker.wire.of(Commit) == []
    assert broker.consumers == set()


async def test_an_empty_topic_is_ready_without_a_record() -> None:
    async with Broker(3).table() as table:
        await table.ready()
        assert len(table) == 0


async def test_it_follows_the_log_and_a_tombstone_takes_its_key_away() -> None:
    broker = Broker()
    broker.append((b"a", b"1"), (b"b", b"1"))
    async with broker.table() as table:
        assert await shown(table) == {b"a": b"1", b"b": b"1"}
        broker.append((b"a", None), (b"b", b"2"), (b"c", b""))
        assert await shown(table) == {b"b": b"2", b"c": b""}
        broker.append((b"a", b"3"))
        assert await shown(table) == {b"a": b"3", b"b": b"2", b"c": b""}


async def test_values_are_decoded_when_they_are_asked_for_and_only_those() -> None:
    broker = Broker()
    broker.append((b"a", b'{"n":1}'), (b"b", b"{"))
    async with broker.table(codecs.json) as table:
        await table.ready()
        assert table["a"] == {"n": 1}
        table["a"]["n"] = 2
        assert table["a"] == {"n": 1}, "whoever asks gets his own"
        with pytest.raises(ValueError, match="property name"):
            table.get("b")


async def test_what_is_looked_at_stays_while_the_table_changes() -> None:
    broker = Broker()
    broker.append((b"a", b"1"), (b"b", b"1"))
    async with broker.table() as table:
        await table.ready()
        items = table.items()
        broker.append((b"a", None), (b"c", b"1"))
        await turns(20)
        assert list(items) == [(b"a", b"1"), (b"b", b"1")]
        assert sorted(table) == [b"b", b"c"]


async def test_records_by_the_thousand_leave_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "TURN_RECORDS", 1)
    broker = Broker()
    broker.append((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    async with broker.table() as opened:
        seen = set()
        while not opened.is_ready:
            seen.add(len(opened))
            await asyncio.sleep(0)
        assert {1, 2} <= seen


# Several partitions


@pytest.mark.parametrize("held", [0, 1])
async def test_a_key_that_moved_to_a_new_partition_has_its_later_value(held: int) -> None:
    """In whatever order they are read."""
    broker = Broker(2)
    broker.append((b"moved", b"old"), (b"gone", b"old"), (b"stays", b"old"), partition=0)
    broker.append((b"moved", b"new"), (b"gone", None), partition=1)
    broker.held = {held}
    async with broker.table() as table:
        await turns(20)
        broker.held = set()
        broker.wire.answer(Fetch)
        await table.ready()
        assert dict(table.items()) == {b"moved": b"new", b"stays": b"old"}
        assert table._rows.buried == {}, "nothing older can come any more"


async def test_partitions_that_the_topic_gets_are_read_too() -> None:
    broker = Broker()
    broker.append((b"a", b"1"))
    async with broker.table(refresh=0.001) as table:
        await table.ready()
        watch = table.watch()
        broker.logs.append([])
        broker.starts.append(0)
        broker.append((b"b", b"2"), partition=1)
        async with asyncio.timeout(5):
            assert await anext(watch) == (b"b", None, b"2")
        assert dict(table.items()) == {b"a": b"1", b"b": b"2"}


async def test_no_more_than_some_partitions_are_loaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LOADING_MAX", 2)
    broker = Broker(5)
    for partition in range(5):
        broker.append((b"%d" % partition, b"x"), partition=partition)
    broker.held = set(range(5))
    async with broker.table() as opened:
        await turns(20)
        assert {fetch.partition for fetch in broker.wire.of(Fetch)} == {0, 1}
        broker.held = set()
        broker.wire.answer(Fetch)
        await opened.ready()
        assert len(opened) == 5
        await turns(20)
        at_the_end = {fetch.partition for fetch in broker.wire.of(Fetch) if fetch.offset == 1}
        assert at_the_end == set(range(5)), "those that wait for more do not count"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([b"a", b"b"]),
            st.none() | st.binary(max_size=1),
            st.integers(0, 9),
        ),
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_rows_end_up_the_same_in_whatever_order_partitions_come(records: list[Any], random: Any) -> None:
    """Each partition in order, the times of its appends never falling; no two partitions at the same time."""
    logs: dict[int, list[Any]] = {partition: [] for partition in range(3)}
    for partition, key, value, time in records:
        before = logs[partition][-1][2] if logs[partition] else 0
        logs[partition].append((key, value, max(before, time * 3 + partition)))
    last: dict[bytes, tuple[int, bytes | None]] = {}
    for log in logs.values():
        for key, value, time in log:
            if key not in last or time >= last[key][0]:
                last[key] = time, value
    rows = Rows()
    waiting = {partition: deque(log) for partition, log in logs.items() if log}
    while waiting:
        partition = random.choice(sorted(waiting))
        key, value, time = waiting[partition].popleft()
        rows.put(key, value, partition, time, loading=True)
        waiting = {partition: log for partition, log in waiting.items() if log}
    expected = {key: value for key, (_, value) in last.items() if value is not None}
    assert {key: row.value for key, row in rows.live.items()} == expected


def test_a_tombstone_leaves_nothing_once_all_is_read() -> None:
    rows = Rows()
    rows.put(b"a", b"1", 0, 1, loading=False)
    assert rows.live == {b"a": Row(b"1", 0, 1)}
    rows.put(b"a", None, 0, 2, loading=False)
    assert (rows.live, rows.buried) == ({}, {})


# Watching


async def test_a_watch_tells_of_every_change_from_its_call_on() -> None:
    broker = Broker()
    broker.append((b"a", b"1"))
    async with broker.table() as table:
        await table.ready()
        watch = table.watch()
        broker.append((b"b", b"1"))
        broker.append((b"a", b"2"))
        assert await anext(watch) == Change(b"b", None, b"1")
        assert await anext(watch) == Change(b"a", b"1", b"2")
        reading = asyncio.ensure_future(anext(watch))
        await turns()
        assert not reading.done()
        broker.append((b"a", None))
        assert await reading == (b"a", b"2", None)


async def test_a_watch_from_before_it_was_ready_begins_with_what_there_is() -> None:
    broker = Broker()
    broker.append((b"a", b"1"), (b"b", b"2"))
    async with broker.table() as table:
        watch = table.watch()
        assert [await anext(watch), await anext(watch)] == [(b"a", None, b"1"), (b"b", None, b"2")]


async def test_a_slow_watch_is_told_once_per_key_from_what_it_knew_to_the_last() -> None:
    broker = Broker()
    broker.append((b"a", b"1"), (b"c", b"1"))
    async with broker.table() as table:
        await table.ready()
        watch = table.watch()
        for number in range(2, 9):
            broker.append((b"a", b"%d" % number), (b"b", b"%d" % number))
            await turns(20)
        broker.append((b"c", None))
        broker.append((b"c", b"1"))
        broker.append((b"d", b"1"))
        broker.append((b"d", None))
        broker.append((b"e", b"1"))
        await turns(50)
        assert len(watch._pending) == 5, "one per key, however many changes there were"
        found = [await anext(watch) for _ in range(3)]
        assert found == [(b"a", b"1", b"8"), (b"b", None, b"8"), (b"e", None, b"1")]


async def test_a_watch_may_be_of_one_key_or_of_a_prefix() -> None:
    broker = Broker()
    async with broker.table() as table:
        one, some = table.watch("user:1"), table.watch(prefix="user:")
        broker.append((b"user:2", b"x"), (b"other", b"x"), (b"user:1", b"y"))
        assert await anext(one) == (b"user:1", None, b"y")
        assert [(await anext(some)).key for _ in range(2)] == [b"user:2", b"user:1"]
        with pytest.raises(Invalid, match="exclude each other"):
            table.watch("a", prefix="b")


async def test_a_cancelled_look_for_a_change_loses_none() -> None:
    broker = Broker()
    async with broker.table() as table:
        watch = table.watch()
        reading = asyncio.ensure_future(anext(watch))
        await turns()
        reading.cancel()
        broker.append((b"a", b"1"))
        await turns()
        assert await anext(watch) == (b"a", None, b"1")


async def test_a_watch_that_nobody_holds_is_forgotten() -> None:
    async with Broker().table() as table:
        watch = table.watch()
        assert len(table._watches) == 1
        del watch
        gc.collect()
        assert len(table._watches) == 0


async def test_watches_end_with_the_table() -> None:
    broker = Broker()
    async with broker.table() as table:
        watch = table.watch()
        reading = asyncio.ensure_future(anext(watch, "ended"))
        await turns()
        assert broker.consumers == {table}
    assert await reading == "ended"
    assert [change async for change in watch] == []
    for ask in (lambda: table.get("a"), lambda: len(table), table.watch, table.keys, table.items):
        with pytest.raises(ClientClosed, match="table is closed"):
            ask()


# What goes wrong


async def test_a_broker_that_cannot_be_reached_is_asked_again() -> None:
    broker = Broker()
    broker.append((b"a", b"1"))
    broker.failures.append(Timeout("too slow"))
    async with broker.table() as table:
        await table.ready()
        assert table["a"] == b"1"


async def test_what_ended_the_reading_is_raised_by_every_call_and_by_watches() -> None:
    broker = Broker(2)
    broker.append((b"a", b"1"), partition=1)
    async with broker.table() as table:
        await table.ready()
        watch = table.watch()
        reading = asyncio.ensure_future(anext(watch))
        await turns()
        broker.failures.append(Corrupt("offsets 1 to 1 are damaged on the disk"))
        broker.append((b"a", b"2"), partition=1)
        with pytest.raises(Corrupt):
            await reading
        for ask in (
            lambda: table["a"],
            lambda: "a" in table,
            lambda: table.is_ready,
            table.watch,
            table.items,
        ):
            with pytest.raises(Corrupt):
                ask()
        with pytest.raises(Corrupt):
            await table.ready()
        with pytest.raises(Corrupt):
            await anext(watch)
        await turns()
        assert all(task.done() for task in table._tasks()), "nothing goes on reading for nobody"


async def test_a_failure_before_it_is_ready_ends_the_waiting() -> None:
    broker = Broker()
    broker.append((b"a", b"1"))
    broker.failures.append(NotFound("no topic"))
    async with broker.table() as table:
        waiting = asyncio.ensure_future(table.ready())
        await turns(20)
        assert waiting.done()
        with pytest.raises(NotFound):
            await waiting


async def test_a_partition_whose_next_offset_has_gone_is_read_anew() -> None:
    broker = Broker(2)
    broker.append((b"a", b"1"), (b"b", b"1"), (b"c", b"1"))
    broker.append((b"d", b"1"), partition=1)
    async with broker.table() as table:
        await table.ready()
        watch = table.watch()
        broker.held = {0}
        broker.append((b"a", b"2"), (b"b", None), (b"e", b"1"))
        broker.logs[0] += [(b"c", b"1", 9), (b"f", b"1", 9)]
        broker.starts[0] = 6  # retention: all but the last two; the fetch that waits is below
        broker.wire.answer(Fetch)
        await turns(20)
        assert not table.is_ready
        broker.held = set()
        broker.wire.answer(Fetch)
        await table.ready()
        assert dict(table.items()) == {b"c": b"1", b"d": b"1", b"f": b"1"}, "a and b are no longer in the log"
        told = {change.key: change.new for change in [await anext(watch) for _ in range(3)]}
        assert told == {b"a": None, b"b": None, b"f": b"1"}, "c is what it was"
        assert await shown(table) == {b"c": b"1", b"d": b"1", b"f": b"1"}


async def test_a_broker_that_does_not_describe_the_topic_now_is_asked_later() -> None:
    broker = Broker()
    async with broker.table(refresh=0.001) as table:
        answers = broker.wire.answers
        described, failures = answers[DescribeTopic], [Timeout("too slow")]
        answers[DescribeTopic] = lambda request: failures.pop() if failures else described(request)
        await broker.wire.until(DescribeTopic, 4)
        assert (failures, table.is_ready) == ([], True)


async def test_another_topic_of_the_same_name_is_not_taken_for_the_first() -> None:
    broker = Broker()
    async with broker.table(refresh=0.001) as table:
        await table.ready()
        broker.uuid = bytes(16)
        reading = asyncio.ensure_future(anext(table.watch()))
        with pytest.raises(NotFound, match="another has its name"):
            await reading


async def test_a_topic_that_is_not_compacted_is_refused_with_what_to_do() -> None:
    with pytest.raises(Invalid, match="is not compacted") as caught:
        async with Broker(cleanup="delete").table():
            pass
    assert "cleanup='compact'" in (caught.value.hint or "")
    async with Broker(cleanup="both").table() as table:
        await table.ready()


async def test_a_topic_with_too_many_partitions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PARTITIONS_MAX", 2)
    with pytest.raises(Invalid, match="has 3 partitions; a table reads 2"):
        async with Broker(3).table():
            pass


def test_a_refresh_without_a_pause_is_refused() -> None:
    with pytest.raises(Invalid, match="refresh=0"):
        Broker().table(refresh=0)
