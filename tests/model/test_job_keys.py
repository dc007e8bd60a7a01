"""Unique jobs: what becomes of a message whose job key is taken, on a whole node, whatever dies."""

from typing import Any

import pytest
from tests.model.traits import LIVES, World, bodies, exceptions, message

from penstock_protocol.batch import OnConflict
from penstock_protocol.errors import Conflict, Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import Exceptional, Status

lives = pytest.mark.parametrize("life", LIVES)
REPLACE, KEEP, RUN_AFTER = OnConflict.REPLACE, OnConflict.KEEP, OnConflict.RUN_AFTER
TAKEN: dict[str, Any] = {
    "ready": lambda world: None,
    "in flight": lambda world: world.receive(),
    "waiting for its retry": lambda world: world.nack(*world.receive(), delay=60_000),
    "released": lambda world: world.release(*world.receive()),
}
"""How the message may be that has the key."""


@lives
@pytest.mark.parametrize("how", TAKEN)
def test_key_is_taken_until_its_message_is_done(how: str, life: str) -> None:
    world = World()
    world.enqueue(message(b"other"))
    world.drain()
    world.enqueue(message(b"a", job="k"))
    TAKEN[how](world)
    LIVES[life](world)
    error = world.publish(message(b"b", job="k"))
    assert isinstance(error, Conflict)
    assert error.detail == {"offset": 1}
    assert "on_conflict" in str(error)
    world.enqueue(message(b"c", job="another"))


@lives
def test_delayed_job_has_its_key(life: str) -> None:
    world = World()
    world.enqueue(message(b"a", job="k", delay=60_000))
    LIVES[life](world)
    assert isinstance(world.publish(message(b"b", job="k")), Conflict)


@lives
@pytest.mark.parametrize("end", ["acked", "dead-lettered", "purged", "expired", "cancelled"])
def test_key_is_free_when_its_message_is_done(end: str, life: str) -> None:
    world = World()
    world.enqueue(message(b"a", job="k", ttl=1_000))
    if end == "acked":
        world.ack(*world.receive())
    elif end == "dead-lettered":
        world.dead_letter(*world.receive())
    elif end == "purged":
        world.document(q.Purge("jobs"))
    elif end == "cancelled":
        world.document(q.Reschedule("jobs", world.queue.uuid, 0, None))
    else:
        world.pass_(1_000)
    LIVES[life](world)
    world.enqueue(message(b"b", job="k"))
    assert world.bodies() == [b"b"]


@lives
def test_job_that_is_dead_and_waits_for_room_has_its_key(life: str) -> None:
    world = World(max_attempts=1)
    none = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
    world.create("jobs.dead", max_messages=0, **none)
    world.enqueue(message(b"a", job="k"))
    world.nack(*world.receive())
    LIVES[life](world)
    world.receive()
    assert isinstance(world.publish(message(b"b", job="k")), Conflict)


@lives
def test_kept_job_is_answered_as_the_original(life: str) -> None:
    world = World()
    world.enqueue(message(b"a", job="k"))
    LIVES[life](world)
    confirm = world.publish(message(b"b", job="k", conflict=KEEP))
    assert exceptions(confirm) == [Exceptional(0, Status.DUPLICATE, 0)]
    LIVES[life](world)
    assert world.drain() == [b"a"]


@lives
def test_replaced_job_is_gone_and_the_new_one_comes(life: str) -> None:
    world = World()
    world.enqueue(message(b"a", job="k", delay=60_000), message(b"other"))
    LIVES[life](world)
    world.enqueue(message(b"b", job="k", conflict=REPLACE))
    LIVES[life](world)
    assert world.drain() == [b"other", b"b"]
    world.pass_(60_000)
    assert world.drain() == []


@lives
def test_job_in_flight_is_not_replaced_but_followed(life: str) -> None:
    world = World()
    world.enqueue(message(b"a", job="k"))
    (first,) = world.receive()
    world.enqueue(message(b"b", job="k", conflict=REPLACE))
    assert world.bodies() == [], "it runs when the other one is done"
    world.ack(first)
    LIVES[life](world)
    assert world.drain() == [b"b"]


def test_consumer_that_waits_gets_the_follower_when_the_job_before_is_done() -> None:
    world = World()
    world.subscribe()
    world.enqueue(message(b"a", job="k"), message(b"b", job="k", conflict=RUN_AFTER))
    ((_, first),) = world.deliveries()
    world.ack(first)
    assert bodies(world.deliveries()) == [b"b"]


