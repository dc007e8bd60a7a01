"""Messages that are not to be delivered any more: an expired one never is, whatever its place."""

from typing import Any

import pytest
from tests.model.traits import DAY_MS, LIVES, RESTARTS, World, batch_of, bodies, message, texts

from penstock_protocol.errors import Invalid
from penstock_protocol.limits import DELAY_MS_MAX
from penstock_protocol.messages import queues as q

lives = pytest.mark.parametrize("life", LIVES)
DEAD_LETTERED = {"on_expiry": "dead_letter"}


@lives
def test_message_is_there_until_its_time_is_over_and_not_a_millisecond_longer(life: str) -> None:
    world = World()
    world.enqueue(message(b"short", ttl=1_000), message(b"long", ttl=2_000), message(b"for ever"))
    LIVES[life](world)
    world.pass_(999)
    assert world.peek() == [b"short", b"long", b"for ever"]
    world.pass_(1)
    assert world.bodies() == [b"long", b"for ever"]


@lives
def test_queue_limits_the_life_of_all(life: str) -> None:
    world = World(ttl=1_000)
    world.enqueue(message(b"as the queue"), message(b"shorter", ttl=500), message(b"wants more", ttl=9_000))
    LIVES[life](world)
    world.pass_(500)
    assert world.peek() == [b"as the queue", b"wants more"]
    world.pass_(500)
    assert world.bodies() == []


PLACES: dict[str, Any] = {
    "at the front": lambda world: world.enqueue(message(b"x", ttl=100)),
    "behind others": lambda world: world.enqueue(message(b"other"), message(b"x", ttl=100)),
    "of high priority": lambda world: world.enqueue(message(b"x", ttl=100, priority=9)),
    "behind the head of its group": lambda world: world.enqueue(
        message(b"other", group="g"), message(b"x", group="g", ttl=100)
    ),
    "at the head of its group": lambda world: world.enqueue(message(b"x", group="g", ttl=100)),
    "delayed longer than it lives": lambda world: world.enqueue(message(b"x", ttl=100, delay=5_000)),
    "delayed shorter than it lives": lambda world: world.enqueue(message(b"x", ttl=100, delay=50)),
    "with a job key": lambda world: world.enqueue(message(b"x", ttl=100, job="k")),
    "in a batch with others": lambda world: world.publish(message(b"other"), message(b"x", ttl=100)),
}
"""Where a message may be when its time is over."""


@lives
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("on_expiry", ["drop", "dead_letter"])
def test_message_expires_once_wherever_it_is(place: str, life: str, on_expiry: str) -> None:
    world = World(on_expiry=on_expiry)
    PLACES[place](world)
    LIVES[life](world)
    world.pass_(100)
    assert b"x" not in [body for state in ("ready", "held", "delayed") for body in world.peek(state)]
    assert b"x" not in world.drain()
    if on_expiry == "dead_letter":
        (dead,) = world.receive(name="jobs.dead")
        assert dead.body == b"x"
        assert dead.history is not None
        assert dead.history["reason"] == "expired"
    world.pass_(10_000)
    assert world.bodies() == []


@lives
@pytest.mark.parametrize("on_expiry", ["drop", "dead_letter"])
@pytest.mark.parametrize("how", ["nack", "release", "lease runs out", "acked in time"])
def test_message_that_expires_in_flight_is_gone_when_it_comes_back(
    life: str, on_expiry: str, how: str
) -> None:
    world = World(on_expiry=on_expiry, visibility_timeout=1_000)
    world.enqueue(message(b"x", ttl=500))
    (found,) = world.receive()
    world.pass_(600)
    assert world.stats()["in_flight"] == 1
    if how == "acked in time":
        assert world.ack(found).messages == 1
    elif how == "nack":
        world.nack(found, delay=0)
    elif how == "release":
        world.release(found)
    LIVES[life](world)
    world.pass_(1_000)
    assert world.bodies() == []
    stats = world.stats()
    assert (stats["settled_total"], stats["ready"], stats["delayed"]) == (1, 0, 0)
    if on_expiry == "dead_letter" and how != "acked in time":
        assert world.bodies(name="jobs.dead") == [b"x"]


@pytest.mark.parametrize("life", RESTARTS)
def test_message_that_expires_in_flight_is_gone_after_a_restart(life: str) -> None:
    world = World()
    world.enqueue(message(b"x", ttl=500), message(b"y"))
    assert len(world.receive()) == 2
    world.pass_(600)
    RESTARTS[life](world)
    assert world.bodies() == [b"y"]


@pytest.mark.parametrize("to", ["subscription", "receive"])
def test_message_that_expires_on_its_way_to_the_consumer_does_not_arrive(to: str) -> None:
    world = World()
    other = world.bench.connect(b"o" * 16)
    waiting = 0
    if to == "subscription":
        world.subscribe(credit=1)
    else:
        waiting = world.bench.ask(other, q.Receive("jobs", 1, 60_000))
    world.bench.ask(world.peer, q.Enqueue("jobs", batch_of(message(b"x", ttl=50))))
    world.bench.turn()
    world.clock.advance(100)
    world.bench.settle()
    assert world.deliveries() == []
    world.enqueue(message(b"y"))
    if to == "subscription":
        assert bodies(world.deliveries()) == [b"y"]
    else:
        assert world.bench.replies[other, waiting].slices == 1
    assert world.stats()["settled_total"] == 1


