"""Batches of one address, against a naive broker that may lose sockets, refuse, and answer out of order.

Each rule of a run is one thing that can happen; at the end the broker lets everything pass.
"""

import asyncio
from collections.abc import Iterator
from itertools import accumulate, count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.lanes import OPEN_WHILE_GATHERING, Address, Batch, Lane, Stage
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.errors import Busy, Error, QueueFull, SequenceGap
from penstock_protocol.limits import BATCH_BYTES_MAX, BATCH_COUNT_MAX, SEQUENCES_IN_FLIGHT_MAX
from penstock_protocol.messages.queues import Confirm, Enqueue
from penstock_protocol.messages.topics import Produce

HERE = Address(Enqueue, "jobs")
WHIMS = [None, Busy("busy"), QueueFull("full")]


def new_lane() -> Lane:
    ids = count(2)
    return Lane(HERE, 1, lambda: next(ids))


def batch_of(lane: Lane, *bodies: bytes) -> Batch:
    batch = Batch(lane, lambda batch, outcome: None)
    for body in bodies:
        batch.add(body, (), batch.cost(body, ()))
    return batch


class LaneAgainstBroker(RuleBasedStateMachine):
    """A lane and its driver, a connection that can be lost, a broker that keeps sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = new_lane()
        self.names: Iterator[int] = count()
        self.name_of: dict[Batch, bytes] = {}
        self.requests: list[Batch] = []
        self.replies: list[tuple[Batch, Confirm | Error]] = []
        self.log: list[bytes] = []
        self.known: dict[int, list[int]] = {}
        self.confirmed: dict[bytes, int] = {}
        self.refused: set[bytes] = set()
        self.unknown: set[bytes] = set()

    # The client

    @rule(batches=st.sampled_from([2, 1, 40]))
    def publish(self, batches: int) -> None:
        for name in (b"message %d" % next(self.names) for _ in range(batches)):
            batch = batch_of(self.lane, name)
            self.name_of[batch] = name
            self.lane.queue.append(batch)

    @rule(batches=st.sampled_from([100, 1]))
    def send(self, batches: int) -> None:
        while batches and self.lane.sendable() is not None:
            self.requests.append(self.lane.send())
            batches -= 1

    @rule()
    def give_up(self) -> None:
        self.unknown |= {self.name_of[batch] for batch in self.lane.give_up()}

    @precondition(lambda self: self.lane.queue)
    @rule(data=st.data())
    def take_back_one_that_was_not_sent(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(list(self.lane.queue)))
        if not batch.in_doubt:
            self.lane.remove(batch)
            self.refused.add(self.name_of[batch])

    @precondition(lambda self: self.replies)
    @rule(seed=st.integers(0, 99), replies=st.sampled_from([100, 2, 1]))
    def replies_arrive(self, seed: int, replies: int) -> None:
        Random(seed).shuffle(self.replies)
        for _ in range(min(replies, len(self.replies))):
            self._arrives(*self.replies.pop())

    def _arrives(self, batch: Batch, reply: Confirm | Error) -> None:
        if batch.stage is not Stage.OPEN:
            return
        if isinstance(reply, Confirm):
            self.lane.confirmed(batch)
            self.confirmed[self.name_of[batch]] = reply.first
        elif isinstance(reply, SequenceGap | Busy):
            batch.doubt = batch.doubt and not isinstance(reply, SequenceGap)
            self.lane.came_back(batch, lost=False)
        else:
            self.lane.refused(batch)
            self.refused.add(self.name_of[batch])

    @rule()
    def the_socket_is_lost(self) -> None:
        lost = [*self.requests, *(batch for batch, _ in self.replies)]
        self.requests.clear()
        self.replies.clear()
        for batch in lost:
            if batch.stage is Stage.OPEN:
                self.lane.came_back(batch, lost=True)

    # The broker

    @precondition(lambda self: self.requests)
    @rule(requests=st.sampled_from([100, 3, 1]), whim=st.sampled_from(WHIMS), at=st.integers(0, 1))
    def the_broker_takes_requests(self, requests: int, whim: Error | None, at: int) -> None:
        for index in range(min(requests, len(self.requests))):
            batch = self.requests.pop(0)
            self.replies.append((batch, self._judged(batch, whim if index == at else None)))

    def _judged(self, batch: Batch, whim: Error | None) -> Confirm | Error:
        assert batch.data is not None
        view = BatchView(batch.data)
        offsets = self.known.setdefault(view.producer_id, [])
        if view.sequence < len(offsets):
            assert len(offsets) - view.sequence <= SEQUENCES_IN_FLIGHT_MAX, "older than the broker remembers"
            return Confirm(0, offsets[view.sequence], 1, True, "fsync", 0, 0, b"")
        if view.sequence > len(offsets):
            return SequenceGap("gap", detail={"expected": len(offsets)})
        if whim is not None:
            return whim
        offsets.append(len(self.log))
        self.log.append(bytes(view.bodies()))
        return Confirm(0, len(self.log) - 1, 1, False, "fsync", 0, 0, b"")

    # What must hold

    @invariant()
    def nothing_is_in_the_log_twice(self) -> None:
        assert len(self.log) == len(set(self.log))

    @invariant()
    def a_confirm_names_the_place_of_its_own_message(self) -> None:
        assert all(self.log[offset] == name for name, offset in self.confirmed.items())

    @invariant()
    def a_refused_message_is_never_in_the_log(self) -> None:
        assert self.refused.isdisjoint(self.log)

    @invariant()
    def messages_of_one_producer_id_keep_their_order(self) -> None:
        order = [int(name.split()[1]) for name in self.log if name not in self.unknown]
        if not self.unknown:
            assert order == sorted(order)

    @invariant()
    def the_window_is_kept(self) -> None:
        assert len(self.lane.open) <= SEQUENCES_IN_FLIGHT_MAX

    def teardown(self) -> None:
        for _ in range(1_000):
            while self.lane.sendable() is not None:
                self.requests.append(self.lane.send())
            for batch in self.requests:
                self.replies.append((batch, self._judged(batch, None)))
            self.requests.clear()
            replies, self.replies = self.replies, []
            for batch, reply in replies:
                self._arrives(batch, reply)
            if not self.lane.batches():
                break
        named = set(self.name_of.values())
        assert set(self.confirmed) | self.refused | self.unknown == named, "a batch was lost"
        assert set(self.log) <= named
        self.nothing_is_in_the_log_twice()
        self.a_confirm_names_the_place_of_its_own_message()
        self.a_refused_message_is_never_in_the_log()


TestLaneAgainstBroker = LaneAgainstBroker.TestCase
TestLaneAgainstBroker.settings = settings(max_examples=200, stateful_step_count=60)


def test_a_batch_that_takes_messages_waits_while_others_are_open():
    lane = new_lane()
    lane.queue.extend(batch_of(lane, b"x") for _ in range(OPEN_WHILE_GATHERING))
    for _ in range(OPEN_WHILE_GATHERING):
        assert lane.sendable() is not None
        lane.send()
    gathering = batch_of(lane, b"y")
    gathering.gathering = True
    lane.queue.append(gathering)
    assert lane.sendable() is None
    gathering.gathering = False
    assert lane.sendable() is gathering


def test_the_same_number_means_the_same_bytes():
    lane = new_lane()
    batch = batch_of(lane, b"a", b"b")
    data = batch.encoded(7, 3)
    assert batch.encoded(7, 3) is data
    other = BatchView(batch.encoded(8, 0))
    assert (other.producer_id, other.sequence, bytes(other.bodies())) == (8, 0, b"ab")


def test_sequences_begin_anew_under_another_producer_before_they_run_out(monkeypatch):
    monkeypatch.setattr("penstock.lanes.SEQUENCE_MAX", 1)
    lane = new_lane()
    lane.queue.extend(batch_of(lane, b"x") for _ in range(3))
    sent = []
    for _ in range(2):
        assert lane.sendable() is not None
        sent.append(lane.send())
    assert lane.sendable() is None, "the old numbers are still in use"
    for batch in sent:
        lane.confirmed(batch)
    assert lane.sendable() is not None
    view = BatchView(lane.send().data)
    assert (view.producer_id, view.sequence) == (2, 0)


@pytest.mark.parametrize(
    ("size", "fitting"), [(1, BATCH_COUNT_MAX), (1_020, 1_023), (BATCH_BYTES_MAX, 1), (6 << 20, 1)]
)
def test_a_batch_is_full_by_count_or_bytes_and_takes_any_first_message(size, fitting):
    batch, body = batch_of(new_lane()), bytes(size)
    while batch.fits(batch.cost(body, ())):
        batch.add(body, (), batch.cost(body, ()))
    assert batch.count == fitting


def test_the_counted_size_is_never_below_the_encoded_one():
    cells = [(), [(Kind.KEY, b"\xc4\x01k")], [(Kind.TIMESTAMP, 5)], [(Kind.KEY, b"\xc0"), (Kind.ABSENT, 1)]]
    batch = batch_of(new_lane(), b"plain")
    for each in cells:
        batch.add(b"body", each, batch.cost(b"body", each))
        encoded = BatchView(copy_of(batch).encoded(1, 0))
        assert encoded.length <= batch.size
    assert encoded.count == 5
    assert encoded.integers(Kind.TIMESTAMP) == [0, 0, 0, 5, 0]


def copy_of(batch: Batch) -> Batch:
    copied = Batch(batch.lane, lambda *_: None)
    for index, body in enumerate(batch.bodies):
        cells = batch._cells.get(index, ())
        copied.add(body, cells, copied.cost(body, cells))
    return copied


async def test_messages_whose_callers_left_are_taken_back_with_their_cells():
    batch = batch_of(new_lane())
    callers = [asyncio.get_running_loop().create_future() for _ in range(4)]
    for index, caller in enumerate(callers):
        cells = [(Kind.TIMESTAMP, index)] if index else []
        batch.add(b"%d" % index, cells, batch.cost(b"%d" % index, cells))
        batch.callers.append((caller, lambda confirm, index: None))
    callers[1].cancel()
    callers[2].cancel()
    batch.forget_gone()
    view = BatchView(batch.encoded(1, 0))
    assert [caller for caller, _ in batch.callers] == [callers[0], callers[3]]
    assert (bytes(view.bodies()), view.integers(Kind.TIMESTAMP)) == (b"03", [0, 3])


def test_nothing_new_is_sent_behind_a_refused_batch_before_those_behind_it_came_back():
    lane = new_lane()
    lane.queue.extend(batch_of(lane, b"x") for _ in range(3))
    first, second = (lane.send() for _ in range(2) if lane.sendable())
    lane.refused(first)
    assert lane.sendable() is None
    lane.came_back(second, lost=False)
    assert lane.sendable() is second
    assert lane.send().sequence == 0


def test_an_address_builds_its_publish():
    assert HERE.request(b"x") == Enqueue("jobs", b"x")
    assert Address(Produce, "log", 3).request(b"x") == Produce("log", 3, None, b"x")


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_a_batch_filled_at_once_is_the_same_as_one_filled_one_by_one(bodies):
    at_once = Batch(new_lane(), lambda batch, outcome: None)
    at_once.fill(bodies, list(accumulate(map(len, bodies))))
    one_by_one = batch_of(new_lane(), *bodies)
    assert (at_once.size, at_once.count) == (one_by_one.size, one_by_one.count)
    assert at_once.encoded(1, 2) == one_by_one.encoded(1, 2)
