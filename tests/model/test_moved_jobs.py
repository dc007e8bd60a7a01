"""Unique jobs that come from another queue: one whose key is taken waits, and never runs beside another."""

from typing import Any

import pytest
from tests.model.test_transfers import NO_LIMITS, bury, transfer
from tests.model.traits import DAY_MS, LIVES, RESTARTS, World, message

from penstock_protocol.batch import OnConflict
from penstock_protocol.errors import Conflict

lives = pytest.mark.parametrize("life", LIVES)
REPLACE, RUN_AFTER = OnConflict.REPLACE, OnConflict.RUN_AFTER


def redriven(world: World) -> None:
    world.enqueue(message(b"comes", job="k"))
    world.dead_letter(*world.receive())
    world.enqueue(message(b"here", job="k"))
    assert transfer(world, "jobs.dead") == 1


def moved(world: World) -> None:
    world.create("other")
    world.enqueue(message(b"comes", job="k"), to="other")
    world.enqueue(message(b"here", job="k"))
    assert transfer(world, "other", "jobs") == 1


def moved_after_a_failure(world: World) -> None:
    world.create("other")
    world.enqueue(message(b"comes", job="k"), to="other")
    world.name = "other"
    world.nack(*world.receive(), delay=0, reason="no luck")
    world.name = "jobs"
    world.enqueue(message(b"here", job="k"))
    assert transfer(world, "other", "jobs") == 1


def replayed_from_elsewhere(world: World) -> None:
    world.create("other", keep_settled=DAY_MS)
    world.enqueue(message(b"comes", job="k"), to="other")
    world.ack(*world.receive(name="other"), name="other")
    world.enqueue(message(b"here", job="k"))
    assert transfer(world, "other", "jobs", "settled") == 1


def replayed_in_place(world: World) -> None:
    world.enqueue(message(b"comes", job="k"))
    world.ack(*world.receive())
    world.enqueue(message(b"here", job="k"))
    assert transfer(world, "jobs", None, "settled") == 1


WAYS: dict[str, Any] = {
    "redriven": redriven,
    "moved": moved,
    "moved after a failure": moved_after_a_failure,
    "replayed from elsewhere": replayed_from_elsewhere,
    "replayed in place": replayed_in_place,
}


@lives
@pytest.mark.parametrize("settings", [{}, {"fair": True}, {"job_scope": "queued"}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_job_that_comes_while_its_key_is_taken_waits_for_the_other(
    way: str, settings: dict[str, Any], life: str
) -> None:
    world = World(keep_settled=DAY_MS, **settings)
    WAYS[way](world)
    LIVES[life](world)
    (here,) = world.receive()
    assert here.body == b"here"
    world.nack(here, delay=1_000)
    LIVES[life](world)
    assert world.bodies() == []
    world.pass_(1_000)
    assert world.drain() == [b"here", b"comes"]


@pytest.mark.parametrize("life", RESTARTS)
@pytest.mark.parametrize("way", WAYS)
def test_job_that_somebody_had_at_the_restart_still_goes_first(way: str, life: str) -> None:
    world = World(keep_settled=DAY_MS)
    WAYS[way](world)
    assert world.bodies() == [b"here"]
    RESTARTS[life](world)
    (again,) = world.receive()
    assert again.body == b"here"
    world.ack(again)
    RESTARTS[life](world)
    assert world.bodies() == [b"comes"]


@lives
def test_job_whose_key_was_free_when_it_came_has_it_now(life: str) -> None:
    world = World()
    world.enqueue(message(b"x", job="k"))
    world.dead_letter(*world.receive())
    transfer(world, "jobs.dead")
    LIVES[life](world)
    error = world.publish(message(b"y", job="k"))
    assert isinstance(error, Conflict)
    assert error.detail == {"offset": 1}
    world.enqueue(message(b"z", job="k", conflict=RUN_AFTER))
    assert world.bodies(1) == [b"x"]
    world.enqueue(message(b"newest", job="k", conflict=REPLACE))
    LIVES[life](world)
    held = world.receive()
    assert [each.body for each in held] == ([] if life == "no restart" else [b"x"])


@lives
def test_jobs_with_one_key_that_come_together_run_one_by_one(life: str) -> None:
    world = World()
    for number in range(3):
        world.enqueue(message(b"%d" % number, job="k", priority=9 - number))
        world.dead_letter(*world.receive())
    assert world.peek(name="jobs.dead") == [b"0", b"1", b"2"]
    assert transfer(world, "jobs.dead", step=2) == 3
    LIVES[life](world)
    held = world.receive()
    assert [each.body for each in held] == [b"0"]
    world.ack(*held)
    assert world.drain() == [b"1", b"2"]


@lives
def test_key_moves_on_with_its_message(life: str) -> None:
    world = World()
    world.create("other")
    world.enqueue(message(b"x", job="k"), message(b"y", job="k", conflict=RUN_AFTER))
    assert transfer(world, "jobs", "other") == 2
    LIVES[life](world)
    world.enqueue(message(b"z", job="k"))
    assert world.bodies(name="other") == [b"x"]
    assert isinstance(world.publish(message(b"w", job="k"), to="other"), Conflict)


@lives
def test_delayed_job_keeps_its_time_and_its_key_where_it_is_moved(life: str) -> None:
    world = World()
    world.create("other")
    world.enqueue(message(b"later", job="k", delay=5_000))
    assert transfer(world, "jobs", "other", "delayed") == 1
    LIVES[life](world)
    world.enqueue(message(b"after", job="k", conflict=RUN_AFTER), to="other")
    assert world.bodies(name="other") == []
    world.pass_(5_000)
    LIVES[life](world)
    assert world.bodies(name="other") == [b"later"]


@lives
def test_dead_letters_with_one_key_lie_beside_one_another_and_do_not_take_it(life: str) -> None:
    world = World()
    world.create("jobs.dead", **NO_LIMITS)
    for _ in range(2):
        world.enqueue(message(b"x", job="k"))
        world.dead_letter(*world.receive())
    LIVES[life](world)
    assert len(world.receive(name="jobs.dead")) == 2
    world.enqueue(message(b"y", job="k"), to="jobs.dead")


def test_messages_without_a_key_have_none_where_they_go() -> None:
    world = World()
    bury(world, "a", "b")
    world.publish(message(b"c", job="k"), message(b"d"))
    world.dead_letter(*world.receive())
    assert transfer(world, "jobs.dead") == 4
    assert list(world.queue.indexes.groups.of) == [6]
    assert world.bodies() == [b"a", b"b", b"c", b"d"]
