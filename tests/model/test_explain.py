"""Why a message is not delivered now, and what became of it so far, in words and facts; whatever dies."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.model.traits import DAY_MS, LIVES, World, clean, message, seen, texts

from penstock_protocol.batch import OnConflict
from penstock_protocol.errors import Invalid, NotFound
from penstock_protocol.messages import queues as q

lives = pytest.mark.parametrize("life", LIVES)
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


def explain(world: World, offset: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = world.document(q.Explain("jobs", world.queue.uuid, offset))
    return found


def ready(world: World) -> None:
    world.enqueue(message(b"x"))


def delayed(world: World) -> None:
    world.enqueue(message(b"x", delay=DAY_MS))


def failed(world: World) -> None:
    world.enqueue(message(b"x"))
    world.nack(*world.receive(), delay=DAY_MS)


def held(world: World) -> None:
    world.enqueue(message(b"head", group="g", delay=DAY_MS), message(b"x", group="g"))


def parked(world: World) -> None:
    world.enqueue(*texts("head", "x", group="g"))
    world.dead_letter(*world.receive())


def of_a_job(world: World) -> None:
    world.enqueue(message(b"head", job="k", delay=DAY_MS))
    world.enqueue(message(b"x", job="k", conflict=OnConflict.RUN_AFTER))


def waiting(world: World) -> None:
    world.create("jobs.dead", max_messages=0, **NO_LIMITS)
    world.enqueue(message(b"x"))
    world.dead_letter(*world.receive())


def paused(world: World) -> None:
    world.alter(paused=True)
    world.enqueue(message(b"x"))


def settled(world: World) -> None:
    world.enqueue(message(b"x"))
    world.ack(*world.receive())


CASES: dict[str, tuple[Callable[[World], None], int, str, str]] = {
    "nobody asks": (ready, 0, "ready", "nobody receives"),
    "delayed": (delayed, 0, "delayed", "due in 86400.0 s"),
    "waits for its retry": (failed, 0, "delayed", "tried again in 86400.0 s"),
    "behind the head of its group": (held, 1, "held", "message group 'g' has 1 out, the latest at offset 0"),
    "in a parked group": (parked, 1, "held", "is parked since a message of it died"),
    "behind another job": (of_a_job, 1, "held", "job key 'k' has 1 out"),
    "dead without room": (waiting, 0, "waiting", "'jobs.dead' has no room"),
    "in a queue that is paused": (paused, 0, "ready", "the queue is paused"),
    "settled": (settled, 0, "settled", "it is settled"),
}


@lives
@pytest.mark.parametrize("case", CASES)
def test_reason_is_told_in_words_whatever_died_before(case: str, life: str) -> None:
    make, offset, state, words = CASES[case]
    world = World(group_failure="park")
    make(world)
    LIVES[life](world)
    world.bench.settle()
    found = explain(world, offset)
    assert found["state"] == state
    assert words in "; ".join(found["reasons"])
    assert found["facts"]["offset"] == offset
    assert found["story"][-1][1:] == [state, "; ".join(found["reasons"])]


def test_lease_is_told_with_its_consumer_and_its_time() -> None:
    world = World(visibility_timeout=30_000)
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    world.pass_(10_000)
    told = explain(world)
    assert told["state"] == "in_flight"
    assert told["facts"]["lease_token"] == found.stamps.token
    assert told["facts"]["lease_left"] == 20.0
    assert "for 20.0 s more" in told["reasons"][0]


def test_limits_of_the_queue_are_told() -> None:
    world = World(max_in_flight=1, rate=0.001)
    world.publish(*texts("a", "b"))
    world.receive()
    reasons = "; ".join(explain(world, 1)["reasons"])
    assert "1 messages are in flight, the queue's max_in_flight" in reasons
    assert "rate of 0.001 messages a second" in reasons


def test_tenant_over_its_rate_is_told() -> None:
    world = World(fair=True, group_rate=0.5)
    world.subscribe(credit=10)
    world.enqueue(*texts("a", "b", group="t"))
    for _, each in world.deliveries():
        world.ack(each)
    assert "message group 't' is over its rate of 0.5" in "; ".join(explain(world, 1)["reasons"])


def test_consumers_without_credit_are_told() -> None:
    world = World()
    world.subscribe(credit=0)
    world.enqueue(message(b"x"))
    assert "every consumer has as many messages as it asked for" in explain(world)["reasons"]


def test_nothing_keeps_a_message_that_nothing_keeps() -> None:
    world = World()
    world.subscribe(credit=1)
    world.publish(*texts("a", "b"))
    world.bench.core.blocked(world.peer, False, world.clock.now())
    assert explain(world, 0)["state"] == "in_flight"


@lives
def test_facts_are_those_of_the_message(life: str) -> None:
    world = World()
    world.enqueue(message(b"x", priority=7, group="g", delay=60_000))
    enqueued = world.wall
    LIVES[life](world)
    facts = explain(world)["facts"]
    assert facts["priority"] == 7
    assert facts["message_group"] == "g"
    assert facts["due"] == enqueued + 60_000
    assert facts["enqueued_at"] == enqueued
    assert (facts["failures"], facts["deliveries"]) == (0, 0)


@lives
def test_story_tells_every_try(life: str) -> None:
    world = World(visibility_timeout=1_000, retry_initial=0)
    world.enqueue(message(b"x"))
    start = world.wall
    world.receive()
    world.pass_(1_000)
    world.pass_(1)
    world.nack(*world.receive(), delay=60_000, reason="no luck")
    LIVES[life](world)
    story = explain(world)["story"]
    assert [line[1] for line in story] == ["enqueued", "lease expired", "nacked", "delayed"]
    assert story[0] == [start, "enqueued", "jobs"]
    assert "no luck" in story[2][2]
    assert [line[0] for line in story] == sorted(line[0] for line in story)


def test_message_that_came_from_elsewhere_is_known_by_its_first_place() -> None:
    world = World()
    world.enqueue(message(b"x"))
    uuid = world.queue.uuid
    world.dead_letter(*world.receive())
    told = world.document(q.Explain("jobs.dead", uuid, 0))
    assert told["state"] == "ready"


def archived(world: World) -> tuple[bytes, int]:
    """A dead letter that the broker knows by its bytes alone; its id."""
    uuid = world.queue.uuid
    world.enqueue(message(b"other"), message(b"x"))
    _, bad = world.receive()
    world.dead_letter(bad)
    clean(world)
    assert world.bench.queue("jobs.dead").log.young_position is None
    return uuid, 1


def test_id_from_elsewhere_that_only_the_bytes_tell_is_asked_of_find_and_then_of_the_place() -> None:
    world = World()
    log, offset = archived(world)
    error = world.ask(q.Explain("jobs.dead", log, offset))
    assert isinstance(error, NotFound)
    assert error.detail == {"find": True}
    refused = world.document(q.Reschedule("jobs.dead", log, offset, None))
    assert refused == {"found": False, "find": True}
    found = world.call(q.Find("jobs.dead", 10, 0, {"id_log": log, "id_offset": offset}))
    (letter,) = seen(found)
    assert letter.body == b"x"
    assert world.document(q.Explain("jobs.dead", q.HERE, letter.offset))["state"] == "ready"
    assert world.document(q.Reschedule("jobs.dead", q.HERE, letter.offset, None)) == {"found": True}
    assert world.bodies(name="jobs.dead") == []


def test_place_that_never_was_is_not_looked_for() -> None:
    world = World()
    world.enqueue(message(b"x"))
    for log in (world.queue.uuid, q.HERE):
        error = world.ask(q.Explain("jobs", log, 5))
        assert isinstance(error, NotFound)
        assert error.detail == {"find": False}
        assert world.document(q.Reschedule("jobs", log, 5, 0)) == {"found": False, "find": False}
    assert isinstance(world.ask(q.Explain("jobs", q.HERE, q.PARTITION)), Invalid)


@pytest.mark.parametrize(("log", "offset"), [(b"n" * 16, 0), (None, 5)], ids=["other log", "beyond the end"])
def test_message_that_was_never_there_is_not_found_and_the_hint_says_what_to_type(
    log: bytes | None, offset: int
) -> None:
    world = World()
    world.enqueue(message(b"x"))
    error = world.ask(q.Explain("jobs", log or world.queue.uuid, offset))
    assert isinstance(error, NotFound)
    assert "penstock queue find" in str(error)


def test_explaining_changes_nothing() -> None:
    world = World()
    world.enqueue(*texts("a", "b", group="g"))
    before = world.stats()
    explain(world, 0)
    explain(world, 1)
    assert world.stats() == before
