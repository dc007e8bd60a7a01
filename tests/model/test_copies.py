"""A message that was here before, and is again: its id means where it is now, whatever died in between."""

from typing import Any

import pytest
from tests.model.test_story import busy
from tests.model.test_transfers import bury, find, transfer
from tests.model.traits import DAY_MS, LIVES, World, message, texts

from penstock_broker.queues import copies
from penstock_protocol.errors import NotFound
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import unpack_document

lives = pytest.mark.parametrize("life", LIVES)


def explained(world: World, offset: int = 0) -> tuple[str, int]:
    """State and offset of the message of `jobs` with that id."""
    document = world.document(q.Explain("jobs", world.queue.uuid, offset))
    return document["state"], document["facts"]["offset"]


def dead(world: World, offset: int) -> tuple[str, int]:
    """The same of the dead letter with the id of a message of `jobs`. As a client does it: of what came from
    elsewhere and does not lie in the journal any more, the bytes tell where it is."""
    uuid = world.bench.queue("jobs").uuid
    reply = world.ask(q.Explain("jobs.dead", uuid, offset))
    if isinstance(reply, NotFound):
        assert reply.detail == {"find": True}
        (found,) = (
            each.offset
            for state, each in find(world, "jobs.dead", id_log=uuid, id_offset=offset)
            if state != "settled"
        )
        reply = world.call(q.Explain("jobs.dead", q.HERE, found))
    document = unpack_document(reply.payload)
    return document["state"], document["facts"]["offset"]


def cancel(world: World, offset: int = 0) -> bool:
    cancelled: bool = world.document(q.Reschedule("jobs", world.queue.uuid, offset, None))["found"]
    return cancelled


def redriven(world: World) -> None:
    world.dead_letter(*world.receive())
    assert transfer(world, "jobs.dead") == 3


def moved_and_moved_back(world: World) -> None:
    world.create("other")
    assert transfer(world, "jobs", "other") == 3
    assert transfer(world, "other", "jobs") == 3


def replayed(world: World) -> None:
    world.ack(*world.receive())
    assert transfer(world, "jobs", None, "settled") == 3


def replayed_elsewhere_and_moved_back(world: World) -> None:
    world.create("other")
    world.ack(*world.receive())
    assert transfer(world, "jobs", "other", "settled") == 3
    assert transfer(world, "other", "jobs") == 3


WAYS: dict[str, Any] = {
    "redriven": redriven,
    "moved there and back": moved_and_moved_back,
    "replayed": replayed,
    "replayed elsewhere and moved back": replayed_elsewhere_and_moved_back,
}
"""How a message comes to be here again."""


@lives
@pytest.mark.parametrize("way", WAYS)
def test_id_means_the_message_that_is_here_now(way: str, life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.publish(*texts("a", "b", "c"))
    WAYS[way](world)
    LIVES[life](world)
    assert [explained(world, n) for n in range(3)] == [("ready", n + 3) for n in range(3)]
    (found,) = (each for state, each in find(world, id_log=world.queue.uuid, id_offset=1) if state == "ready")
    assert found.offset == 4
    later = q.Reschedule("jobs", world.queue.uuid, 0, world.wall + 60_000)
    assert world.document(later) == {"found": True}
    assert explained(world) == ("delayed", 3)
    assert cancel(world, 1)
    LIVES[life](world)
    assert world.bodies() == [b"c"]
    assert not cancel(world, 1)
    assert not cancel(world, 2), "somebody has it"
    world.pass_(60_000)
    assert world.bodies() == [b"a"]


@lives
def test_message_that_is_done_again_is_settled_and_what_is_here_for_the_third_time_is_meant(
    life: str,
) -> None:
    world = World()
    world.enqueue(message(b"x"))
    for offset in (1, 2):
        world.dead_letter(*world.receive())
        transfer(world, "jobs.dead")
        LIVES[life](world)
        assert explained(world) == ("ready", offset)
    world.ack(*world.receive())
    LIVES[life](world)
    assert explained(world)[0] == "settled"
    assert not cancel(world)


@lives
def test_dead_letter_that_died_twice_is_the_second_one_in_its_queue(life: str) -> None:
    world = World()
    bury(world, "x", "stays")
    transfer(world, "jobs.dead", limit=1)
    world.enqueue(message(b"y"), to="jobs.dead")
    world.dead_letter(*world.receive())
    LIVES[life](world)
    assert dead(world, 0) == ("ready", 3)
    assert dead(world, 1) == ("ready", 1)


@lives
def test_of_two_copies_the_newest_that_is_not_settled_is_meant(life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.enqueue(message(b"x"))
    world.ack(*world.receive())
    for _ in range(2):
        assert transfer(world, "jobs", None, "settled") == 1
    LIVES[life](world)
    for offset in (2, 1):
        assert explained(world) == ("ready", offset)
        assert cancel(world)
        LIVES[life](world)
    assert explained(world)[0] == "settled"
    assert not cancel(world)


def test_id_leads_to_bytes_that_the_journal_has_long_given_up() -> None:
    world = World()
    world.publish(*texts("a", "b"))
    world.dead_letter(*world.receive())
    transfer(world, "jobs.dead")
    busy_elsewhere(world)
    assert world.queue.log.position(2) == 0, "it lies in a segment"
    assert explained(world, 1) == ("ready", 3)
    assert cancel(world, 1)
    assert world.bodies() == [b"a"]


def busy_elsewhere(world: World) -> None:
    """So much goes through another queue that the journal has nothing of `jobs` any more."""
    world.create("busy")
    world.name = "busy"
    busy(world)
    world.name = "jobs"


def test_offset_of_another_message_is_not_taken_for_an_id() -> None:
    world = World()
    world.publish(*texts("a", "b"))
    world.dead_letter(world.receive(1)[0])
    transfer(world, "jobs.dead")
    assert explained(world, 1) == ("ready", 1)
    assert explained(world, 2) == ("ready", 2)
    assert explained(world, 0) == ("ready", 2)


@lives
def test_what_came_back_often_is_kept_once(life: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PRUNE_MIN", 8)
    world = World()
    world.publish(*texts("stays", "goes round"))
    held = world.receive()
    world.dead_letter(held[1])
    world.dead_letter(held[0])
    assert transfer(world, "jobs.dead") == 2
    for _ in range(50):
        again = [each for each in world.receive() if each.id[1] == 1]
        world.dead_letter(*again)
        assert transfer(world, "jobs.dead") == 1
        world.pass_(1)
    LIVES[life](world)
    assert len(world.queue.indexes.copies) <= 9
    world.receive()
    assert explained(world) == ("in_flight", 3)
    assert explained(world, 1) == ("in_flight", 53)


def test_plain_messages_and_dead_letters_leave_nothing_in_it() -> None:
    world = World()
    world.publish(*texts("a", "b"))
    world.dead_letter(*world.receive(1))
    assert not world.queue.indexes.used
    assert not len(world.bench.queue("jobs.dead").indexes.copies)
