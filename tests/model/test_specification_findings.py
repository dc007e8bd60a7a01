"""What came to light while the wire and the storage were specified, one test per finding."""

from random import Random
from typing import Any

import msgpack
import pytest
from tests.model.bench import Bench, batch, got

from penstock_broker.session import Connection
from penstock_protocol.batch import BatchBuilder, Kind
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document


def with_cell(kind: Kind, cell: bytes) -> memoryview:
    builder = BatchBuilder()
    builder.add(b"x", [(kind, cell)])
    return memoryview(builder.encode())


def checkpointed_and_restarted(bench: Bench) -> tuple[Bench, Connection]:
    bench.core.engine.checkpoint_now()
    bench.settle()
    again = Bench(bench.files.crash(Random(1)), bench.clock)
    return again, again.connect()


def created(bench: Bench, me: Connection, name: str, **settings: Any) -> Any:
    return bench.call(me, q.CreateQueue(name, settings, "check"))


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(msgpack.packb([1]), id="an array"),
        pytest.param(msgpack.packb({1: 2}), id="keys that are no text"),
    ],
)
def test_find_by_header_passes_over_headers_that_are_none(cell: bytes) -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "a")
    bench.call(me, q.Enqueue("a", with_cell(Kind.HEADERS, cell)))
    found = bench.call(me, q.Find("a", 10, 0, {"header": "user", "value": 1}))
    assert found.slices == 0


def test_altered_queue_over_a_topic_is_there_after_a_checkpoint() -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, t.CreateTopic("events", {"partitions": 2}, "check"))
    created(bench, me, "work", source="events")
    bench.until_taken(me, t.Produce("events", 1, None, batch(b"a")))
    bench.call(me, q.AlterQueue("work", {"visibility_timeout": 5_000}))
    again, you = checkpointed_and_restarted(bench)
    assert [each.bodies for each in again.receive(you, "work")] == [[b"a"]]


def test_altered_schedule_keeps_its_next_run_through_a_checkpoint() -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "jobs")
    bench.call(me, c.CreateSchedule("tick", "jobs", {"every": 3_600_000}, "check", batch(b"x")))
    bench.core.engine.checkpoint_now()
    bench.settle()
    altered = unpack_document(bench.call(me, c.AlterSchedule("tick", {"every": 600_000})).payload)
    again, you = checkpointed_and_restarted(bench)
    (listed,) = unpack_document(again.call(you, c.ListSchedules("", "", 10, 1)).payload)["items"]
    assert listed["next"] == altered["next"]


def test_run_waits_for_a_journal_that_is_busy() -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "jobs")
    bench.call(me, c.CreateSchedule("tick", "jobs", {"every": 10_000}, "check", batch(b"x")))
    full, bench.core.engine.disk_full = bench.core.engine.disk_full, True
    bench.clock.advance(10_000)
    bench.core.tick(bench.clock.now())
    assert bench.core.registry.schedule("tick").missed == 0
    bench.core.engine.disk_full = full
    bench.clock.advance(2_000)
    bench.settle()
    assert (bench.queue("jobs").ready, bench.core.registry.schedule("tick").missed) == (1, 0)


def test_queue_that_looks_for_no_duplicates_remembers_no_ids() -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "a", dedup_window=0)
    bench.call(me, q.Enqueue("a", with_cell(Kind.DEDUP_ID, msgpack.packb("id"))))
    assert len(bench.queue("a").indexes.dedup) == 0


def test_weights_are_the_same_after_a_restart() -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "a", fair=True, group_weights=("x", 2.0))
    again, you = checkpointed_and_restarted(bench)
    assert not isinstance(created(again, you, "a", group_weights=("x", 2.0)), Exception)


def test_find_and_peek_agree_on_a_message_in_flight() -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "a")
    bench.enqueue(me, "a", b"x")
    bench.receive(me, "a")
    (peeked,) = got(bench.call(me, q.Peek("a", 10, "in_flight")))
    (found,) = got(bench.call(me, q.Find("a", 10, 0, {})))
    assert peeked.stamps.delivery == found.stamps.delivery == 1


def test_message_that_was_never_handed_out_counts_no_delivery() -> None:
    bench = Bench()
    me = bench.connect()
    created(bench, me, "a", delay=60_000)
    bench.enqueue(me, "a", b"x")
    (peeked,) = got(bench.call(me, q.Peek("a", 10, "delayed")))
    assert (peeked.stamps.delivery, peeked.stamps.attempt) == (0, 1)