def test_message_that_expires_while_the_socket_takes_nothing_does_not_arrive() -> None:
    world = World()
    other = world.bench.connect(b"o" * 16)
    world.subscribe(peer=other)
    world.bench.ask(world.peer, q.Enqueue("jobs", batch_of(message(b"x", ttl=50), message(b"y"))))
    world.bench.turn()
    world.bench.core.blocked(other, True, world.clock.now())
    world.bench.settle()
    world.pass_(100)
    world.bench.core.blocked(other, False, world.clock.now())
    world.bench.settle()
    assert bodies(world.deliveries()) == [b"y"]


def test_counts_are_exact_and_say_what_became_of_each() -> None:
    world = World()
    world.publish(*texts(*"abcdef", ttl=100), *texts(*"ghi"))
    world.ack(world.receive(1)[0])
    world.pass_(100)
    stats = world.stats()
    assert (stats["ready"], stats["settled_total"]) == (3, 6)
    assert world.queue.counters["expired"] == 5
    assert world.queue.counters["EXPIRED"] == 5
    assert world.queue.counters["ACKED"] == 1


def test_ten_thousand_and_more_expire_in_turns_and_none_of_them_is_delivered_meanwhile() -> None:
    world = World(max_messages=None)
    for _ in range(6):
        assert world.publish(*(message(b"x", ttl=100) for _ in range(4_000))).messages == 4_000
    world.enqueue(message(b"y"))
    world.subscribe()
    world.clock.advance(100)
    first = world.deliveries()
    assert {each.body for _, each in first} == {b"x"}, "what was taken in time"
    world.call(q.Stop(1))
    world.subscribe(2)
    assert bodies(world.deliveries()) == [b"y"]
    assert world.stats()["settled_total"] == 24_000 - len(first)


def test_dead_letter_that_expired_begins_no_new_life_unless_its_queue_says_so() -> None:
    world = World(**DEAD_LETTERED)
    world.enqueue(message(b"x", ttl=100))
    world.pass_(100)
    world.pass_(DAY_MS)
    assert world.peek(name="jobs.dead") == [b"x"]


@lives
def test_expired_message_without_room_in_the_dead_letter_queue_waits_and_is_not_delivered(life: str) -> None:
    world = World(**DEAD_LETTERED)
    none = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
    world.create("jobs.dead", max_messages=0, **none)
    world.enqueue(message(b"x", ttl=100))
    world.pass_(100)
    LIVES[life](world)
    assert world.bodies() == []
    assert world.stats()["waiting"] == 1
    world.call(q.AlterQueue("jobs.dead", {"max_messages": 1}))
    world.pass_(2_000)
    (dead,) = world.receive(name="jobs.dead")
    assert dead.history is not None
    assert dead.history["reason"] == "expired"


@lives
def test_wall_clock_that_is_set_back_keeps_a_message_longer_and_never_shorter(life: str) -> None:
    world = World()
    world.enqueue(message(b"x", ttl=1_000))
    world.clock.jump_wall(-10_000)
    LIVES[life](world)
    world.pass_(999)
    assert world.peek() == [b"x"]
    world.pass_(1)
    assert world.bodies() == []


def test_paused_queue_forgets_what_expires() -> None:
    world = World(paused=True)
    world.enqueue(message(b"x", ttl=100))
    world.pass_(100)
    assert world.stats()["settled_total"] == 1


def test_expiry_makes_room_for_others() -> None:
    world = World(max_messages=1)
    world.enqueue(message(b"x", ttl=100))
    world.pass_(100)
    world.enqueue(message(b"y"))
    assert world.bodies() == [b"y"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"ttl": 0}, ("ttl=0", "1 to"), id="no time at all"),
        pytest.param({"ttl": DELAY_MS_MAX + 1}, (f"ttl={DELAY_MS_MAX + 1}", "1 to"), id="beyond ten years"),
        pytest.param({"on_expiry": "burn"}, ("on_expiry='burn'", "drop or dead_letter"), id="unknown end"),
        pytest.param(
            {"dead_letter": None, "max_attempts": None, "max_deliveries": None, **DEAD_LETTERED},
            ("on_expiry='dead_letter'", "dead-letter queue"),
            id="dead letters without a queue for them",
        ),
    ],
)
def test_setting_that_cannot_be_is_refused(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    error = World().ask(q.CreateQueue("other", settings, "check"))
    assert isinstance(error, Invalid)
    assert all(word in str(error) for word in words)


def test_life_beyond_ten_years_is_refused_by_name_value_and_range() -> None:
    error = World().publish(message(b"x", ttl=DELAY_MS_MAX + 1))
    assert isinstance(error, Invalid)
    assert f"ttl={DELAY_MS_MAX + 1}" in str(error)
    assert f"{DELAY_MS_MAX:,}" in str(error)
