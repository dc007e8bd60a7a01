"""A queue over a topic: each record is settled by itself, and stays in the topic."""

from random import Random
from typing import Any

import pytest
from tests.model.bench import Bench, batch, got

from penstock_broker.session import Connection
from penstock_broker.storage.entries import Kind, Part
from penstock_protocol.errors import Conflict, Invalid, NotFound
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import Range, encode_ranges


def bench_with(*, partitions: int = 1, **settings: Any) -> tuple[Bench, Connection]:
    bench = Bench()
    me = bench.connect()
    bench.call(me, t.CreateTopic("events", {"partitions": partitions}, "check"))
    created = bench.call(me, q.CreateQueue("work", {"source": "events", **settings}, "check"))
    assert not isinstance(created, Exception), created
    return bench, me


def produce(bench: Bench, me: Connection, *bodies: bytes, partition: int = 0) -> Any:
    return bench.until_taken(me, t.Produce("events", partition, None, batch(*bodies)))


def bodies(slices: list[Any]) -> list[bytes]:
    return [body for each in slices for body in each.bodies]


def range_of(each: Any) -> Range:
    stamps = each.stamps
    return Range(stamps.token, stamps.first, stamps.partition, stamps.messages)


def stats(bench: Bench, me: Connection) -> dict[str, Any]:
    return dict(unpack_document(bench.call(me, q.DescribeQueue("work")).payload)["stats"])


def restarted(bench: Bench) -> tuple[Bench, Connection]:
    again = Bench(bench.files.crash(Random(1)), bench.clock)
    return again, again.connect()


def test_records_are_messages_and_an_ack_settles_one() -> None:
    bench, me = bench_with()
    produce(bench, me, b"a", b"b", b"c")
    (found,) = bench.receive(me, "work")
    assert found.bodies == [b"a", b"b", b"c"]
    bench.ack(me, "work", Range(found.stamps.token, 1, 0, 1))
    assert (stats(bench, me)["in_flight"], stats(bench, me)["settled_total"]) == (2, 1)
    fetched = bench.call(me, t.Fetch("events", 0, 0, 10, 1 << 20, 0))
    assert bodies(got(fetched)) == [b"a", b"b", b"c"]


def test_waiting_receive_gets_a_record_as_it_is_produced() -> None:
    bench, me = bench_with()
    correlation = bench.ask(me, q.Receive("work", 10, 60_000))
    bench.settle()
    produce(bench, me, b"a")
    assert bodies(got(bench.replies.pop((me, correlation)))) == [b"a"]


def test_every_partition_has_its_own_settlement() -> None:
    bench, me = bench_with(partitions=3)
    for partition in range(3):
        produce(bench, me, b"p%d" % partition, partition=partition)
    found = [each for _ in range(3) for each in bench.receive(me, "work")]
    assert sorted(bodies(found)) == [b"p0", b"p1", b"p2"]
    assert sorted(each.stamps.partition for each in found) == [0, 1, 2]
    bench.ack(me, "work", *(range_of(each) for each in found[:2]))
    bench.call(me, q.Nack("work", q.Outcome.RETRY, 0, "x", memoryview(encode_ranges([range_of(found[2])]))))
    (again,) = bench.receive(me, "work")
    assert (again.stamps.partition, again.stamps.attempt) == (found[2].stamps.partition, 2)


@pytest.mark.parametrize("checkpointed", [True, False])
def test_settlement_survives_a_restart(checkpointed: bool) -> None:
    bench, me = bench_with(partitions=2)
    for partition in range(2):
        produce(bench, me, b"0", b"1", b"2", partition=partition)
    found = [each for _ in range(2) for each in bench.receive(me, "work")]
    for each in found:
        bench.ack(me, "work", Range(each.stamps.token, 1, each.stamps.partition, 1))
    if checkpointed:
        bench.core.engine.checkpoint_now()
        bench.settle()
    again, you = restarted(bench)
    left = [each for _ in range(4) for each in again.receive(you, "work")]
    assert sorted(bodies(left)) == [b"0", b"0", b"2", b"2"]
    assert all(each.stamps.flags & 1 for each in left)


