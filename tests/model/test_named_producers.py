"""Producers with a name: of all who opened it the last one produces, whatever happens to the node."""

from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.model.bench import Bench, batch, got

from penstock_broker.producers import EPOCH_MAX, Named, Opened
from penstock_broker.session import Connection
from penstock_protocol import limits
from penstock_protocol.errors import Invalid, NotFound, Stale
from penstock_protocol.limits import PRODUCER_ID_NAMED_MIN
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document

TOPIC, NAME = "orders", "orders-writer"


class Writers(Bench):
    """A node with a topic, and instances of one program, a connection each."""

    def __init__(self, before: "Writers | None" = None, *, cut: bool = False) -> None:
        if before is None:
            super().__init__()
        else:
            super().__init__(before.files.crash(Random(1)) if cut else before.files.kill(), before.clock)
        self.one, self.other = self.connect(b"1" * 16), self.connect(b"2" * 16)
        if before is None:
            self.call(self.one, t.CreateTopic(TOPIC, {"partitions": 2}, "check"))

    def open(self, who: Connection, name: str = NAME, *, again: bool = False) -> Any:
        reply = self.call(who, t.OpenProducer(name, again))
        return reply if isinstance(reply, Exception) else unpack_document(reply.payload)["producer_id"]

    def produce(self, who: Connection, id: int, sequence: int, body: bytes = b"x", partition: int = 0) -> Any:
        data = batch(body, producer_id=id, sequence=sequence)
        return self.until_taken(who, t.Produce(TOPIC, partition, None, data))

    def values(self, partition: int = 0) -> list[bytes]:
        fetched = self.call(self.one, t.Fetch(TOPIC, partition, 0, 10_000, 1 << 20, 0))
        return [body for each in got(fetched) for body in each.bodies]

    def listed(self) -> list[tuple[str, int]]:
        reply = self.call(self.one, t.ListProducers("", "", 100))
        return [(each["name"], each["epoch"]) for each in unpack_document(reply.payload)["items"]]


def test_the_latest_to_open_a_name_produces_and_the_one_before_is_stale() -> None:
    node = Writers()
    first = node.open(node.one)
    assert node.produce(node.one, first, 0, b"a").first == 0
    second = node.open(node.other)
    assert first != second
    assert min(first, second) >= PRODUCER_ID_NAMED_MIN
    assert node.produce(node.other, second, 0, b"b").first == 1
    for partition, sequence, expected in ((0, 1, 1), (1, 0, 0)):
        refused = node.produce(node.one, first, sequence, b"zombie", partition)
        assert isinstance(refused, Stale)
        assert refused.detail == {"expected": expected}
        assert "another instance" in refused.message
    assert (node.values(0), node.values(1)) == ([b"a", b"b"], [])
    assert node.listed() == [(NAME, 2)]


def test_a_fenced_producer_is_told_of_what_it_did_before() -> None:
    node = Writers()
    first = node.open(node.one)
    node.produce(node.one, first, 0, b"a")
    node.open(node.other)
    again = node.produce(node.one, first, 0, b"a")
    assert (again.first, again.duplicate) == (0, True)
    assert isinstance(node.produce(node.one, first, 5), Stale)


