"""Message groups (SQS FIFO): strict order inside, any number of workers across, and a failing head that is
nobody else's trouble; on a whole node, whatever dies."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.model.traits import LIVES, RESTARTS, Seen, World, bodies, message, texts

from penstock_protocol.errors import Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import encode_ranges

lives = pytest.mark.parametrize("life", LIVES)
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


def resume(world: World, group: str) -> bool:
    resumed: bool = world.document(q.Resume("jobs", group))["resumed"]
    return resumed


@lives
def test_one_message_of_a_group_is_out_at_a_time_and_groups_do_not_wait_for_each_other(life: str) -> None:
    world = World()
    for name in ("a1", "b1", "a2", "b2", "a3"):
        world.enqueue(message(name.encode(), group=name[0]))
    LIVES[life](world)
    first = world.receive()
    assert [each.body for each in first] == [b"a1", b"b1"]
    assert world.bodies() == []
    world.ack(first[1])
    assert world.bodies() == [b"b2"]
    world.ack(first[0])
    assert world.bodies() == [b"a2"]


@lives
def test_plain_messages_go_past_groups(life: str) -> None:
    world = World()
    world.enqueue(*texts("a1", "a2", group="a"), message(b"plain"))
    LIVES[life](world)
    assert world.bodies() == [b"a1", b"plain"]


@lives
def test_consumer_that_waits_gets_the_next_of_a_group_when_the_one_before_is_acked(life: str) -> None:
    world = World()
    world.enqueue(*texts("1", "2", "3", group="a"))
    LIVES[life](world)
    world.subscribe()
    out = []
    while found := world.deliveries():
        out += bodies(found)
        world.ack(found[0][1])
    assert out == [b"1", b"2", b"3"]


def test_next_of_a_group_does_not_leave_before_the_ack_of_the_one_before_is_durable() -> None:
    world = World()
    world.enqueue(*texts("1", "2", group="a"))
    world.subscribe()
    ((_, first),) = world.deliveries()
    world.bench.ask(world.peer, q.Ack("jobs", memoryview(encode_ranges([first.range]))))
    world.bench.turn()
    assert world.deliveries() == [], "a crash now would bring the first one back"
    world.bench.settle()
    assert bodies(world.deliveries()) == [b"2"]


@lives
def test_failing_head_holds_up_its_own_group_alone_and_is_tried_first(life: str) -> None:
    world = World(retry_jitter=0)
    world.enqueue(*texts("a1", "a2", group="a"), *texts("b1", group="b"))
    world.nack(world.receive(1)[0], delay=1_000)
    LIVES[life](world)
    assert world.bodies() == [b"b1"]
    world.pass_(999)
    assert world.bodies() == []
    world.pass_(1)
    (again,) = world.receive()
    assert (again.body, again.attempt) == (b"a1", 2)
    world.ack(again)
    assert world.bodies() == [b"a2"]


@lives
def test_released_head_comes_again_before_the_others_of_its_group(life: str) -> None:
    world = World()
    world.enqueue(*texts("a1", "a2", group="a"))
    world.release(*world.receive())
    LIVES[life](world)
    assert world.drain() == [b"a1", b"a2"]


@lives
def test_lease_that_runs_out_keeps_the_order_of_its_group(life: str) -> None:
    world = World(visibility_timeout=100, retry_initial=0)
    world.enqueue(*texts("a1", "a2", group="a"))
    assert world.bodies() == [b"a1"]
    LIVES[life](world)
    world.pass_(100)
    world.pass_(1)
    assert world.drain() == [b"a1", b"a2"]


@lives
def test_delayed_head_holds_up_its_group(life: str) -> None:
    world = World()
    world.enqueue(message(b"a1", group="a", delay=500), message(b"a2", group="a"))
    LIVES[life](world)
    assert world.bodies() == []
    world.pass_(500)
    assert world.drain() == [b"a1", b"a2"]


@lives
def test_message_behind_may_be_delayed_longer_than_the_head_takes(life: str) -> None:
    world = World()
    world.enqueue(message(b"a1", group="a"), message(b"a2", group="a", delay=500), message(b"a3", group="a"))
    LIVES[life](world)
    assert world.drain() == [b"a1"]
    world.pass_(500)
    assert world.drain() == [b"a2", b"a3"]


@lives
def test_group_goes_on_when_its_head_is_dead(life: str) -> None:
    world = World(max_attempts=1)
    world.enqueue(*texts("a1", "a2", group="a"))
    world.nack(*world.receive())
    LIVES[life](world)
    assert world.bodies() == [b"a2"]


@lives
def test_head_that_is_dead_and_waits_for_room_still_comes_first(life: str) -> None:
    world = World(max_attempts=1)
    world.create("jobs.dead", max_messages=0, **NO_LIMITS)
    world.enqueue(*texts("a1", "a2", group="a"), *texts("b1", group="b"))
    world.nack(world.receive(1)[0])
    LIVES[life](world)
    assert world.stats()["waiting"] == 1
    assert world.bodies() == [b"b1"]
    world.call(q.AlterQueue("jobs.dead", {"max_messages": 1}))
    world.pass_(2_000)
    assert world.peek(name="jobs.dead") == [b"a1"]
    assert world.bodies() == [b"a2"]


@lives
def test_failing_message_steps_aside_if_the_queue_says_skip(life: str) -> None:
    world = World(group_failure="skip")
    world.enqueue(*texts("a1", "a2", "a3", group="a"))
    world.nack(*world.receive(), delay=1_000)
    LIVES[life](world)
    (second,) = world.receive()
    assert second.body == b"a2"
    world.pass_(1_000)
    assert world.bodies() == []
    world.ack(second)
    assert world.drain() == [b"a1", b"a3"]


@lives
def test_group_is_parked_when_its_head_dies_until_somebody_resumes_it(life: str) -> None:
    world = World(max_attempts=1, group_failure="park")
    world.enqueue(*texts("a1", "a2", group="a"), *texts("b1", group="b"))
    world.nack(world.receive(1)[0])
    LIVES[life](world)
    assert world.bodies() == [b"b1"]
    world.enqueue(message(b"a3", group="a"))
    assert world.bodies() == []
    assert world.stats()["blocked_groups"] == 1
    LIVES[life](world)
    assert resume(world, "a")
    LIVES[life](world)
    assert not resume(world, "a")
    found = [each for each in world.drain() if each != b"b1"]
    assert found == [b"a2", b"a3"]


@lives
def test_group_without_messages_stays_parked(life: str) -> None:
    world = World(max_attempts=1, group_failure="park")
    world.enqueue(message(b"a1", group="a"))
    world.dead_letter(*world.receive())
    LIVES[life](world)
    world.enqueue(message(b"a2", group="a"))
    assert world.bodies() == []
    assert resume(world, "a")
    assert world.bodies() == [b"a2"]


@lives
def test_group_is_parked_even_if_its_dead_letter_had_to_wait_for_room(life: str) -> None:
    world = World(max_attempts=1, group_failure="park")
    world.create("jobs.dead", max_messages=0, **NO_LIMITS)
    world.enqueue(*texts("a1", "a2", group="a"))
    world.nack(*world.receive())
    LIVES[life](world)
    world.call(q.AlterQueue("jobs.dead", {"max_messages": 1}))
    world.pass_(2_000)
    assert world.peek(name="jobs.dead") == [b"a1"]
    assert world.bodies() == []
    assert resume(world, "a")
    assert world.bodies() == [b"a2"]


def test_consumer_that_waits_gets_what_a_resumed_group_holds() -> None:
    world = World(max_attempts=1, group_failure="park")
    world.enqueue(*texts("a1", "a2", group="a"))
    world.nack(*world.receive())
    world.subscribe()
    assert world.deliveries() == []
    resume(world, "a")
    assert bodies(world.deliveries()) == [b"a2"]


@lives
@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_so_many_of_a_group_are_out_as_the_queue_allows(concurrency: int, life: str) -> None:
    world = World(group_concurrency=concurrency)
    world.enqueue(*texts("1", "2", "3", "4", "5", group="a"))
    LIVES[life](world)
    found = world.receive()
    assert [each.body for each in found] == [b"1", b"2", b"3"][:concurrency]
    world.ack(found[-1])
    assert len(world.bodies()) == 1


def test_concurrency_that_grows_counts_at_once() -> None:
    world = World()
    world.enqueue(*texts("1", "2", "3", group="a"))
    world.subscribe()
    assert bodies(world.deliveries()) == [b"1"]
    world.alter(group_concurrency=3)
    assert bodies(world.deliveries()) == [b"2", b"3"]


@lives
def test_expired_head_lets_its_group_go_on(life: str) -> None:
    world = World()
    world.enqueue(message(b"a1", group="a", ttl=100), message(b"a2", group="a"))
    LIVES[life](world)
    world.pass_(100)
    assert world.bodies() == [b"a2"]


def test_cancelled_head_lets_its_group_go_on() -> None:
    world = World()
    offset, _ = world.enqueue(message(b"a1", group="a", delay=9_000), message(b"a2", group="a"))
    world.subscribe()
    assert world.deliveries() == []
    world.document(q.Reschedule("jobs", world.queue.uuid, offset, None))
    assert bodies(world.deliveries()) == [b"a2"]


def test_ten_thousand_groups_come_and_go_and_leave_nothing() -> None:
    world = World()
    world.publish(*(message(b"x", group=f"group {number}") for number in range(5_000)))
    while found := world.receive(5_000):
        world.ack(*found[:2_500])
        world.ack(*found[2_500:])
    world.enqueue(message(b"last", group="last"))
    world.ack(*world.receive())
    groups = world.queue.indexes.groups
    assert len(groups.named) <= 1
    assert not groups.of
    assert not groups.out


def test_dead_letters_of_a_group_keep_it() -> None:
    world = World(max_attempts=1)
    world.enqueue(*texts("a1", "a2", group="a"))
    for _ in range(2):
        world.nack(*world.receive())
    assert world.bodies(name="jobs.dead") == [b"a1"]
    assert world.peek("held", "jobs.dead") == [b"a2"]


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("group_concurrency", 0, "1 to 100,000"),
        ("group_concurrency", 100_001, "1 to 100,000"),
        ("group_concurrency", 1.5, "1 to 100,000"),
        ("group_failure", "explode", "block or park or skip"),
        ("group_failure", None, "block or park or skip"),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name_value_and_range(
    setting: str, value: Any, allowed: str
) -> None:
    error = World().ask(q.CreateQueue("other", {setting: value}, "check"))
    assert isinstance(error, Invalid)
    assert f"{setting}={value!r}" in str(error)
    assert allowed in str(error)


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, ""])
def test_name_of_a_group_is_text_of_up_to_255_bytes(name: str) -> None:
    error = World().publish(message(b"x", group=name))
    assert isinstance(error, Invalid)
    assert "message group" in str(error)
    assert "255" in str(error)


def test_group_and_job_key_exclude_one_another() -> None:
    error = World().publish(message(b"x", group="a", job="b"))
    assert isinstance(error, Invalid)
    assert "message group or a job key" in str(error)


def test_name_of_a_group_cannot_stand_for_a_job_key() -> None:
    error = World().publish(message(b"group", group="\0k"))
    assert isinstance(error, Invalid)
    assert "message group" in str(error)


# ---- Against a model


class Grouped(RuleBasedStateMachine):
    """Groups under every policy of failure, with consumers that ack, fail, release, die and come back."""

    @initialize(
        concurrency=st.integers(1, 3),
        failure=st.sampled_from(["block", "skip", "park"]),
        max_attempts=st.sampled_from([2, None]),
    )
    def begin(self, concurrency: int, failure: str, max_attempts: int | None) -> None:
        limits = {"dead_letter": "dead", "max_attempts": max_attempts, "max_deliveries": None}
        limits = limits if max_attempts else NO_LIMITS
        self.world = World(group_concurrency=concurrency, group_failure=failure, **limits)
        self.concurrency, self.failure, self.max_attempts = concurrency, failure, max_attempts
        self.groups: dict[int, str | None] = {}
        """Offset → group, of what is not settled."""
        self.due: dict[int, int] = {}
        """Of what waits for its time."""
        self.out: set[int] = set()
        """What was taken of a group and is not settled: it has a place of its own there."""
        self.failures: dict[int, int] = defaultdict(int)
        self.held: dict[int, Seen] = {}
        self.parked: set[str] = set()
        self.settled = 0
        self.dead: list[int] = []

    def may_go(self) -> set[int]:
        """Everything that a consumer may get now, of all messages."""
        found = {
            offset
            for offset, group in self.groups.items()
            if group is None and offset not in self.held and offset not in self.due
        }
        for name in {group for group in self.groups.values() if group is not None}:
            members = sorted(offset for offset, group in self.groups.items() if group == name)
            if self.failure == "skip":
                members = [offset for offset in members if offset not in self.due]
            out = [offset for offset in members if offset in self.out]
            places = 0 if name in self.parked else max(0, self.concurrency - len(out))
            nexts = [offset for offset in members if offset not in self.out][:places]
            found |= {each for each in (*out, *nexts) if each not in self.held and each not in self.due}
        return found

    def occupy(self) -> None:
        """A message that waits for its time has its place, too, once its turn has come."""
        if self.failure == "skip":
            self.out -= set(self.due)
            return
        for name in {group for group in self.groups.values() if group is not None} - self.parked:
            members = sorted(offset for offset, group in self.groups.items() if group == name)
            out = sum(offset in self.out for offset in members)
            for offset in members:
                if out < self.concurrency and offset not in self.out:
                    if offset not in self.due:
                        break
                    self.out.add(offset)
                    out += 1

    @rule(groups=st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=4))
    def enqueue(self, groups: list[str | None]) -> None:
        confirm = self.world.publish(*(message(b"m", group=group) for group in groups))
        self.groups |= {confirm.first + index: group for index, group in enumerate(groups)}

    @rule(limit=st.integers(1, 5))
    def receive(self, limit: int) -> None:
        may = self.may_go()
        found = self.world.receive(limit)
        offsets = [each.offset for each in found]
        assert len(offsets) == min(limit, len(may)), "no idle worker while a group is ready"
        assert set(offsets) <= may, "order inside a group"
        for name in {self.groups[offset] for offset in offsets} - {None}:
            inside = [offset for offset in offsets if self.groups[offset] == name]
            assert inside == sorted(inside), "order inside a group"
        for each in found:
            self.held[each.offset] = each
            if self.groups[each.offset] is not None:
                self.out.add(each.offset)

    def choose(self, data: st.DataObject) -> Seen:
        return self.held.pop(data.draw(st.sampled_from(sorted(self.held)), "which"))

    def end(self, offset: int) -> None:
        self.settled += 1
        del self.groups[offset]
        self.out.discard(offset)
        self.due.pop(offset, None)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        chosen = self.choose(data)
        assert self.world.ack(chosen).messages == 1
        self.end(chosen.offset)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), delay=st.sampled_from([0, 500, 3_000]))
    def fail(self, data: st.DataObject, delay: int) -> None:
        chosen = self.choose(data)
        self.world.nack(chosen, delay=delay)
        self.failures[chosen.offset] += 1
        if self.failures[chosen.offset] == self.max_attempts:
            group = self.groups[chosen.offset]
            if self.failure == "park" and group is not None:
                self.parked.add(group)
            self.dead.append(chosen.offset)
            self.end(chosen.offset)
        else:
            self.due[chosen.offset] = self.world.wall + delay
            self.occupy()
            self.pass_time()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.world.release(self.choose(data))

    @rule(name=st.sampled_from(["a", "b"]))
    def resume(self, name: str) -> None:
        assert resume(self.world, name) == (name in self.parked)
        self.parked.discard(name)

    @rule(ms=st.sampled_from([1, 500, 2_000]))
    def advance(self, ms: int) -> None:
        self.world.pass_(ms)
        self.pass_time()

    def pass_time(self) -> None:
        self.due = {offset: due for offset, due in self.due.items() if due > self.world.wall}

    @rule(how=st.sampled_from(sorted(RESTARTS)))
    def restart(self, how: str) -> None:
        RESTARTS[how](self.world)
        self.held.clear()
        self.out.clear()

    @invariant()
    def counts_add_up_and_nothing_is_lost(self) -> None:
        self.occupy()
        stats = self.world.stats()
        assert stats["in_flight"] == len(self.held)
        assert stats["delayed"] == len(self.due)
        assert stats["ready"] == len(self.groups) - len(self.held) - len(self.due)
        assert stats["settled_total"] == self.settled

    @invariant()
    def dead_letters_are_there_once(self) -> None:
        if self.dead:
            stats = self.world.stats("dead")
            assert stats["ready"] == len(self.dead)


TestGrouped = Grouped.TestCase
TestGrouped.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
