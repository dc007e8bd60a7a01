"""Messages that are not to be delivered yet, on a whole node: never early, never lost, whatever dies."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.model.traits import DAY_MS, LIVES, MINUTE_MS, RESTARTS, Seen, World, bodies, message, texts

from penstock_protocol.errors import Invalid
from penstock_protocol.limits import DELAY_MS_MAX
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import REDELIVERED

YEARS_10 = DELAY_MS_MAX
lives = pytest.mark.parametrize("life", LIVES)
restarts = pytest.mark.parametrize("life", RESTARTS)


def reschedule(world: World, item: tuple[bytes, int], at: int | None) -> bool:
    found: bool = world.document(q.Reschedule(world.name, *item, at))["found"]
    return found


def id_of(world: World, offset: int) -> tuple[bytes, int]:
    return world.queue.uuid, offset


@lives
def test_delayed_message_is_not_delivered_a_millisecond_early(life: str) -> None:
    world = World()
    world.enqueue(message(b"later", delay=MINUTE_MS), message(b"now"))
    LIVES[life](world)
    assert world.bodies() == [b"now"]
    world.pass_(MINUTE_MS - 1)
    assert world.bodies() == []
    assert world.stats()["delayed"] == 1
    world.pass_(1)
    assert world.bodies() == [b"later"]


@lives
def test_message_is_delivered_at_its_instant(life: str) -> None:
    world = World()
    world.enqueue(message(b"at", at=world.wall + 5_000))
    LIVES[life](world)
    world.pass_(4_999)
    assert world.bodies() == []
    world.pass_(1)
    assert world.bodies() == [b"at"]


@pytest.mark.parametrize("ms", [1, 999, DAY_MS, 365 * DAY_MS, YEARS_10])
@restarts
def test_any_delay_up_to_ten_years_is_kept(ms: int, life: str) -> None:
    world = World()
    world.enqueue(message(b"x", delay=ms))
    RESTARTS[life](world)
    world.pass_(ms - 1)
    assert world.bodies() == []
    world.pass_(1)
    assert world.bodies() == [b"x"]


def test_instant_in_the_past_is_now() -> None:
    world = World()
    world.enqueue(message(b"past", at=1), message(b"this very instant", at=world.wall))
    assert world.bodies() == [b"past", b"this very instant"]


@lives
def test_queue_delays_what_says_nothing_else(life: str) -> None:
    world = World(delay=1_000)
    world.enqueue(message(b"as the queue says"), message(b"longer", delay=2_000), message(b"at", at=1))
    LIVES[life](world)
    assert world.bodies() == [b"at"]
    world.pass_(1_000)
    assert world.bodies() == [b"as the queue says"]
    world.pass_(1_000)
    assert world.bodies() == [b"longer"]


@lives
def test_consumer_that_waits_gets_delayed_messages_in_the_order_of_their_time(life: str) -> None:
    world = World()
    for name, delay in (("third", 300), ("first", 100), ("second", 200)):
        world.enqueue(message(name.encode(), delay=delay))
    LIVES[life](world)
    world.subscribe()
    for _ in range(3):
        world.pass_(100)
    assert bodies(world.deliveries()) == [b"first", b"second", b"third"]


@lives
def test_batch_keeps_the_delay_of_each_message(life: str) -> None:
    world = World()
    world.publish(message(b"a"), message(b"b", delay=100), message(b"c", delay=100), message(b"d", delay=50))
    LIVES[life](world)
    assert world.bodies() == [b"a"]
    world.pass_(50)
    assert world.bodies() == [b"d"]
    world.pass_(50)
    assert world.bodies() == [b"b", b"c"]


@pytest.mark.parametrize(
    ("given", "setting", "value", "allowed"),
    [
        pytest.param({"delay": YEARS_10 + 1}, "delay", YEARS_10 + 1, "0 to", id="delay beyond ten years"),
        pytest.param({"at": 2**63}, "at", 2**63, "0 to", id="instant beyond ten years"),
        pytest.param({"delay": 1, "at": 2}, "delay", "at", "not both", id="delay and instant"),
    ],
)
def test_delay_that_cannot_be_is_refused_by_name_value_and_range(
    given: dict[str, int], setting: str, value: object, allowed: str
) -> None:
    error = World().publish(message(b"x", **given))
    assert isinstance(error, Invalid)
    for word in (setting, str(value), allowed):
        assert word in str(error)


@pytest.mark.parametrize("value", [-1, YEARS_10 + 1, 1.5, "soon", None, True])
def test_setting_that_cannot_be_is_refused_by_name_value_and_range(value: Any) -> None:
    error = World().ask(q.CreateQueue("other", {"delay": value}, "check"))
    assert isinstance(error, Invalid)
    assert f"delay={value!r}" in str(error)
    assert f"{YEARS_10:,}" in str(error)


# ---- Cancelled, moved in time


@lives
def test_cancelled_message_is_gone(life: str) -> None:
    world = World()
    offset, _ = world.enqueue(*texts("a", "b", delay=1_000))
    assert reschedule(world, id_of(world, offset), None)
    LIVES[life](world)
    world.pass_(1_000)
    assert world.bodies() == [b"b"]
    assert not reschedule(world, id_of(world, offset), None)


@lives
@pytest.mark.parametrize(("delay", "again"), [(1_000, 5_000), (5_000, 1_000), (1_000, 1_000)])
def test_rescheduled_message_comes_at_its_new_time_and_once(life: str, delay: int, again: int) -> None:
    world = World()
    (offset,) = world.enqueue(message(b"a", delay=delay))
    assert reschedule(world, id_of(world, offset), world.wall + again)
    LIVES[life](world)
    world.pass_(again - 1)
    assert world.bodies() == []
    world.pass_(1)
    (found,) = world.receive()
    assert (found.attempt, found.stamps.delivery) == (1, 1)
    world.ack(found)
    world.pass_(10_000)
    assert world.bodies() == []


@lives
def test_message_may_be_called_at_once_and_a_ready_one_put_off(life: str) -> None:
    world = World()
    later, ready = world.enqueue(message(b"later", delay=1_000), message(b"ready"))
    assert reschedule(world, id_of(world, later), 0)
    assert reschedule(world, id_of(world, ready), world.wall + 500)
    LIVES[life](world)
    assert world.bodies() == [b"later"]
    world.pass_(500)
    assert world.bodies() == [b"ready"]


@lives
def test_message_that_was_ready_and_got_another_time_is_ready_again_then(life: str) -> None:
    world = World()
    world.enqueue(message(b"one", delay=1_000), message(b"other", delay=1_000))
    world.pass_(1_000)
    assert reschedule(world, id_of(world, 1), world.wall + 500)
    world.pass_(500)
    LIVES[life](world)
    assert sorted(world.bodies()) == [b"one", b"other"]


def test_message_in_flight_is_not_rescheduled() -> None:
    world = World()
    (offset,) = world.enqueue(message(b"a"))
    (found,) = world.receive()
    assert not reschedule(world, id_of(world, offset), world.wall + 1_000)
    assert not reschedule(world, id_of(world, offset), None)
    world.ack(found)
    assert not reschedule(world, id_of(world, offset), 0)
    assert not reschedule(world, id_of(world, 999), 0)
    assert not reschedule(world, (b"n" * 16, 0), 0)


@pytest.mark.parametrize("at", [-1, 2**62])
def test_time_that_cannot_be_is_refused(at: int) -> None:
    world = World()
    (offset,) = world.enqueue(message(b"a", delay=1_000))
    error = world.ask(q.Reschedule("jobs", *id_of(world, offset), at))
    assert isinstance(error, Invalid)
    assert f"at={at}" in str(error)
    assert "allowed: 0 to" in str(error)


@lives
def test_message_called_early_that_failed_waits_for_its_retry_and_not_for_its_old_time(life: str) -> None:
    world = World(retry_jitter=0)
    (offset,) = world.enqueue(message(b"a", delay=3_000))
    reschedule(world, id_of(world, offset), 0)
    world.nack(*world.receive(), delay=60_000)
    LIVES[life](world)
    world.pass_(3_000)
    assert world.bodies() == []
    world.pass_(57_000)
    assert [each.attempt for each in world.receive()] == [2]


def test_message_that_was_called_early_does_not_leave_before_that_is_durable() -> None:
    world = World()
    (offset,) = world.enqueue(message(b"a", delay=MINUTE_MS))
    world.subscribe()
    world.bench.ask(world.peer, q.Reschedule("jobs", *id_of(world, offset), 0))
    world.bench.turn()
    assert world.deliveries() == []
    world.bench.settle()
    assert bodies(world.deliveries()) == [b"a"]


# ---- Clocks


@lives
def test_wall_clock_that_is_set_back_makes_nothing_early(life: str) -> None:
    world = World()
    world.enqueue(message(b"a", delay=1_000))
    world.clock.jump_wall(-3_600_000)
    LIVES[life](world)
    world.pass_(999)
    assert world.bodies() == []
    world.pass_(1)
    assert world.bodies() == [b"a"]


@lives
def test_messages_that_are_overdue_together_go_by_the_millisecond_they_were_due(life: str) -> None:
    world = World()
    delays = [300, 100, 201, 200, 100, 199]
    world.publish(*(message(str(delay).encode(), delay=delay) for delay in delays))
    world.pass_(150)
    world.publish(message(b"plain, in between"))
    world.enqueue(message(b"250", delay=100))
    world.pass_(10_000)
    world.publish(message(b"plain, after all"))
    LIVES[life](world)
    due = [b"199", b"200", b"201", b"250", b"300"]
    assert world.bodies() == [b"100", b"100", b"plain, in between", *due, b"plain, after all"]


@lives
def test_among_messages_of_a_priority_it_is_the_time_that_counts(life: str) -> None:
    world = World()
    for name, priority, delay in (("b", 1, 300), ("a", 1, 200), ("d", 0, 100), ("c", 1, 400)):
        world.enqueue(message(name.encode(), priority=priority, delay=delay))
    world.pass_(1_000)
    LIVES[life](world)
    assert world.bodies() == [b"a", b"b", b"c", b"d"]


@lives
def test_with_ageing_a_delayed_message_waits_since_it_was_due(life: str) -> None:
    world = World(priority_ageing=100)
    for name, priority, delay in (("third", 0, 300), ("first", 0, 100), ("second", 1, 290)):
        world.enqueue(message(name.encode(), priority=priority, delay=delay))
    world.pass_(1_000)
    LIVES[life](world)
    assert world.bodies() == [b"first", b"second", b"third"]


@lives
def test_delayed_messages_that_were_released_keep_their_order(life: str) -> None:
    world = World()
    for delay in (300, 100, 200):
        world.enqueue(message(str(delay).encode(), delay=delay))
    world.pass_(1_000)
    held = world.receive(2)
    world.release(*held)
    LIVES[life](world)
    assert world.bodies() == [b"100", b"200", b"300"]


def test_a_million_ranges_that_are_overdue_take_a_row_each_and_no_more() -> None:
    world = World()
    world.publish(*(message(b"x", delay=1 + each % 7) for each in range(5_000)))
    world.pass_(10)
    order = world.queue.states.order
    assert len(order.woken) == 5_000
    assert not order.late
    assert len(order) == 0
    held = world.receive(1_000)
    assert len(order.late) == 1_000
    world.ack(*held)
    assert not order.late


@restarts
def test_delayed_message_was_not_delivered_before_if_the_stop_was_clean(life: str) -> None:
    world = World()
    world.publish(message(b"plain"), message(b"later", delay=5_000), *texts("due", "due too", delay=100))
    world.pass_(100)
    world.ack(*world.receive(1))
    world.receive(1)  # "due" is in flight
    RESTARTS[life](world)
    world.pass_(5_000)
    found = {each.body: bool(each.stamps.flags & REDELIVERED) for each in world.receive()}
    unclean = life != "clean stop"
    assert found == {b"due": True, b"due too": unclean, b"later": unclean}
    RESTARTS["clean stop"](world)
    assert all(each.stamps.flags & REDELIVERED for each in world.receive())


def test_delayed_message_that_somebody_had_is_redelivered_where_the_last_checkpoint_is_rotten() -> None:
    world = World()
    world.publish(*texts("due", "due too", delay=100))
    world.pass_(100)
    world.receive(1)
    world.stop()
    world.bench.files.disk.flip("checkpoint-0", 0, 1)
    world.begin(world.bench.files.kill())
    assert not world.bench.core.report.slots
    assert all(each.stamps.flags & REDELIVERED for each in world.receive())


@restarts
def test_doubt_about_a_delayed_message_outlives_a_clean_stop(life: str) -> None:
    world = World()
    world.enqueue(message(b"later", delay=5_000))
    RESTARTS["power cut, replayed from the journal"](world)
    RESTARTS["clean stop"](world)
    RESTARTS[life](world)
    world.pass_(5_000)
    (found,) = world.receive()
    assert found.stamps.flags & REDELIVERED


@restarts
def test_what_came_due_while_the_broker_was_down_is_ready(life: str) -> None:
    world = World()
    world.enqueue(*texts("a", "b", delay=1_000), message(b"c", delay=9_000))
    world.clock.advance(2_000)
    RESTARTS[life](world)
    assert world.bodies() == [b"a", b"b"]


def test_purge_takes_delayed_messages_too() -> None:
    world = World()
    world.enqueue(*texts("a", "b", delay=1_000))
    assert world.document(q.Purge("jobs")) == {"purged": 2}
    world.pass_(1_000)
    assert world.bodies() == []
    assert len(world.queue.indexes.delays) == 0


# ---- Against a model


class Delayed(RuleBasedStateMachine):
    """Messages with and without delays, moved in time, failing, through restarts."""

    @initialize()
    def begin(self) -> None:
        self.world = World(max_attempts=None, max_deliveries=None)
        self.due: dict[int, int] = {}
        """Offset → wall ms, of what is not in flight and not settled."""
        self.held: dict[int, Seen] = {}
        self.done: set[int] = set()
        self.late: dict[int, int] = {}
        """Offset → wall ms that it goes by, of what was delayed or moved in time, and did not fail since."""

    @property
    def ready(self) -> list[int]:
        return [offset for offset, due in self.due.items() if due <= self.world.wall]

    @rule(delays=st.lists(st.sampled_from([0, 1, 500, 1_000, 300_000]), min_size=1, max_size=4))
    def enqueue(self, delays: list[int]) -> None:
        confirm = self.world.publish(*(message(b"m", delay=delay) for delay in delays))
        now = self.world.wall
        due = {confirm.first + index: now + delay for index, delay in enumerate(delays)}
        self.due |= due
        self.late |= {offset: each for offset, each in due.items() if each > now}

    @rule(limit=st.integers(1, 4))
    def receive(self, limit: int) -> None:
        found = self.world.receive(limit)
        ready, got = self.ready, [each.offset for each in found]
        assert len(got) == min(limit, len(ready))
        late = [offset for offset in got if offset in self.late]
        by_time = sorted((self.late[offset], offset) for offset in ready if offset in self.late)
        assert late == [offset for _, offset in by_time[: len(late)]]
        by_offset = sorted(offset for offset in ready if offset not in self.late)
        assert [offset for offset in got if offset not in self.late] == by_offset[: len(got) - len(late)]
        for each in found:
            del self.due[each.offset]
            self.held[each.offset] = each

    @precondition(lambda self: self.held)
    @rule(data=st.data(), delay=st.sampled_from([0, 700, 2_000]))
    def fail(self, data: st.DataObject, delay: int) -> None:
        offset = data.draw(st.sampled_from(sorted(self.held)))
        assert self.world.nack(self.held.pop(offset), delay=delay).messages == 1
        self.due[offset] = self.world.wall + delay
        self.late.pop(offset, None)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.held)))
        self.world.release(self.held.pop(offset))
        self.due[offset] = 0

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.held)))
        assert self.world.ack(self.held.pop(offset)).messages == 1
        self.done.add(offset)

    @precondition(lambda self: self.due)
    @rule(data=st.data(), delay=st.sampled_from([None, 0, 250, 5_000]))
    def reschedule(self, data: st.DataObject, delay: int | None) -> None:
        offset = data.draw(st.sampled_from(sorted(self.due)))
        at = None if delay is None else self.world.wall + delay
        assert reschedule(self.world, id_of(self.world, offset), at)
        if at is None:
            del self.due[offset]
            self.done.add(offset)
        else:
            self.due[offset] = self.late[offset] = at  # not in the past

    @rule(ms=st.sampled_from([0, 1, 250, 1_000, 20_000]))
    def advance(self, ms: int) -> None:
        self.world.pass_(ms)

    @rule(how=st.sampled_from(sorted(RESTARTS)))
    def restart(self, how: str) -> None:
        RESTARTS[how](self.world)
        self.due |= dict.fromkeys(self.held, 0)
        self.held.clear()

    @invariant()
    def nothing_is_early_and_nothing_lost(self) -> None:
        stats = self.world.stats()
        ready = len(self.ready)
        assert (stats["ready"], stats["delayed"]) == (ready, len(self.due) - ready)
        assert stats["in_flight"] == len(self.held)
        assert stats["settled_total"] == len(self.done)


TestDelayed = Delayed.TestCase
TestDelayed.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
