"""Redrive and move into too little room: what fits goes, the rest stays where it is, and somebody says so."""

import pytest
from tests.model.test_transfers import bury, transfer
from tests.model.traits import LIVES, World, message, texts

from penstock_protocol.errors import QueueFull
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import unpack_document

lives = pytest.mark.parametrize("life", LIVES)


@lives
def test_what_there_is_room_for_goes_and_the_rest_is_refused_and_stays(life: str) -> None:
    world = World(max_messages=2)
    bury(world, "a", "b")
    world.enqueue(*texts("c", "x"))
    world.dead_letter(*world.receive(1))
    assert transfer(world, "jobs.dead", dry=True) == 3
    document = world.document(q.Transfer("jobs.dead", None, "ready", 10, 0, {}))
    assert (document["messages"], document["next"]) == (1, 1)
    LIVES[life](world)
    request = q.Transfer("jobs.dead", None, "ready", 10, document["next"], {})
    error = world.ask(request)
    assert isinstance(error, QueueFull)
    assert "holds 2 of 2 messages" in str(error)
    assert world.peek() == [b"x", b"a"]
    assert world.peek(name="jobs.dead") == [b"b", b"c"]
    world.drain()
    assert world.document(request)["messages"] == 2
    assert world.drain() == [b"b", b"c"]


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_as_many_are_moved_as_have_room_in_bytes(room: int) -> None:
    world = World()
    for name in "abc":
        world.enqueue(message(name.encode() * 100))
    world.create("other")
    size = world.document(q.Transfer("jobs", "other", "ready", 1, 0, {}, True))["bytes"]
    world.create("small", max_bytes=size * (room + 1) - 1)
    reply = world.ask(q.Transfer("jobs", "small", "ready", 10, 0, {}))
    if room:
        assert unpack_document(reply.payload)["messages"] == room
    else:
        assert isinstance(reply, QueueFull)
        assert f"holds 0 of {size - 1} bytes, and the next message of 'jobs' has {size} bytes" in str(reply)
    assert len(world.peek(name="small")) == room
    assert len(world.peek()) == 3 - room


def test_origin_without_room_stops_a_redrive_and_the_others_before_it_have_theirs() -> None:
    world = World(dead_letter="graves", max_messages=1)
    world.create("others", dead_letter="graves")
    world.enqueue(message(b"a"), to="others")
    world.name = "others"
    world.dead_letter(*world.receive())
    world.name = "jobs"
    for name in ("b", "c"):
        bury(world, name)
    assert world.document(q.Transfer("graves", None, "ready", 10, 0, {}))["messages"] == 2
    assert world.peek(name="others") == [b"a"]
    assert world.peek() == [b"b"]
    assert world.peek(name="graves") == [b"c"]


def test_copies_that_are_replayed_stop_where_the_room_ends() -> None:
    world = World(max_messages=2, keep_settled=60_000)
    world.publish(*texts("a", "b"))
    world.ack(*world.receive())
    world.enqueue(message(b"x"))
    document = world.document(q.Transfer("jobs", None, "settled", 10, 0, {}))
    assert (document["messages"], document["next"]) == (1, 1)
    assert world.drain() == [b"x", b"a"]