@lives
def test_jobs_run_one_after_the_other_if_they_say_so(life: str) -> None:
    world = World()
    for name in (b"a", b"b", b"c"):
        world.enqueue(message(name, job="k", conflict=RUN_AFTER))
    LIVES[life](world)
    (first,) = world.receive()
    assert first.body == b"a"
    world.nack(first, delay=1_000)
    LIVES[life](world)
    assert world.bodies() == []
    world.pass_(1_000)
    assert world.drain() == [b"a", b"b", b"c"]


@lives
@pytest.mark.parametrize("failure", ["block", "skip", "park"])
def test_job_that_waits_for_its_retry_is_not_overtaken_whatever_the_queue_says_of_groups(
    life: str, failure: str
) -> None:
    world = World(group_failure=failure, group_concurrency=5)
    world.enqueue(message(b"a", job="k"), message(b"b", job="k", conflict=RUN_AFTER))
    world.nack(*world.receive(), delay=1_000)
    LIVES[life](world)
    assert world.bodies() == []
    world.pass_(1_000)
    assert world.drain() == [b"a", b"b"]


@lives
def test_key_is_taken_while_queued_alone_if_the_queue_says_so(life: str) -> None:
    world = World(job_scope="queued")
    world.enqueue(message(b"a", job="k"))
    LIVES[life](world)
    assert isinstance(world.publish(message(b"b", job="k")), Conflict)
    (first,) = world.receive()
    world.enqueue(message(b"c", job="k"))
    assert isinstance(world.publish(message(b"d", job="k")), Conflict)
    assert world.bodies() == []
    world.ack(first)
    LIVES[life](world)
    assert world.drain() == [b"c"]


def test_conflicts_within_a_batch_are_named_and_the_rest_is_taken() -> None:
    world = World()
    world.enqueue(message(b"old", job="o"))
    confirm = world.publish(
        message(b"a", job="k"),
        message(b"b", job="k"),
        message(b"c", job="o", conflict=KEEP),
        message(b"d", job="k", conflict=RUN_AFTER),
        message(b"e"),
    )
    assert exceptions(confirm) == [
        Exceptional(1, Status.CONFLICT, 1),
        Exceptional(2, Status.DUPLICATE, 0),
    ]
    assert sorted(world.drain()) == [b"a", b"d", b"e", b"old"]


def test_last_of_a_batch_that_replaces_itself_stays() -> None:
    world = World()
    world.publish(*(message(b"%d" % n, job="k", conflict=REPLACE) for n in range(5)))
    assert world.drain() == [b"4"]
    assert world.stats()["settled_total"] == 5


@lives
def test_debounce_leaves_the_last_of_many(life: str) -> None:
    world = World()
    for number in range(10):
        world.enqueue(message(b"%d" % number, job="k", conflict=REPLACE, delay=1_000))
        world.pass_(500)
    LIVES[life](world)
    assert world.bodies() == []
    world.pass_(500)
    assert world.drain() == [b"9"]


def test_replaced_job_makes_its_room_free() -> None:
    world = World(max_messages=1)
    world.enqueue(message(b"a", job="k"), message(b"b", job="k", conflict=REPLACE))
    assert world.drain() == [b"b"]


def test_dead_letter_does_not_take_its_key_with_it() -> None:
    world = World(max_attempts=1)
    for _ in range(2):
        world.enqueue(message(b"a", job="k"))
        world.nack(*world.receive())
    assert world.bodies(name="jobs.dead") == [b"a", b"a"]


def test_conflict_beyond_the_table_is_refused() -> None:
    world = World()
    error = world.publish(message(b"a", job="k", conflict=9))  # type: ignore[arg-type]
    assert isinstance(error, Invalid)
    assert "on_conflict=9" in str(error)
    assert "0 to 3" in str(error)


@pytest.mark.parametrize("name", ["x" * 256, ""])
def test_key_is_text_of_up_to_255_bytes(name: str) -> None:
    error = World().publish(message(b"x", job=name))
    assert isinstance(error, Invalid)
    assert "job key" in str(error)
    assert "255" in str(error)


def test_scope_that_cannot_be_is_refused_by_name_value_and_range() -> None:
    error = World().ask(q.CreateQueue("other", {"job_scope": "always"}, "check"))
    assert isinstance(error, Invalid)
    assert "job_scope='always'" in str(error)
    assert "done or queued" in str(error)
