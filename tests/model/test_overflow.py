"""What becomes of a publish to a queue that is full, on a whole node, whatever dies."""

from typing import Any

import pytest
from tests.model.traits import LIVES, World, batch_of, message, texts

from penstock_protocol.batch import OnConflict
from penstock_protocol.errors import Error, Invalid, QueueFull
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import encode_ranges

lives = pytest.mark.parametrize("life", LIVES)
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


@lives
def test_full_queue_refuses_with_its_name_its_limit_and_what_to_do(life: str) -> None:
    world = World(max_messages=2)
    world.publish(*texts("a", "b"))
    LIVES[life](world)
    error = world.publish(message(b"c"))
    assert isinstance(error, QueueFull)
    assert "'jobs' holds 2 of 2 messages" in str(error)
    assert "--max-messages" in str(error)
    assert world.drain() == [b"a", b"b"]


@lives
@pytest.mark.parametrize("state", ["ready", "delayed", "in flight", "in a group", "waiting for a retry"])
def test_every_message_that_is_not_done_counts(state: str, life: str) -> None:
    world = World(max_messages=1)
    given: dict[str, Any] = {"delayed": {"delay": 9_000}, "in a group": {"group": "g"}}.get(state, {})
    world.enqueue(message(b"a", **given))
    if state == "in flight":
        world.receive()
    elif state == "waiting for a retry":
        world.nack(*world.receive(), delay=9_000)
    assert isinstance(world.publish(message(b"b")), QueueFull)
    LIVES[life](world)
    assert isinstance(world.publish(message(b"b")), QueueFull)


def test_no_queue_is_unbounded_unless_somebody_says_so() -> None:
    settings = World().document(q.DescribeQueue("jobs"))["settings"]
    assert settings["max_messages"] == 1_000_000
    assert settings["max_bytes"] == 8 << 30
    assert settings["max_in_flight"] == 100_000
    assert settings["overflow"] == "reject"


@lives
def test_oldest_goes_for_a_new_one(life: str) -> None:
    world = World(max_messages=3, overflow="drop_oldest")
    world.publish(*texts("a", "b", "c"))
    LIVES[life](world)
    world.enqueue(message(b"d"))
    assert world.publish(*texts("e", "f")).messages == 2
    LIVES[life](world)
    assert world.drain() == [b"d", b"e", b"f"]
    assert world.stats()["settled_total"] == 6


@lives
def test_oldest_dies_for_a_new_one(life: str) -> None:
    world = World(max_messages=2, overflow="dead_letter_oldest")
    world.publish(*texts("a", "b"))
    LIVES[life](world)
    world.enqueue(message(b"c"))
    LIVES[life](world)
    assert world.drain() == [b"b", b"c"]
    (dead,) = world.receive(name="jobs.dead")
    assert dead.body == b"a"
    assert dead.history is not None
    assert dead.history["reason"] == "overflow"


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter_oldest"])
@pytest.mark.parametrize(
    "given", [{"delay": 9_000}, {"group": "g"}, {"priority": 9}, {"job": "k"}, {"ttl": 9_000}, {"dedup": "x"}]
)
def test_oldest_goes_whatever_it_waits_for(overflow: str, given: dict[str, Any]) -> None:
    world = World(max_messages=1, overflow=overflow)
    world.enqueue(message(b"a", **given), message(b"b"))
    assert world.drain() == [b"b"]
    world.pass_(9_000)
    assert world.drain() == []


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter_oldest"])
def test_message_in_flight_stays_and_the_limit_holds(overflow: str) -> None:
    world = World(max_messages=2, overflow=overflow)
    world.enqueue(*texts("a", "b"))
    first, _ = world.receive()
    assert isinstance(world.publish(message(b"c")), QueueFull)
    world.ack(first)
    world.enqueue(message(b"c"), message(b"d"))
    assert world.drain() == [b"d"]


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter_oldest"])
@pytest.mark.parametrize("inside", [0, 1, 2])
def test_batch_beyond_the_limit_is_refused_and_nothing_goes_for_it(overflow: str, inside: int) -> None:
    world = World(max_messages=2, overflow=overflow)
    world.enqueue(*texts(*"ab"[:inside]))
    assert isinstance(world.publish(*texts("x", "y", "z")), QueueFull)
    assert world.stats()["ready"] == inside


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter_oldest"])
def test_message_beyond_the_bytes_is_refused_and_nothing_goes_for_it(overflow: str) -> None:
    world = World(max_bytes=500, overflow=overflow)
    world.enqueue(*texts("a", "b"))
    assert isinstance(world.publish(message(b"x" * 600)), QueueFull)
    assert world.drain() == [b"a", b"b"]