@pytest.mark.covers("producer dedup", "kill -9", "power cut", "restart")
@pytest.mark.parametrize("cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_zombie_stays_fenced_and_the_latest_goes_on_behind_a_restart(cut: bool, checkpointed: bool) -> None:
    node = Writers()
    first = node.open(node.one)
    node.produce(node.one, first, 0, b"a")
    second = node.open(node.other)
    node.produce(node.other, second, 0, b"b")
    if checkpointed:
        node.core.engine.checkpoint_now()
        node.settle()
    life = Writers(node, cut=cut)
    assert isinstance(life.produce(life.one, first, 1), Stale)
    assert life.produce(life.other, second, 0, b"b").duplicate
    assert life.produce(life.other, second, 1, b"c").first == 2
    assert life.values() == [b"a", b"b", b"c"]


def test_the_fence_is_there_before_the_new_one_hears_of_it_and_no_zombie_before_it_is_durable() -> None:
    node = Writers()
    first = node.open(node.one)
    asked = node.ask(node.other, t.OpenProducer(NAME))
    late = node.ask(node.one, t.Produce(TOPIC, 0, None, batch(b"x", producer_id=first)))
    node.turn()
    assert (node.replies.get((node.other, asked)), node.replies.get((node.one, late))) == (None, None)
    before = Bench(node.files.crash(), node.clock)
    assert not before.core.registry.named.fences(first)
    node.settle()
    assert isinstance(node.replies[node.one, late], Stale)
    assert node.values() == []


def test_again_is_for_whoever_opened_it_last_and_may_be_sent_twice() -> None:
    node = Writers()
    assert isinstance(node.open(node.one, again=True), Stale)
    first = node.open(node.one)
    second = node.open(node.one, again=True)
    third = node.open(node.one, again=True)
    assert len({first, second, third}) == 3
    assert isinstance(node.produce(node.one, second, 0), Stale)
    node.open(node.other)
    assert isinstance(node.open(node.one, again=True), Stale)
    assert isinstance(node.produce(node.one, third, 0), Stale)


def test_a_deleted_name_fences_too_and_does_not_come_back_under_its_number() -> None:
    node = Writers()
    first = node.open(node.one)
    node.produce(node.one, first, 0)
    assert isinstance(node.call(node.other, t.DeleteProducer(NAME)), s.Done)
    assert isinstance(node.call(node.other, t.DeleteProducer(NAME)), NotFound)
    assert isinstance(node.produce(node.one, first, 1), Stale)
    second = node.open(node.other)
    assert first >> 20 != second >> 20
    assert isinstance(node.produce(node.one, first, 1), Stale)
    assert node.produce(node.other, second, 0).first == 1
    assert node.listed() == [(NAME, 1)]


def test_names_have_nothing_to_do_with_each_other_and_queues_are_fenced_as_topics() -> None:
    node = Writers()
    ids = [node.open(node.one, name) for name in ("a", "b")]
    node.open(node.other, "a")
    assert isinstance(node.produce(node.one, ids[0], 0), Stale)
    assert node.produce(node.one, ids[1], 0).first == 0
    node.call(node.one, q.CreateQueue("jobs", {}, "check"))
    refused = node.call(node.one, q.Enqueue("jobs", batch(b"x", producer_id=ids[0])))
    assert isinstance(refused, Stale)


@pytest.mark.parametrize("id", [PRODUCER_ID_NAMED_MIN, PRODUCER_ID_NAMED_MIN | 7 << 20 | 1, 2**63 - 1])
def test_nobody_makes_up_such_an_id(id: int) -> None:
    node = Writers()
    assert isinstance(node.produce(node.one, id, 0), Stale)
    connection = node.core.connected(object())
    assert isinstance(node.call(connection, s.Hello(s.MAGIC, 1, 1, b"3" * 16, id)), Invalid)


def test_there_are_only_so_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRODUCERS_NAMED_MAX", 2)
    node = Writers()
    node.open(node.one, "a")
    node.open(node.one, "b")
    refused = node.open(node.one, "c")
    assert isinstance(refused, Invalid)
    assert "penstock producer delete" in refused.hint
    assert node.open(node.other, "a")
    assert isinstance(node.open(node.one, "not a name"), Invalid)


def test_behind_the_last_epoch_comes_another_number() -> None:
    last = Opened(5, EPOCH_MAX)
    named = Named()
    named.set(NAME, last)
    after = last.next(lambda: named.new_number(Random(1)))
    assert (after.epoch, after.number == 5) == (1, False)
    named.set(NAME, after)
    assert named.fences(last.id)
    assert not named.fences(after.id)
    assert not named.fences(7)


class Instances(RuleBasedStateMachine):
    """Instances take the name over, produce, hang and come back; the node is killed and loses its power."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Writers()
        self.ids: list[int] = []
        self.next: dict[int, int] = {}
        self.log: list[bytes] = []
        self.deleted = False

    @rule()
    def open(self) -> None:
        opened = self.node.open(self.node.one)
        assert opened not in self.ids
        self.ids.append(opened)
        self.next[opened] = 0
        self.deleted = False

    @rule(back=st.integers(0, 3), retried=st.booleans())
    def produce(self, back: int, retried: bool) -> None:
        if back >= len(self.ids):
            return
        id = self.ids[-1 - back]
        sequence = self.next[id] - retried
        if sequence < 0:
            return
        body = b"%d.%d" % (len(self.ids) - 1 - back, sequence)
        reply = self.node.produce(self.node.other, id, sequence, body)
        if retried:
            assert reply.duplicate
            assert self.log[reply.first] == body
        elif back or self.deleted:
            assert isinstance(reply, Stale)
        else:
            assert reply.first == len(self.log)
            self.log.append(body)
            self.next[id] += 1

    @rule()
    def delete(self) -> None:
        reply = self.node.call(self.node.one, t.DeleteProducer(NAME))
        assert isinstance(reply, NotFound) == (self.deleted or not self.ids)
        self.deleted = True

    @rule(cut=st.booleans(), checkpointed=st.booleans())
    def restart(self, cut: bool, checkpointed: bool) -> None:
        if checkpointed:
            self.node.core.engine.checkpoint_now()
            self.node.settle()
        life = Writers(self.node, cut=cut)
        life.core._random.seed(len(self.log) + 100 * len(self.ids))  # no two lives draw the same numbers
        self.node = life

    @invariant()
    def the_log_is_what_the_latest_ones_wrote(self) -> None:
        assert self.node.values() == self.log


TestInstances = Instances.TestCase
TestInstances.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
