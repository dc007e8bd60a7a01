"""Nothing is said that is not durable yet, whoever asks and however; and what is refused never happened."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.model.bench import SETTINGS, Bench, batch, got

from penstock_broker.clock import SystemClock, time
from penstock_broker.queues.states import State
from penstock_broker.storage.files import Write
from penstock_protocol.errors import (
    Busy,
    Conflict,
    NotFound,
    OffsetOutOfRange,
    QueueFull,
    SequenceGap,
    Stale,
)
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import encode_ranges

PRODUCER_ID = 7
HOUR_MS = 3_600_000
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


class Slow(Bench):
    """A node whose journal writes end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = self.connect(producer_id=PRODUCER_ID)
        self.call(self.peer, q.CreateQueue("dead", NO_LIMITS, "check"))
        self.call(self.peer, q.CreateQueue("jobs", {"dead_letter": "dead", "max_messages": 3}, "check"))
        self.call(self.peer, t.CreateTopic("log", {}, "check"))

    def hold(self, request: Any) -> int:
        """Have something asked that is written, and not done."""
        correlation = self.ask(self.peer, request)
        self.turn()
        assert any(isinstance(job, Write) for job in self.jobs)
        return correlation

    def outcome(self, correlation: int) -> Any:
        return self.replies.get((self.peer, correlation))


@pytest.fixture
def node() -> Slow:
    return Slow()


def numbered(sequence: int) -> q.Enqueue:
    return q.Enqueue("jobs", batch(b"x", producer_id=PRODUCER_ID, sequence=sequence))


def held(node: Slow) -> memoryview:
    return memoryview(encode_ranges([each.range for each in node.receive(node.peer, "jobs")]))


def nothing(node: Slow) -> None:
    pass


def one_message(node: Slow) -> None:
    node.enqueue(node.peer, "jobs", b"x")


Case = tuple[Callable[[Slow], None], Callable[[Slow], Any], Callable[[Slow], Any], type]
CASES: dict[str, Case] = {
    "a duplicate": (nothing, lambda _: numbered(0), lambda _: numbered(0), q.Confirm),
    "a message": (nothing, lambda _: numbered(0), lambda _: q.Receive("jobs", 1, 0), q.Delivery),
    "a look at a message": (nothing, lambda _: numbered(0), lambda _: q.Peek("jobs", 1, "ready"), object),
    "a record": (
        nothing,
        lambda _: t.Produce("log", 0, None, batch(b"x")),
        lambda _: t.Fetch("log", 0, 0, 1, 1_000, 0),
        t.Fetched,
    ),
    "the end of a partition": (
        nothing,
        lambda _: t.Produce("log", 0, None, batch(b"x")),
        lambda _: t.Offset("log", 0, t.At.LATEST),
        t.OffsetReply,
    ),
    "an end that was missed": (
        nothing,
        lambda _: t.Produce("log", 0, None, batch(b"x")),
        lambda _: t.Fetch("log", 0, 5, 1, 1_000, 0),
        OffsetOutOfRange,
    ),
    "an end that somebody else has moved": (
        nothing,
        lambda _: t.Produce("log", 0, None, batch(b"x")),
        lambda _: t.Produce("log", 0, 0, batch(b"y")),
        Conflict,
    ),
    "a committed offset": (
        nothing,
        lambda _: t.Commit("g", "log", ((0, 0, ""),)),
        lambda _: t.Offsets("g", "log"),
        object,
    ),
    "that a queue is another": (
        nothing,
        lambda _: q.CreateQueue("more", {"max_messages": 1}, "check"),
        lambda _: q.CreateQueue("more", {"max_messages": 2}, "check"),
        Conflict,
    ),
    "that a queue is gone": (
        nothing,
        lambda _: q.DeleteQueue("jobs"),
        lambda _: q.DescribeQueue("jobs"),
        NotFound,
    ),
    "that something was settled": (
        one_message,
        lambda node: q.Ack("jobs", held(node)),
        lambda _: q.DescribeQueue("jobs"),
        object,
    ),
}


@pytest.mark.parametrize(("before", "change", "ask", "reply"), CASES.values(), ids=CASES)
def test_what_depends_on_a_change_is_said_when_the_change_is_durable(
    node: Slow,
    before: Callable[[Slow], None],
    change: Callable[[Slow], Any],
    ask: Callable[[Slow], Any],
    reply: type,
) -> None:
    before(node)
    changed = node.hold(change(node))
    asked = node.ask(node.peer, ask(node))
    for _ in range(3):
        node.clock.advance(10_000)
        node.turn()
    assert (node.outcome(changed), node.outcome(asked)) == (None, None)
    node.settle()
    assert node.outcome(changed) is not None
    assert isinstance(node.outcome(asked), reply)


def test_batch_that_was_refused_is_no_duplicate_when_it_comes_again(node: Slow) -> None:
    for sequence in range(3):
        assert isinstance(node.call(node.peer, numbered(sequence)), q.Confirm)
    assert isinstance(node.call(node.peer, numbered(3)), QueueFull)
    node.ack(node.peer, "jobs", *[each.range for each in node.receive(node.peer, "jobs")])
    confirm = node.call(node.peer, numbered(3))
    assert (confirm.first, confirm.duplicate) == (3, False)


