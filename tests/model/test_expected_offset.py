"""Expected offsets: a batch gets just the place its producer decided for, or none."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.bench import Bench, batch, got

from penstock_broker.session import Connection
from penstock_protocol.errors import Conflict, SequenceGap
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t

TOPIC = "orders"
PRODUCER_ID = 7


def bench_with_topic() -> tuple[Bench, Connection]:
    bench = Bench()
    me = bench.connect(producer_id=PRODUCER_ID)
    bench.call(me, t.CreateTopic(TOPIC, {"partitions": 2}, "check"))
    return bench, me


def produce(expected: int | None, *bodies: bytes, sequence: int | None = None) -> t.Produce:
    numbers = {} if sequence is None else {"producer_id": PRODUCER_ID, "sequence": sequence}
    return t.Produce(TOPIC, 1, expected, batch(*(bodies or (b"x",)), **numbers))


def values(bench: Bench, me: Connection) -> list[bytes]:
    fetched = bench.call(me, t.Fetch(TOPIC, 1, 0, 10_000, 1 << 20, 0))
    return [body for each in got(fetched) for body in each.bodies]


def test_batch_is_taken_at_the_offset_it_expects_and_nowhere_else() -> None:
    bench, me = bench_with_topic()
    assert bench.call(me, produce(0, b"a", b"b")).first == 0
    for wrong in (0, 1, 3):
        refused = bench.call(me, produce(wrong, b"no"))
        assert isinstance(refused, Conflict)
        assert refused.detail == {"partition": 1, "expected": wrong, "end": 2}
        assert "expect 2" in refused.hint
    assert bench.call(me, produce(2, b"c")).first == 2
    assert values(bench, me) == [b"a", b"b", b"c"]


def test_retry_gets_its_first_outcome_though_the_partition_has_gone_on() -> None:
    bench, me = bench_with_topic()
    assert bench.call(me, produce(0, b"a", sequence=0)).first == 0
    bench.call(me, produce(None, b"b"))
    again = bench.call(me, produce(0, b"a", sequence=0))
    assert (again.first, again.duplicate) == (0, True)
    life = Bench(bench.files.crash(Random(1)), bench.clock)
    you = life.connect(producer_id=PRODUCER_ID)
    after = life.call(you, produce(0, b"a", sequence=0))
    assert (after.first, after.duplicate) == (0, True)
    assert values(life, you) == [b"a", b"b"]


def test_conflict_uses_up_no_sequence() -> None:
    bench, me = bench_with_topic()
    asked = [bench.ask(me, produce(expected, sequence=n)) for n, expected in enumerate((0, 9, None))]
    bench.settle()
    replies = [bench.replies.pop((me, each)) for each in asked]
    assert [type(each) for each in replies] == [q.Confirm, Conflict, SequenceGap]
    assert replies[2].detail == {"expected": 1}
    assert bench.call(me, produce(None, sequence=1)).first == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 3)), min_size=1, max_size=25))
def test_of_several_writers_each_builds_on_all_that_was_there(steps: list[tuple[int, bool, int]]) -> None:
    """Three writers remember the end they read last; each writes what it believes is the next."""
    bench, _ = bench_with_topic()
    writers = [bench.connect(bytes([n]) * 16) for n in range(3)]
    read, log = [0, 0, 0], list[bytes]()
    for number, (writer, reads_first, records) in enumerate(steps):
        if reads_first:
            read[writer] = len(values(bench, writers[writer]))
        bodies = [b"%d.%d" % (number, each) for each in range(records)]
        reply: Any = bench.until_taken(writers[writer], produce(read[writer], *bodies))
        if read[writer] == len(log):
            assert reply.first == len(log)
            log += bodies
        else:
            assert isinstance(reply, Conflict)
            assert reply.detail["end"] == len(log)
    assert values(bench, writers[0]) == log


@pytest.mark.parametrize("where", [b"queue", b"topic"])
def test_without_an_expectation_everything_is_as_it_was(where: bytes) -> None:
    bench, me = bench_with_topic()
    bench.call(me, q.CreateQueue("jobs", {}, "check"))
    request: Any = produce(None) if where == b"topic" else q.Enqueue("jobs", batch(b"x"))
    assert [bench.call(me, request).first for _ in range(3)] == [0, 1, 2]
