"""A FETCH that is answered in parts: whatever is durable at once, in order, and one last reply."""

from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.bench import Bench

from penstock_broker import filtering
from penstock_protocol.batch import BatchBuilder, BatchView, Kind
from penstock_protocol.errors import Invalid, NotFound, OffsetOutOfRange
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import decode_slices
from penstock_protocol.verbs import BY_REQUEST

TOPIC = "orders"
WAIT_MS = 20_000
SIZE = 1 << 20
PART_BYTES = 80 + 32 + 4 + 8
"""A slice, and a batch of one record."""


class Tail(Bench):
    """A node with a topic of one partition, and who reads at its end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.me, self.writer = self.connect(), self.connect(b"another session.")
        self.call(self.me, t.CreateTopic(TOPIC, settings, "check"))
        self.partition = self.core.registry.topics[TOPIC].partitions[0]
        self.written = 0

    def append(self, *keys: str, size: int = 8) -> None:
        """Records whose bodies are their offsets; not durable before jobs have run."""
        builder = BatchBuilder()
        for key in keys or ("",):
            cells = [(Kind.KEY, msgpack.packb(key.encode()))] if key else []
            builder.add(b"%0*d" % (size, self.written), cells)
            self.written += 1
        self.ask(self.writer, t.Produce(TOPIC, 0, None, memoryview(builder.encode())))

    def produce(self, *keys: str, size: int = 8) -> None:
        """The same, durable."""
        self.append(*keys, size=size)
        self.settle()

    def begin(self, offset: int = 0, **changed: Any) -> int:
        """A FETCH in parts; its correlation."""
        asked = t.Fetch(TOPIC, 0, offset, 1_000, SIZE, WAIT_MS, None, True)
        correlation = self.ask(self.me, asked._replace(**changed))
        self.settle()
        return correlation

    def parts_of(self, asked: int) -> list[list[int]]:
        """The offsets in each reply but the last."""
        return [records(part) for part in self.parts[self.me, asked]]

    def last(self, asked: int) -> Any:
        """The last reply, if it is there."""
        return self.replies.get((self.me, asked))


def records(reply: Any) -> list[int]:
    """What each record says its offset is."""
    found = []
    for stamps, data in decode_slices(memoryview(reply.payload), reply.slices):
        batch = BatchView(data)
        starts = [0, *batch.ends()]
        values = [int(bytes(batch.bodies()[a:b])) for a, b in pairwise(starts)]
        assert values == [stamps.first + delta for delta in batch.deltas]
        found += values
    return found


def test_whatever_is_durable_comes_as_a_part_and_the_wait_ends_it() -> None:
    node = Tail()
    asked = node.begin()
    node.produce()
    node.produce("a", "b")
    assert (node.parts_of(asked), node.last(asked)) == ([[0], [1, 2]], None)
    assert [part.next for part in node.parts[node.me, asked]] == [1, 3]
    node.clock.advance(WAIT_MS - 1)
    node.settle()
    assert node.last(asked) is None
    node.clock.advance(1)
    node.settle()
    last = node.last(asked)
    assert (last.slices, last.next, last.end) == (0, 3, 3)
    assert (node.me.requests, node.me.waits) == (0, {})
    node.produce()
    assert node.parts_of(asked) == [[0], [1, 2]]


def test_nothing_is_told_before_it_is_durable() -> None:
    node = Tail()
    asked = node.begin()
    node.append()
    node.turn()
    assert node.jobs
    assert node.parts_of(asked) == []
    node.append()  # while the first is being written
    node.turn()
    assert node.parts_of(asked) == []
    node.settle()
    assert node.parts_of(asked) == [[0], [1]]


def test_what_is_there_already_comes_at_once_and_the_rest_as_it_comes() -> None:
    node = Tail()
    node.produce("a", "b")
    asked = node.begin(1)
    assert node.parts_of(asked) == [[1]]
    node.produce()
    assert node.parts_of(asked) == [[1], [2]]


@pytest.mark.parametrize("limit", [{"records": 3}, {"size": 2 * PART_BYTES + 1}])
def test_last_part_uses_up_what_was_asked_for(limit: dict[str, int]) -> None:
    node = Tail()
    asked = node.begin(**limit)
    for _ in range(4):
        node.produce()
    assert node.parts_of(asked) == [[0], [1]]
    assert (records(node.last(asked)), node.last(asked).next) == ([2], 3)
    assert (node.me.requests, node.me.waits) == (0, {})


def test_more_than_is_left_to_be_asked_for_is_not_sent() -> None:
    node = Tail()
    asked = node.begin(records=3)
    node.produce("a", "b")
    node.produce("c", "d")
    assert (node.parts_of(asked), records(node.last(asked))) == ([[0, 1]], [2])


def test_without_a_wait_there_is_one_reply() -> None:
    node = Tail()
    node.produce()
    asked = node.begin(wait=0)
    assert (node.parts_of(asked), records(node.last(asked))) == ([], [0])


def test_cancel_between_two_parts_is_answered_with_nothing() -> None:
    node = Tail()
    asked = node.begin()
    node.produce()
    node.ask(node.me, s.Cancel(asked))
    node.settle()
    assert (node.parts_of(asked), node.last(asked).slices, node.last(asked).next) == ([[0]], 0, 1)
    node.produce()
    assert node.parts_of(asked) == [[0]]
    assert (node.me.requests, node.me.waits, node.partition.all_parked()) == (0, {}, [])


@pytest.mark.parametrize("before", [0, 1])
def test_cancel_while_a_part_is_on_its_way_makes_it_the_last(before: int) -> None:
    node = Tail()
    asked = node.begin()
    for _ in range(before):
        node.produce()
    node.append()
    node.turn()
    node.ask(node.me, s.Cancel(asked))
    node.ask(node.me, s.Cancel(asked))
    node.settle()
    assert (node.parts_of(asked), records(node.last(asked))) == ([[0]][:before], [before])
    assert (node.me.requests, node.me.waits, node.partition.all_parked()) == (0, {}, [])


def test_it_is_open_between_its_parts() -> None:
    node = Tail()
    asked = node.begin()
    node.produce()
    node.core.handle(node.me, BY_REQUEST[s.Ping], asked, s.Ping(), node.clock.now())
    node.settle()
    assert isinstance(node.replies.pop((node.me, asked)), Invalid)
    node.produce()
    assert node.parts_of(asked) == [[0], [1]]


def test_wait_under_no_correlation_stands_in_nobodys_way() -> None:
    node = Tail()
    verb = BY_REQUEST[t.Fetch]
    nobody = t.Fetch(TOPIC, 0, 0, 1_000, SIZE, WAIT_MS, None, True)
    node.core.handle(node.me, verb, 0, nobody, node.clock.now())
    asked = node.begin()
    node.core.handle(node.me, BY_REQUEST[s.Cancel], 0, s.Cancel(asked), node.clock.now())
    node.settle()
    assert node.last(asked).next == 0


def behind_one_part(*, on_its_way: bool) -> tuple[Tail, int]:
    """A FETCH that has had one part, and waits for the next, or that is on its way; its correlation."""
    node = Tail()
    asked = node.begin()
    node.produce()
    if on_its_way:
        node.append()
        node.turn()
    return node, asked


@pytest.mark.parametrize("on_its_way", [False, True])
def test_deleted_topic_is_the_last_it_hears_of(on_its_way: bool) -> None:
    node, asked = behind_one_part(on_its_way=on_its_way)
    node.call(node.writer, t.DeleteTopic(TOPIC))
    assert isinstance(node.last(asked), NotFound)
    assert (node.me.requests, node.me.waits) == (0, {})


@pytest.mark.parametrize("on_its_way", [False, True])
def test_nobody_waits_on_a_connection_that_is_lost(on_its_way: bool) -> None:
    node, asked = behind_one_part(on_its_way=on_its_way)
    node.core.disconnected(node.me, node.clock.now())
    node.settle()
    node.produce()
    assert (node.parts_of(asked), node.last(asked)) == ([[0]], None)
    assert node.partition.all_parked() == []


def test_what_retention_took_meanwhile_is_said_in_the_last_reply() -> None:
    node = Tail()
    asked = node.begin()
    node.produce()
    node.me.blocked = True
    node.produce()
    node.partition.log.trim(2)
    node.core.blocked(node.me, False, node.clock.now())
    node.settle()
    assert (node.parts_of(asked), type(node.last(asked))) == ([[0]], OffsetOutOfRange)
    assert (node.me.requests, node.me.waits) == (0, {})


def test_parts_bring_what_fits_and_do_not_count_the_rest() -> None:
    node = Tail()
    asked = node.begin(where={"key": "eu"}, records=3)
    node.produce("eu", "us", "us", "eu")
    node.produce("us")
    assert (node.parts_of(asked), node.last(asked)) == ([[0, 3]], None)
    node.produce("us", "eu")
    assert records(node.last(asked)) == [6]


def test_reader_with_a_filter_still_hears_of_what_was_not_for_it() -> None:
    node = Tail()
    asked = node.begin(where={"key": "eu"})
    node.produce("eu")
    node.produce("us")
    assert (node.parts_of(asked), node.last(asked)) == ([[0]], None)
    node.clock.advance(filtering.TELL_MS)
    node.settle()
    assert (node.last(asked).slices, node.last(asked).next) == (0, 2)


def test_cancel_is_heard_while_a_filter_has_found_nothing_yet() -> None:
    node = Tail()
    asked = node.begin(where={"key": "eu"}, in_parts=False)
    node.append("us")
    node.turn()
    node.ask(node.me, s.Cancel(asked))
    node.settle()
    assert (node.last(asked).slices, node.last(asked).next) == (0, 1)


EVENTS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4)),
    st.tuples(st.just("turn"), st.just(0)),
    st.tuples(st.just("jobs"), st.just(0)),
    st.tuples(st.just("advance"), st.sampled_from([1, 3_000])),
    st.tuples(st.just("blocked"), st.integers(0, 1)),
    st.tuples(st.just("cancel"), st.just(0)),
)


@given(
    events=st.lists(EVENTS, max_size=40),
    most=st.integers(1, 12),
    size=st.sampled_from([1, 400, SIZE]),
    where=st.sampled_from([None, {"key": "1"}]),
)
def test_parts_are_the_log_from_there_on_once_each_and_one_reply_is_the_last(
    events: list[tuple[str, int]], most: int, size: int, where: Any
) -> None:
    node = Tail()
    asked = node.begin(records=most, size=size, where=where)
    wanted: list[bool] = []
    for what, number in events:
        if what == "append":
            keys = [str((len(wanted) + i) % 2) for i in range(number)]
            wanted += [where is None or key == "1" for key in keys]
            node.append(*keys)
        elif what == "turn":
            node.turn()
        elif what == "jobs":
            node.run_jobs()
        elif what == "advance":
            node.clock.advance(number)
        elif what == "blocked":
            node.core.blocked(node.me, bool(number), node.clock.now())
        else:
            node.ask(node.me, s.Cancel(asked))
    node.core.blocked(node.me, False, node.clock.now())
    node.settle()
    node.clock.advance(WAIT_MS)
    node.settle()
    replies = [*node.parts[node.me, asked], node.last(asked)]
    got = [offset for reply in replies for offset in records(reply)]
    behind = replies[-1].next
    assert got == [offset for offset in range(behind) if wanted[offset]]
    assert len(got) <= most
    assert all(reply.slices for reply in replies[:-1])
    assert [reply.next for reply in replies] == sorted(reply.next for reply in replies)
    assert (node.me.requests, node.me.waits, node.partition.all_parked()) == (0, {}, [])