def test_offset_beyond_the_end_is_not_committed(node: Slow) -> None:
    node.call(node.peer, t.Produce("log", 0, None, batch(b"x")))
    assert isinstance(node.call(node.peer, t.Commit("g", "log", ((0, 2, ""),))), OffsetOutOfRange)
    assert "g" not in node.core.registry.groups


def test_queue_of_a_name_that_was_deleted_has_nothing_of_it(node: Slow) -> None:
    one_message(node)
    before = node.queue("jobs").uuid
    for _ in range(2):
        node.core.engine.checkpoint_now()
        node.settle()
    node.call(node.peer, q.DeleteQueue("jobs"))
    node.call(node.peer, q.CreateQueue("jobs", {}, "check"))
    life = Bench(node.files.kill(), node.clock)
    assert life.queue("jobs").uuid != before
    assert got(life.call(life.connect(), q.Receive("jobs", 10, 0))) == []


def test_lease_ends_by_the_clock_that_never_jumps(node: Slow) -> None:
    one_message(node)
    node.call(node.peer, q.Receive("jobs", 1, 0, 10_000))
    node.clock.jump_wall(HOUR_MS)
    node.settle()
    assert node.queue("jobs").count(State.IN_FLIGHT) == 1
    node.clock.jump_wall(-2 * HOUR_MS)
    node.clock.advance(10_000)
    node.settle()
    node.clock.advance(HOUR_MS)
    node.settle()
    assert [each.bodies for each in node.receive(node.peer, "jobs")] == [[b"x"]]


def test_append_times_never_go_back(node: Slow) -> None:
    first = node.enqueue(node.peer, "jobs", b"1")
    node.clock.jump_wall(-HOUR_MS)
    node.clock.advance(5)
    second = node.enqueue(node.peer, "jobs", b"2")
    assert second.time == first.time + 5


def test_mono_is_no_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock.now()
    hour_ns = HOUR_MS * 1_000_000
    later = time.time_ns() + hour_ns
    monkeypatch.setattr(time, "time_ns", lambda: later)
    after = clock.now()
    assert after.wall - before.wall >= HOUR_MS
    assert after.mono - before.mono < HOUR_MS


@pytest.mark.parametrize("size", range(11_850, 12_150, 20))
def test_dead_letter_is_in_one_queue_wherever_the_power_goes(node: Slow, size: int) -> None:
    """Sizes around that of a block, which two entries would not fit."""
    node.enqueue(node.peer, "jobs", bytes(size))
    (found,) = node.receive(node.peer, "jobs")
    rejected = memoryview(encode_ranges([found.range]))
    node.ask(node.peer, q.Nack("jobs", q.Outcome.DEAD_LETTER, None, None, rejected))
    node.turn()
    while node.jobs:
        job = node.jobs.pop(0)
        node.core.done(job, node.files.run(job), node.clock.now())
        node.turn()
        life = Bench(node.files.crash(), node.clock)
        assert sum(queue.messages for queue in life.core.registry.queues.values()) == 1


def test_batch_behind_a_missing_one_is_a_gap(node: Slow) -> None:
    node.call(node.peer, numbered(0))
    gap = node.call(node.peer, numbered(2))
    assert isinstance(gap, SequenceGap)
    assert gap.detail == {"expected": 1}


def test_producer_id_belongs_to_the_newest_session(node: Slow) -> None:
    node.call(node.peer, numbered(0))
    newer = node.connect(b"another session.", PRODUCER_ID)
    assert isinstance(node.call(node.peer, numbered(1)), Stale)
    assert isinstance(node.call(newer, numbered(1)), q.Confirm)


def credited(**settings: int) -> tuple[Bench, Any, Any]:
    node = Bench(settings=replace(SETTINGS, **settings))
    peers = node.connect(), node.connect(b"another session.")
    node.call(peers[0], q.CreateQueue("jobs", {}, "check"))
    return node, *peers


def test_publish_beyond_the_credit_of_its_connection_is_busy() -> None:
    node, one, other = credited(credit_bytes=3_000)
    asked = [node.ask(one, q.Enqueue("jobs", batch(bytes(1_800)))) for _ in range(2)]
    node.ask(other, q.Enqueue("jobs", batch(bytes(1_800))))
    node.turn()
    assert [type(node.replies.get((one, correlation))) for correlation in asked] == [type(None), Busy]
    node.settle()
    assert node.queue("jobs").messages == 2
    assert isinstance(node.enqueue(one, "jobs", bytes(1_800)), q.Confirm)


def test_publish_beyond_the_pool_of_the_node_is_busy() -> None:
    node, one, other = credited(publish_pool_bytes=3_000)
    node.ask(one, q.Enqueue("jobs", batch(bytes(1_800))))
    asked = node.ask(other, q.Enqueue("jobs", batch(bytes(1_800))))
    node.turn()
    assert isinstance(node.replies[other, asked], Busy)
    node.settle()
    assert isinstance(node.enqueue(other, "jobs", bytes(1_800)), q.Confirm)
