"""The dead-letter queue before anything died: an empty one for whoever asks."""

from typing import Any

import pytest
from tests.model.traits import LIVES, World, message

from penstock_protocol.errors import Error, NotFound
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import unpack_document

lives = pytest.mark.parametrize("life", LIVES)
NAME = "jobs.dead"


@pytest.mark.parametrize(
    "request_",
    [
        q.Peek(NAME, 10, "ready"),
        q.DescribeQueue(NAME),
        q.Receive(NAME, 10, 0),
        q.Purge(NAME),
        q.Transfer(NAME, None, "ready", 10, 0, {}),
        q.Find(NAME, 10, 0, {}),
        q.AlterQueue(NAME, {"max_messages": 5}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_queue_for_dead_letters_is_empty_before_anything_died(request_: Any) -> None:
    world = World()
    reply = world.ask(request_)
    assert not isinstance(reply, Error), reply
    assert world.stats(NAME)["ready"] == 0
    world.enqueue(message(b"x"))
    world.dead_letter(*world.receive())
    assert world.bodies(name=NAME) == [b"x"]


@lives
def test_it_is_made_for_good_and_as_it_would_have_been(life: str) -> None:
    world, other = World(durability="os"), World(durability="os")
    first = world.document(q.DescribeQueue(NAME))
    other.enqueue(message(b"x"))
    other.dead_letter(*other.receive())
    assert first["settings"] == other.document(q.DescribeQueue(NAME))["settings"]
    assert first["settings"]["dead_letter"] is None
    LIVES[life](world)
    assert world.document(q.DescribeQueue(NAME))["uuid"] == first["uuid"]


def test_nobody_asked_and_nothing_died_makes_none() -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.ack(*world.receive())
    listed = unpack_document(world.call(q.ListQueues("", "", 100)).payload)["items"]
    assert [item["name"] for item in listed] == ["jobs"]


@pytest.mark.parametrize("name", ["jobs.dead.dead", "other.dead", "nowhere"])
def test_queue_that_takes_nobodys_dead_letters_is_not_made(name: str) -> None:
    world = World()
    world.document(q.DescribeQueue(NAME))
    assert isinstance(world.ask(q.DescribeQueue(name)), NotFound)


def test_deleting_does_not_make_it() -> None:
    assert isinstance(World().ask(q.DeleteQueue(NAME)), NotFound)
