"""Priority of messages and of consumers, and the single active one, on a whole node."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.model.traits import LIVES, RESTARTS, Seen, World, bodies, message, texts

from penstock_protocol.errors import Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.session import Goodbye

lives = pytest.mark.parametrize("life", LIVES)


@lives
def test_highest_priority_goes_first_and_equals_go_in_order(life: str) -> None:
    world = World()
    for name, priority in (("0a", 0), ("5a", 5), ("9a", 9), ("0b", 0), ("5b", 5), ("9b", 9)):
        world.enqueue(message(name.encode(), priority=priority))
    LIVES[life](world)
    assert world.bodies() == [b"9a", b"9b", b"5a", b"5b", b"0a", b"0b"]


@lives
@pytest.mark.parametrize("take", [1, 2, 100])
def test_order_does_not_depend_on_how_many_are_taken_at_once(life: str, take: int) -> None:
    world = World()
    world.publish(*(message(b"%d" % n, priority=n % 10) for n in range(30)))
    LIVES[life](world)
    out = []
    while found := world.bodies(take):
        out += found
    assert out == [b"%d" % n for n in sorted(range(30), key=lambda n: (-(n % 10), n))]


@lives
def test_message_that_comes_back_keeps_its_priority_and_its_place(life: str) -> None:
    world = World()
    world.enqueue(message(b"9", priority=9), message(b"5a", priority=5), message(b"5b", priority=5))
    world.enqueue(message(b"0"))
    found = world.receive(2)
    world.nack(found[1], delay=0)
    world.release(found[0])
    LIVES[life](world)
    world.pass_(1)
    assert world.drain() == [b"9", b"5a", b"5b", b"0"]


@lives
def test_plain_message_that_comes_back_does_not_pass_a_higher_priority(life: str) -> None:
    world = World()
    world.enqueue(message(b"plain"))
    world.nack(*world.receive(), delay=0)
    world.enqueue(message(b"high", priority=1), message(b"plain 2"))
    LIVES[life](world)
    assert world.drain() == [b"high", b"plain", b"plain 2"]


@lives
def test_delayed_message_has_its_priority_when_its_time_has_come(life: str) -> None:
    world = World()
    world.enqueue(message(b"low"), message(b"high", priority=9, delay=1_000))
    LIVES[life](world)
    world.pass_(1_000)
    assert world.bodies() == [b"high", b"low"]


@lives
def test_heads_of_groups_go_by_priority_and_never_before_those_in_front_of_them(life: str) -> None:
    world = World()
    world.enqueue(message(b"a1", group="a"), message(b"a2", group="a", priority=9))
    world.enqueue(message(b"b1", group="b", priority=5))
    LIVES[life](world)
    assert world.drain() == [b"b1", b"a1", b"a2"]


def test_dead_letter_keeps_its_priority() -> None:
    world = World(max_attempts=1)
    world.enqueue(message(b"low"), message(b"high", priority=9))
    world.nack(*world.receive())
    assert world.bodies(name="jobs.dead") == [b"high", b"low"]


@pytest.mark.parametrize("value", [10, 255])
def test_priority_beyond_nine_is_refused_by_name_value_and_range(value: int) -> None:
    error = World().publish(message(b"x", priority=value))
    assert isinstance(error, Invalid)
    assert f"priority={value}" in str(error)
    assert "0 to 9" in str(error)


# ---- Ageing


@lives
@pytest.mark.parametrize("take", [1, 100])
def test_message_that_waits_rises_by_one_priority_per_step(life: str, take: int) -> None:
    world = World(priority_ageing=100)
    for name, priority, wait in (("old", 0, 150), ("later", 1, 0), ("now", 2, 0)):
        world.enqueue(message(name.encode(), priority=priority))
        world.pass_(wait)
    LIVES[life](world)
    out = []
    while found := world.bodies(take):
        out += found
    assert out == [b"now", b"old", b"later"], "150 ms old: worth one and a half"


@pytest.mark.parametrize("take", [1, 2, 100])
def test_plain_messages_give_way_to_a_priority_in_the_midst_of_them(take: int) -> None:
    world = World(priority_ageing=100)
    for number in range(5):
        world.enqueue(message(b"%d" % number))
        world.pass_(100)
    world.enqueue(message(b"high", priority=3))
    out = []
    while found := world.bodies(take):
        out += found
    assert out == [b"0", b"1", b"2", b"high", b"3", b"4"]


def test_nothing_starves_with_ageing_and_something_does_without() -> None:
    for ageing, served in ((1_000, True), (None, False)):
        world = World(priority_ageing=ageing)
        world.enqueue(message(b"old"))
        out = []
        for _ in range(20):
            world.enqueue(*texts("new", priority=9))
            world.pass_(1_000)
            out += world.bodies(1)
        assert (b"old" in out) is served


@lives
def test_ageing_that_is_altered_counts_for_what_waits(life: str) -> None:
    world = World()
    world.enqueue(message(b"old", priority=1))
    world.pass_(10_000)
    world.enqueue(message(b"new", priority=5))
    world.alter(priority_ageing=100)
    LIVES[life](world)
    assert world.bodies() == [b"old", b"new"]
    world.enqueue(message(b"low", priority=1), message(b"high", priority=5))
    world.alter(priority_ageing=None)
    LIVES[life](world)
    fresh = [each for each in world.drain() if each in (b"low", b"high")]
    assert fresh == [b"high", b"low"]


# ---- Consumers


def test_consumer_of_a_higher_priority_gets_all_as_long_as_it_has_credit() -> None:
    world = World()
    world.subscribe(1, credit=10)
    world.subscribe(2, credit=2, priority=5)
    world.publish(*texts("a", "b", "c", "d"))
    assert [number for number, _ in world.deliveries()] == [2, 2, 1, 1]
    world.bench.call(world.peer, q.Credit(2, 1))
    world.enqueue(*texts("e", "f"))
    assert [number for number, _ in world.deliveries()] == [2, 1]


def test_consumer_of_a_higher_priority_that_leaves_holds_up_nobody() -> None:
    world = World()
    world.subscribe(1, credit=10)
    world.subscribe(2, credit=10, priority=5)
    world.call(q.Stop(2))
    world.enqueue(*texts("a"))
    assert [number for number, _ in world.deliveries()] == [1]


def test_receive_counts_as_a_consumer_of_the_lowest_priority() -> None:
    world = World()
    other = world.bench.connect(b"o" * 16)
    waiting = world.bench.ask(other, q.Receive("jobs", 10, 60_000))
    world.subscribe(1, credit=1, priority=1)
    world.enqueue(*texts("a"))
    assert [number for number, _ in world.deliveries()] == [1]
    world.enqueue(*texts("b"))
    assert world.bench.replies[other, waiting].slices == 1


@pytest.mark.parametrize("value", [-1, 10])
def test_priority_of_a_consumer_is_from_0_to_9(value: int) -> None:
    world = World()
    error = world.ask(q.Consume("jobs", 1, 10, None, value, False, b""))
    assert isinstance(error, Invalid)
    assert f"priority={value}" in str(error)
    assert "0 to 9" in str(error)


# ---- Single active consumer


def test_one_consumer_gets_everything_and_the_next_one_only_when_it_is_gone() -> None:
    world = World(single_active=True)
    world.subscribe(1, credit=2)
    world.subscribe(2, credit=10)
    world.publish(*texts("a", "b", "c"))
    found = world.deliveries()
    assert [number for number, _ in found] == [1, 1], "it has no credit left, and still is the active one"
    world.call(q.Stop(1))
    assert [(number, each.body) for number, each in world.deliveries()] == [(2, b"c")]


def test_next_consumer_takes_over_when_the_connection_of_the_active_one_is_lost() -> None:
    world = World(single_active=True)
    first, second = world.bench.connect(b"1" * 16), world.bench.connect(b"2" * 16)
    world.subscribe(1, peer=first)
    world.subscribe(2, peer=second)
    world.enqueue(*texts("a"))
    assert [number for number, _ in world.deliveries()] == [1]
    world.bench.core.disconnected(first, world.clock.now())
    world.enqueue(*texts("b"))
    assert [(number, each.body) for number, each in world.deliveries()] == [(2, b"b")]
    world.pass_(60_000)
    assert [(number, each.body) for number, each in world.deliveries()] == [(2, b"a")]


@pytest.mark.parametrize("how", ["stop", "goodbye", "lost connection"])
def test_next_consumer_takes_over_what_is_ready_without_being_nudged(how: str) -> None:
    world = World(single_active=True)
    first, second = world.bench.connect(b"1" * 16), world.bench.connect(b"2" * 16)
    world.subscribe(1, credit=1, peer=first)
    world.subscribe(2, peer=second)
    world.publish(*texts("a", "b"))
    ((_, got),) = world.deliveries()
    world.ack(got)
    if how == "stop":
        world.bench.call(first, q.Stop(1))
    elif how == "goodbye":
        world.bench.call(first, Goodbye())
    else:
        world.bench.core.disconnected(first, world.clock.now())
        world.bench.settle()
    assert [(number, each.body) for number, each in world.deliveries()] == [(2, b"b")]


def test_single_active_consumer_of_the_highest_priority_is_chosen_when_one_leaves() -> None:
    world = World(single_active=True)
    world.subscribe(1)
    world.subscribe(2)
    world.subscribe(3, priority=7)
    world.call(q.Stop(1))
    world.enqueue(*texts("a"))
    assert [number for number, _ in world.deliveries()] == [3]


@pytest.mark.parametrize("life", RESTARTS)
def test_queue_still_has_a_single_active_consumer_after_a_restart(life: str) -> None:
    world = World(single_active=True)
    world.enqueue(*texts("a", "b"))
    RESTARTS[life](world)
    world.subscribe(7)
    world.subscribe(8)
    assert [number for number, _ in world.deliveries()] == [7, 7]


def test_receive_is_refused_where_one_consumer_is_active() -> None:
    error = World(single_active=True).ask(q.Receive("jobs", 1, 0))
    assert isinstance(error, Invalid)
    assert "single active" in str(error)


def test_receive_that_waits_when_the_queue_becomes_single_active_holds_up_nobody() -> None:
    world = World()
    other = world.bench.connect(b"o" * 16)
    world.bench.ask(other, q.Receive("jobs", 1, 60_000))
    world.bench.settle()
    world.alter(single_active=True)
    world.subscribe(1)
    world.enqueue(*texts("a", "b"))
    world.pass_(60_000)
    assert bodies(world.deliveries()) in ([b"a", b"b"], [b"b"])


@pytest.mark.parametrize(("setting", "value"), [("single_active", 1), ("priority_ageing", 0)])
def test_setting_that_cannot_be_is_refused_by_name_and_value(setting: str, value: Any) -> None:
    error = World().ask(q.CreateQueue("other", {setting: value}, "check"))
    assert isinstance(error, Invalid)
    assert f"{setting}={value!r}" in str(error)
    assert "allowed" in str(error)


# ---- Against a model


class Ranked(RuleBasedStateMachine):
    """Messages of every priority, with and without ageing, failing, released, through restarts."""

    @initialize(ageing=st.sampled_from([None, 100, 1_000]))
    def begin(self, ageing: int | None) -> None:
        self.world = World(priority_ageing=ageing, max_attempts=None, max_deliveries=None)
        self.ageing = ageing
        self.ready: dict[int, tuple[int, int]] = {}
        """Offset → what decides on its place."""
        self.held: dict[int, tuple[Seen, tuple[int, int]]] = {}

    @rule(priorities=st.lists(st.integers(0, 9), min_size=1, max_size=6))
    def enqueue(self, priorities: list[int]) -> None:
        confirm = self.world.publish(*(message(b"m", priority=each) for each in priorities))
        for offset, priority in enumerate(priorities, confirm.first):
            aged = self.ageing is not None
            rank = 9 - priority
            self.ready[offset] = (confirm.time + rank * self.ageing if aged else rank, offset)

    @rule(limit=st.integers(1, 7))
    def receive(self, limit: int) -> None:
        expected = sorted(self.ready, key=self.ready.__getitem__)[:limit]
        found = self.world.receive(limit)
        assert [each.offset for each in found] == expected
        for each in found:
            self.held[each.offset] = each, self.ready.pop(each.offset)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["ack", "fail", "release"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        offset = data.draw(st.sampled_from(sorted(self.held)))
        item, place = self.held.pop(offset)
        if how == "ack":
            assert self.world.ack(item).messages == 1
            return
        self.ready[offset] = place
        if how == "fail":
            self.world.nack(item, delay=0)
            self.world.bench.settle()
        else:
            self.world.release(item)

    @rule(ms=st.sampled_from([1, 50, 1_000]))
    def advance(self, ms: int) -> None:
        self.world.pass_(ms)

    @rule(how=st.sampled_from(sorted(RESTARTS)))
    def restart(self, how: str) -> None:
        RESTARTS[how](self.world)
        self.ready |= {offset: place for offset, (_, place) in self.held.items()}
        self.held.clear()

    @invariant()
    def counts_add_up(self) -> None:
        stats = self.world.stats()
        assert (stats["ready"], stats["in_flight"]) == (len(self.ready), len(self.held))


TestRanked = Ranked.TestCase
TestRanked.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