def test_dead_record_goes_to_the_dead_letter_queue_and_stays_in_the_topic() -> None:
    bench, me = bench_with(max_attempts=1)
    produce(bench, me, b"poison", b"fine")
    (found,) = bench.receive(me, "work")
    first = Range(found.stamps.token, 0, 0, 1)
    bench.call(me, q.Nack("work", q.Outcome.RETRY, None, "no", memoryview(encode_ranges([first]))))
    (dead,) = bench.receive(me, "work.dead")
    assert dead.bodies == [b"poison"]
    assert dead.stamps.origin_log == bench.core.registry.topics["events"].partitions[0].uuid
    assert bodies(got(bench.call(me, t.Fetch("events", 0, 0, 10, 1 << 20, 0)))) == [b"poison", b"fine"]


@pytest.mark.parametrize(("start", "expected"), [("earliest", [b"old", b"new"]), ("latest", [b"new"])])
def test_queue_begins_where_it_is_told(start: str, expected: list[bytes]) -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, t.CreateTopic("events", {}, "check"))
    produce(bench, me, b"old")
    bench.call(me, q.CreateQueue("work", {"source": "events", "source_start": start}, "check"))
    produce(bench, me, b"new")
    assert bodies(bench.receive(me, "work")) == expected


def test_several_queues_over_one_topic_do_not_know_each_other() -> None:
    bench, me = bench_with()
    bench.call(me, q.CreateQueue("other", {"source": "events"}, "check"))
    produce(bench, me, b"a")
    (found,) = bench.receive(me, "work")
    bench.ack(me, "work", range_of(found))
    assert bodies(bench.receive(me, "other")) == [b"a"]


def test_what_retention_took_is_no_message_any_more() -> None:
    bench, me = bench_with()
    for _ in range(40):
        produce(bench, me, bytes(4_000))
    bench.call(me, t.AlterTopic("events", {"retention": 1_000}))
    partition = bench.core.registry.topics["events"].partitions[0]
    for _ in range(200):
        bench.clock.advance(10_000)
        bench.settle()
    assert partition.log.start > 0
    produce(bench, me, b"kept")
    found = bench.receive(me, "work")
    assert found[0].stamps.first >= partition.log.start
    assert bodies(found)[-1] == b"kept"


def left_after_retention(bench: Bench, me: Connection) -> dict[str, Any]:
    """Records are produced, all but the last ones are taken by retention; the queue's counts then."""
    for _ in range(40):
        produce(bench, me, bytes(4_000))
    bench.call(me, t.AlterTopic("events", {"retention_bytes": 10_000}))
    bench.clock.advance(2_000)
    bench.settle()
    return stats(bench, me)


def test_what_retention_took_is_counted_though_nobody_asks() -> None:
    bench, me = bench_with()
    counts = left_after_retention(bench, me)
    partition = bench.core.registry.topics["events"].partitions[0]
    assert partition.log.start > 30
    assert (counts["ready"], counts["settled_total"]) == (40 - partition.log.start, partition.log.start)
    assert bench.core.registry.queues["work"].counters["expired"] == partition.log.start


def test_dead_letter_without_room_is_gone_when_retention_takes_it() -> None:
    bench, me = bench_with(max_attempts=1)
    bench.call(me, q.CreateQueue("work.dead", {"max_messages": 0}, "alter"))
    produce(bench, me, b"poison")
    (found,) = bench.receive(me, "work")
    payload = memoryview(encode_ranges([range_of(found)]))
    bench.call(me, q.Nack("work", q.Outcome.RETRY, None, "no", payload))
    assert stats(bench, me)["waiting"] == 1
    assert left_after_retention(bench, me)["waiting"] == 0
    bench.call(me, q.AlterQueue("work.dead", {"max_messages": 10}))
    bench.clock.advance(5_000)
    bench.settle()
    assert bench.receive(me, "work.dead") == []


def test_record_that_dies_in_hand_after_retention_took_it_has_expired() -> None:
    bench, me = bench_with()
    produce(bench, me, b"poison", b"fine")
    (found,) = bench.receive(me, "work")
    assert left_after_retention(bench, me)["in_flight"] == 2
    payload = memoryview(encode_ranges([range_of(found)]))
    bench.call(me, q.Nack("work", q.Outcome.DEAD_LETTER, None, "no", payload))
    assert stats(bench, me)["in_flight"] == 0
    assert bench.core.registry.queues["work"].counters["expired"] == stats(bench, me)["settled_total"]
    assert "work.dead" not in bench.core.registry.queues