def test_oldest_go_until_the_bytes_are_enough() -> None:
    world = World(max_bytes=1_000, overflow="drop_oldest")
    for name in (b"a", b"b", b"c", b"d", b"e" * 2):
        world.enqueue(message(name * 200))
        assert world.stats()["bytes"] <= 1_000
    assert [body[:1] for body in world.drain()] == [b"c", b"d", b"e"]


def test_queue_that_takes_nothing_takes_nothing() -> None:
    for overflow in ("reject", "drop_oldest", "dead_letter_oldest"):
        world = World(max_messages=0, overflow=overflow)
        assert isinstance(world.publish(message(b"x")), QueueFull)


def test_full_dead_letter_queue_refuses_what_would_push_into_it() -> None:
    world = World(max_messages=1, overflow="dead_letter_oldest")
    world.create("jobs.dead", max_messages=1, **NO_LIMITS)
    world.enqueue(*texts("a", "b"))
    error = world.publish(message(b"c"))
    assert isinstance(error, QueueFull)
    assert "'jobs.dead'" in str(error)
    assert (world.drain(), world.bodies(name="jobs.dead")) == ([b"b"], [b"a"])


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter_oldest"])
def test_job_that_is_replaced_goes_once(overflow: str) -> None:
    world = World(max_messages=2, overflow=overflow)
    world.enqueue(message(b"a", job="k"), message(b"b"))
    world.publish(message(b"c", job="k", conflict=OnConflict.REPLACE))
    assert world.drain() == [b"b", b"c"]
    world.enqueue(message(b"d", job="k"), message(b"e"))
    world.publish(message(b"f", job="k", conflict=OnConflict.REPLACE), message(b"g"))
    assert world.drain() == [b"f", b"g"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter_oldest"])
def test_duplicate_pushes_nothing_out(overflow: str) -> None:
    world = World(max_messages=1, overflow=overflow)
    world.enqueue(message(b"a", dedup="x"))
    world.publish(message(b"again", dedup="x"))
    assert world.drain() == [b"a"]


def test_group_goes_on_when_its_head_is_pushed_out() -> None:
    world = World(max_messages=2, overflow="drop_oldest")
    world.enqueue(*texts("a1", "a2", group="a"), message(b"b"))
    assert sorted(world.bodies()) == [b"a2", b"b"]


def test_answer_pushes_the_oldest_answer_out_where_the_queue_for_answers_says_so() -> None:
    world = World()
    world.create("answers", max_messages=1, overflow="drop_oldest")
    world.enqueue(*texts("a", "b"))
    for each, answer in zip(world.receive(), (b"1", b"2"), strict=True):
        payload = memoryview(encode_ranges([each.range]) + bytes(batch_of(message(answer))))
        assert world.call(q.Reply("jobs", "answers", payload)).messages == 1
    assert world.bodies(name="answers") == [b"2"]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_is_in_flight_than_the_limit_and_consumers_go_on_when_something_is_done(
    in_flight: int,
) -> None:
    world = World(max_in_flight=in_flight)
    world.subscribe(credit=100)
    world.publish(*texts(*"abcdef"))
    found = world.deliveries()
    assert len(found) == in_flight
    world.ack(found[0][1])
    assert len(world.deliveries()) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"overflow": "explode"}, ("overflow='explode'", "reject or drop_oldest"), id="unknown"),
        pytest.param({"max_messages": -1}, ("max_messages=-1", "0 to"), id="less than none"),
        pytest.param({"max_bytes": 1.5}, ("max_bytes=1.5", "0 to"), id="part of a byte"),
        pytest.param({"max_in_flight": 0}, ("max_in_flight=0", "1 to"), id="none in flight"),
        pytest.param(
            {"overflow": "dead_letter_oldest", **NO_LIMITS},
            ("overflow='dead_letter_oldest'", "dead-letter queue"),
            id="dead letters without a queue for them",
        ),
    ],
)
def test_setting_that_cannot_be_is_refused(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    error = World().ask(q.CreateQueue("other", settings, "check"))
    assert isinstance(error, Invalid)
    assert all(word in str(error) for word in words)


def test_refusals_are_counted_by_reason() -> None:
    world = World(max_messages=0)
    assert isinstance(world.publish(message(b"x")), Error)
    assert world.queue.refused == {"QueueFull": 1}
