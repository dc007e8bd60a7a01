"""More partitions for a topic in use: what was there stays, and queues over it get the new ones too."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.bench import Bench, batch, got

from penstock_broker.session import Connection
from penstock_broker.tools.doctor import examine, study
from penstock_broker.tools.dump import Wanted, chosen
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import PARTITIONS_MAX
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document

TOPIC, QUEUE = "events", "work"


class Growing(Bench):
    """A node with a topic and, if wanted, a queue over it."""

    def __init__(self, partitions: int = 1, *, queue: bool = False, before: "Growing | None" = None) -> None:
        super().__init__(*(() if before is None else (before.files, before.clock)))
        self.life: int = 0 if before is None else before.life + 1
        self.core._random.seed(self.life)  # no two lives make up the same uuids
        self.me: Connection = self.connect()
        if before is None:
            self.call(self.me, t.CreateTopic(TOPIC, {"partitions": partitions}, "check"))
            if queue:
                self.call(self.me, q.CreateQueue(QUEUE, {"source": TOPIC}, "check"))

    def grow(self, partitions: int) -> Any:
        reply = self.call(self.me, t.AlterTopic(TOPIC, {"partitions": partitions}))
        return reply if isinstance(reply, Exception) else unpack_document(reply.payload)

    def produce(self, partition: int, *bodies: bytes) -> Any:
        return self.until_taken(self.me, t.Produce(TOPIC, partition, None, batch(*bodies)))

    def values(self, partition: int) -> list[bytes]:
        fetched = self.call(self.me, t.Fetch(TOPIC, partition, 0, 10_000, 1 << 20, 0))
        return [body for each in got(fetched) for body in each.bodies]

    def everything(self) -> list[list[bytes]]:
        return [self.values(each.number) for each in self.core.registry.topics[TOPIC].partitions]

    def uuids(self) -> list[bytes]:
        return [each.uuid for each in self.core.registry.topics[TOPIC].partitions]

    def lanes(self) -> int:
        return len(self.queue(QUEUE).lanes)

    def again(self, *, cut: bool) -> "Growing":
        """The next life."""
        self.files = self.files.crash(Random(5)) if cut else self.files.kill()
        return Growing(before=self)

    def checkpoint(self) -> None:
        self.core.engine.checkpoint_now()
        self.settle()


def test_new_partitions_are_empty_and_the_others_are_what_they_were() -> None:
    node = Growing(2)
    node.produce(0, b"a", b"b")
    node.produce(1, b"c")
    before = node.uuids()
    topic = node.grow(4)
    assert topic["settings"]["partitions"] == 4
    assert [(each["partition"], each["start"], each["end"]) for each in topic["partitions"]] == [
        *((0, 0, 2), (1, 0, 1), (2, 0, 0), (3, 0, 0)),
    ]
    assert node.uuids()[:2] == before
    assert len(set(node.uuids())) == 4
    assert node.produce(3, b"d").first == 0
    assert node.everything() == [[b"a", b"b"], [b"c"], [], [b"d"]]


@pytest.mark.parametrize("partitions", [1, 0, PARTITIONS_MAX + 1])
def test_fewer_or_too_many_are_refused_and_nothing_else_is_changed_with_it(partitions: int) -> None:
    node = Growing(2)
    refused = node.call(node.me, t.AlterTopic(TOPIC, {"partitions": partitions, "retention": None}))
    assert isinstance(refused, Invalid)
    topic = node.core.registry.topics[TOPIC]
    assert (topic.policy.retention is not None, len(topic.partitions)) == (True, 2)


def test_creating_it_again_raises_the_number_only_if_it_may_alter() -> None:
    node = Growing(2)
    for if_exists, expected in (("keep", 2), ("alter", 3)):
        node.call(node.me, t.CreateTopic(TOPIC, {"partitions": 3}, if_exists))
        assert len(node.uuids()) == expected


@pytest.mark.parametrize(
    "request_",
    [
        t.Produce(TOPIC, 2, None, batch(b"x")),
        t.Fetch(TOPIC, 2, 0, 1, 1_000, 0),
        t.Offset(TOPIC, 2, t.At.EARLIEST),
        t.Commit("g", TOPIC, ((2, 0, ""),)),
    ],
    ids=lambda request: type(request).__name__,
)
def test_partition_that_is_not_there_is_named_with_those_that_are(request_: Any) -> None:
    node = Growing(2)
    refused = node.call(node.me, request_)
    assert isinstance(refused, Invalid)
    assert "no partition 2" in refused.message
    assert refused.hint == "it has partitions 0 to 1"
    node.grow(3)
    assert not isinstance(node.call(node.me, request_), Exception)


def test_a_fetch_that_waits_stays_where_it_is() -> None:
    node = Growing(1)
    asked = node.ask(node.me, t.Fetch(TOPIC, 0, 0, 10, 1 << 20, 60_000))
    node.grow(2)
    node.produce(1, b"elsewhere")
    assert (node.me, asked) not in node.replies
    node.produce(0, b"here")
    assert [body for each in got(node.replies[node.me, asked]) for body in each.bodies] == [b"here"]


def test_a_queue_over_it_has_the_records_of_new_partitions_from_the_first_on() -> None:
    node = Growing(1, queue=True)
    waiting = node.ask(node.me, q.Receive(QUEUE, 10, 60_000))
    node.grow(3)
    assert node.lanes() == 3
    node.produce(2, b"new")
    (found,) = got(node.replies[node.me, waiting])
    assert (found.bodies, found.stamps.partition) == ([b"new"], 2)
    node.ack(node.me, QUEUE, found.range._replace(partition=2))
    node.produce(1, b"more")
    (other,) = node.receive(node.me, QUEUE)
    assert (other.bodies, other.stamps.partition) == ([b"more"], 1)


def test_a_queue_from_the_latest_record_on_misses_none_of_a_new_partition() -> None:
    node = Growing(1)
    node.produce(0, b"old")
    node.call(node.me, q.CreateQueue(QUEUE, {"source": TOPIC, "source_start": "latest"}, "check"))
    node.grow(2)
    node.produce(1, b"new")
    assert [each.bodies for each in node.receive(node.me, QUEUE)] == [[b"new"]]


@pytest.mark.covers("create/alter/delete", "kill -9", "power cut", "restart")
@pytest.mark.parametrize("checkpoint", ["before", "between", "after", "never"])
@pytest.mark.parametrize("cut", [False, True], ids=["killed", "power cut"])
def test_partitions_and_lanes_survive_with_what_is_in_them(checkpoint: str, cut: bool) -> None:
    node = Growing(1, queue=True)
    node.produce(0, b"a")
    if checkpoint == "before":
        node.checkpoint()
    node.grow(2)
    if checkpoint == "between":
        node.checkpoint()
    node.produce(1, b"b", b"c")
    found = [each for _ in range(2) for each in node.receive(node.me, QUEUE)]
    (second,) = [each for each in found if each.stamps.partition == 1]
    node.ack(node.me, QUEUE, second.range._replace(partition=1, messages=1))
    if checkpoint == "after":
        node.checkpoint()
    life = node.again(cut=cut)
    assert life.uuids() == node.uuids()
    assert life.everything() == [[b"a"], [b"b", b"c"]]
    left = [body for _ in range(2) for each in life.receive(life.me, QUEUE) for body in each.bodies]
    assert sorted(left) == [b"a", b"c"]


@pytest.mark.covers("create/alter/delete", "power cut", "torn write")
def test_wherever_the_power_goes_topic_and_queue_have_as_many() -> None:
    node = Growing(1, queue=True)
    node.ask(node.me, t.AlterTopic(TOPIC, {"partitions": 3}))
    node.turn()
    seen = set()
    while node.jobs:
        job = node.jobs.pop(0)
        for _ in node.files.steps(job):  # system call by system call
            for keep in ((), *map(Random, range(4))):
                life = Bench(node.files.crash(keep), node.clock)
                partitions = len(life.core.registry.topics[TOPIC].partitions)
                assert len(life.queue(QUEUE).lanes) == partitions
                seen.add(partitions)
        node.core.done(job, None, node.clock.now())
        node.turn()
    assert seen == {1, 3}


def test_tools_know_the_new_partitions_by_name() -> None:
    node = Growing(1, queue=True)
    node.grow(2)
    node.produce(1, b"new")
    files = node.files.crash()
    assert [found for found in examine(study(files)) if found.damage] == []
    parts = [each for each in chosen(files, Wanted(log=f"{TOPIC}/1")) if each["is"] == "part"]
    assert [each["of"] for each in parts] == [f"topic {TOPIC}/1"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 6)),
        st.tuples(st.just("produce"), st.integers(0, 5)),
        st.sampled_from([("killed", 0), ("cut", 0), ("checkpoint", 0)]),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_history_is_that_of_lists_that_grow(steps: list[tuple[str, int]]) -> None:
    node, model = Growing(1, queue=True), [list[bytes]()]
    for number, (what, value) in enumerate(steps):
        if what == "grow":
            assert isinstance(node.grow(value), Invalid) == (value < len(model))
            model += [[] for _ in range(value - len(model))]
        elif what == "produce":
            reply = node.produce(value, b"%d" % number)
            assert isinstance(reply, Invalid) == (value >= len(model))
            if value < len(model):
                model[value].append(b"%d" % number)
        elif what == "checkpoint":
            node.checkpoint()
        else:
            node = node.again(cut=what == "cut")
        assert (len(node.uuids()), node.lanes()) == (len(model), len(model))
    assert node.everything() == model
    found = [body for _ in model for each in node.receive(node.me, QUEUE) for body in each.bodies]
    assert sorted(found) == sorted(body for bodies in model for body in bodies)