def test_what_retention_took_before_a_crash_is_counted_after_it() -> None:
    bench, me = bench_with()
    for _ in range(40):
        produce(bench, me, bytes(4_000))
    log = bench.core.registry.topics["events"].partitions[0].log
    bench.core.engine.append([Part(log.uuid, Kind.TRIMMED, 30)], wall=bench.clock.now().wall)
    bench.settle()
    assert stats(bench, me)["ready"] == 40
    again, you = restarted(bench)
    again.settle()
    counts = stats(again, you)
    assert (counts["ready"], counts["settled_total"]) == (10, 30)


def test_rate_and_limit_in_flight_are_of_the_queue_and_not_of_each_partition() -> None:
    bench, me = bench_with(partitions=4, rate=10, max_in_flight=3)
    for partition in range(4):
        produce(bench, me, *[b"x"] * 10, partition=partition)
    assert sum(len(each.bodies) for _ in range(4) for each in bench.receive(me, "work")) == 1
    taken = 1
    for _ in range(20):
        bench.clock.advance(100)
        taken += sum(len(each.bodies) for _ in range(4) for each in bench.receive(me, "work"))
    assert taken == stats(bench, me)["in_flight"] == 3


def test_purge_settles_what_is_there() -> None:
    bench, me = bench_with(partitions=2)
    produce(bench, me, b"a", partition=0)
    produce(bench, me, b"b", b"c", partition=1)
    assert unpack_document(bench.call(me, q.Purge("work")).payload) == {"purged": 3}
    assert bench.receive(me, "work") == []


def test_message_is_found_and_explained_by_its_id_in_the_topic() -> None:
    bench, me = bench_with(partitions=2)
    produce(bench, me, b"a", partition=1)
    log = bench.core.registry.topics["events"].partitions[1].uuid
    explained = unpack_document(bench.call(me, q.Explain("work", log, 0)).payload)
    assert explained["state"] == "ready"
    cursor, states = 0, []
    while cursor is not None:
        found = bench.call(me, q.Find("work", 10, cursor, {"id_log": log, "id_offset": 0}))
        states += found.states
        cursor = found.next
    assert states == ["ready"]


def test_settled_records_are_replayed_into_another_queue_and_dead_ones_go_where_they_are_sent() -> None:
    bench, me = bench_with(partitions=2, max_attempts=1)
    bench.call(me, q.CreateQueue("again", {}, "check"))
    for partition in range(2):
        produce(bench, me, b"p%d" % partition, partition=partition)
    found = [each for _ in range(2) for each in bench.receive(me, "work")]
    bench.ack(me, "work", range_of(found[0]))
    bench.call(
        me, q.Nack("work", q.Outcome.RETRY, None, "x", memoryview(encode_ranges([range_of(found[1])])))
    )
    assert isinstance(bench.call(me, q.Transfer("work", None, "settled", 10, 0, {})), Invalid)
    assert isinstance(bench.call(me, q.Transfer("work.dead", None, "ready", 10, 0, {})), Invalid)
    cursor: int | None = 0
    copied = 0
    while cursor is not None:
        reply = bench.call(me, q.Transfer("work", "again", "settled", 10, cursor, {}))
        document = unpack_document(reply.payload)
        copied, cursor = copied + document["messages"], document["next"]
    assert copied == 2
    moved = bench.call(me, q.Transfer("work.dead", "again", "ready", 10, 0, {}))
    assert unpack_document(moved.payload)["messages"] == 1
    everything = [each for _ in range(3) for each in bench.receive(me, "again")]
    assert sorted(bodies(everything)) == sorted([b"p0", b"p1", *found[1].bodies])


def test_queue_and_topic_protect_each_other() -> None:
    bench, me = bench_with()
    assert isinstance(bench.enqueue(me, "work", b"x"), Invalid)
    assert isinstance(bench.call(me, t.DeleteTopic("events")), Conflict)
    assert isinstance(bench.call(me, t.AlterTopic("events", {"cleanup": "compact"})), Invalid)
    assert isinstance(bench.call(me, q.AlterQueue("work", {"source": None})), Invalid)
    assert isinstance(bench.call(me, q.CreateQueue("x", {"source": "nowhere"}, "check")), NotFound)
    bench.call(me, q.DeleteQueue("work"))
    produce(bench, me, b"after")
    assert not isinstance(bench.call(me, t.DeleteTopic("events")), Exception)
