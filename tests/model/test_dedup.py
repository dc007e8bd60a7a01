"""Deduplication by id or content within a window, on a whole node, whatever dies."""

from typing import Any

import pytest
from tests.model.traits import DAY_MS, LIVES, RESTARTS, World, exceptions, message

from penstock_broker.queues import dedup
from penstock_protocol.errors import Invalid, QueueFull
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import Exceptional, Status

lives = pytest.mark.parametrize("life", LIVES)
WINDOW_MS = 300_000


def duplicate_of(confirm: Any, number: int = 0) -> int | None:
    """The offset of the original, if that message is a duplicate."""
    return next((each.offset for each in exceptions(confirm) if each.number == number), None)


@lives
def test_second_message_with_an_id_is_a_duplicate_of_the_first(life: str) -> None:
    world = World()
    world.enqueue(message(b"other"), message(b"first", dedup="x"))
    LIVES[life](world)
    confirm = world.publish(message(b"second", dedup="x"))
    assert exceptions(confirm) == [Exceptional(0, Status.DUPLICATE, 1)]
    assert world.drain() == [b"other", b"first"]


@lives
@pytest.mark.parametrize("became", ["acked", "dead-lettered", "purged"])
def test_id_is_remembered_for_its_window_whatever_became_of_the_message(life: str, became: str) -> None:
    world = World()
    world.enqueue(message(b"first", dedup="x"))
    if became == "acked":
        world.ack(*world.receive())
    elif became == "purged":
        world.document(q.Purge("jobs"))
    else:
        world.dead_letter(*world.receive())
    world.pass_(WINDOW_MS - 1)
    LIVES[life](world)
    assert duplicate_of(world.publish(message(b"again", dedup="x"))) == 0
    world.pass_(1)
    assert duplicate_of(world.publish(message(b"later", dedup="x"))) is None
    assert world.drain() == [b"later"]


@lives
def test_duplicate_does_not_prolong_the_window(life: str) -> None:
    world = World()
    world.enqueue(message(b"first", dedup="x"))
    world.pass_(WINDOW_MS - 1)
    assert duplicate_of(world.publish(message(b"again", dedup="x"))) == 0
    LIVES[life](world)
    world.pass_(1)
    world.enqueue(message(b"later", dedup="x"))


@lives
def test_duplicates_within_a_batch_are_named_by_their_numbers(life: str) -> None:
    world = World()
    world.enqueue(message(b"old", dedup="o"))
    confirm = world.publish(
        message(b"a", dedup="x"),
        message(b"b", dedup="o"),
        message(b"c"),
        message(b"d", dedup="x"),
        message(b"e", dedup="y"),
    )
    assert exceptions(confirm) == [
        Exceptional(1, Status.DUPLICATE, 0),
        Exceptional(3, Status.DUPLICATE, 1),
    ]
    LIVES[life](world)
    assert world.peek() == [b"old", b"a", b"c", b"e"]
    assert duplicate_of(world.publish(message(b"f", dedup="y"))) == 5


@lives
@pytest.mark.parametrize("window", [1, 7 * DAY_MS])
def test_window_is_as_long_as_the_queue_says(life: str, window: int) -> None:
    world = World(dedup_window=window)
    world.enqueue(message(b"a", dedup="x"))
    LIVES[life](world)
    world.pass_(window - 1)
    assert duplicate_of(world.publish(message(b"b", dedup="x"))) == 0
    world.pass_(1)
    world.enqueue(message(b"c", dedup="x"))


def test_queue_without_a_window_takes_every_id() -> None:
    world = World(dedup_window=0)
    world.enqueue(message(b"a", dedup="x"), message(b"b", dedup="x"))
    assert world.drain() == [b"a", b"b"]


@lives
def test_message_without_an_id_is_known_by_its_content_if_the_queue_says_so(life: str) -> None:
    world = World(content_dedup=True)
    world.enqueue(message(b"same"), message(b"other"))
    LIVES[life](world)
    assert duplicate_of(world.publish(message(b"same"))) == 0
    world.enqueue(message(b"same", dedup="an id of its own"))
    assert world.drain() == [b"same", b"other", b"same"]


def test_priority_delay_and_group_of_a_duplicate_do_nothing() -> None:
    world = World()
    world.enqueue(message(b"a", dedup="x"))
    for more in ({"delay": 100}, {"priority": 9}, {"group": "g"}, {"ttl": 10}):
        assert duplicate_of(world.publish(message(b"b", dedup="x", **more))) == 0
    world.enqueue(message(b"c", group="g"))
    world.pass_(100)
    assert world.drain() == [b"a", b"c"]


def test_wall_clock_that_is_set_back_does_not_reopen_a_window_nor_shorten_it() -> None:
    world = World()
    world.enqueue(message(b"a", dedup="x"))
    world.clock.jump_wall(-DAY_MS)
    world.pass_(WINDOW_MS - 1)
    assert duplicate_of(world.publish(message(b"b", dedup="x"))) == 0
    world.pass_(1)
    world.enqueue(message(b"c", dedup="x"))


@lives
def test_full_window_refuses_new_ids_and_still_knows_the_old_ones(
    life: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup, "IDS_MAX", 3)
    world = World()
    world.publish(*(message(b"%d" % n, dedup=str(n)) for n in range(3)))
    LIVES[life](world)
    error = world.publish(message(b"x", dedup="new"))
    assert isinstance(error, QueueFull)
    assert "dedup ids" in str(error)
    assert duplicate_of(world.publish(message(b"x", dedup="1"))) == 1
    world.enqueue(message(b"without an id"))
    world.pass_(WINDOW_MS)
    world.enqueue(message(b"x", dedup="new"))


def test_batch_with_more_ids_than_the_window_has_room_for_is_refused_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dedup, "IDS_MAX", 3)
    world = World()
    world.enqueue(message(b"a", dedup="a"))
    assert isinstance(world.publish(*(message(b"x", dedup=str(n)) for n in range(3))), QueueFull)
    assert world.peek() == [b"a"]
    assert world.publish(*(message(b"x", dedup=each) for each in "abab")).messages == 4
    assert len(world.queue.indexes.dedup) == 2


@pytest.mark.parametrize("life", LIVES)
def test_batch_sent_again_is_answered_as_the_first_time(life: str) -> None:
    world = World()
    world.bench.core.disconnected(world.peer, world.clock.now())
    world.peer = world.bench.connect(b"p" * 16, 7)
    world.enqueue(message(b"old", dedup="x"))
    sent = (message(b"a", dedup="x"), message(b"b", dedup="y"))
    first = world.publish(*sent, producer_id=7, sequence=0)
    LIVES[life](world)
    again = world.publish(*sent, producer_id=7, sequence=0)
    assert again.duplicate
    assert (again.first, exceptions(again)) == (first.first, exceptions(first))
    assert world.peek() == [b"old", b"b"]


def test_duplicate_is_a_duplicate_even_if_the_queue_is_full() -> None:
    world = World(max_messages=1)
    world.enqueue(message(b"a", dedup="x"))
    assert duplicate_of(world.publish(message(b"a", dedup="x"))) == 0
    assert isinstance(world.publish(message(b"b", dedup="y")), QueueFull)
    world.ack(*world.receive())
    world.enqueue(message(b"b", dedup="y"))


def test_refused_publish_leaves_no_id_behind() -> None:
    world = World(max_messages=1)
    world.enqueue(message(b"a"))
    assert isinstance(world.publish(message(b"b", dedup="x")), QueueFull)
    world.ack(*world.receive())
    world.enqueue(message(b"b", dedup="x"))


def test_id_of_a_message_in_conflict_stands_for_nothing() -> None:
    world = World()
    world.enqueue(message(b"a", job="k"))
    confirm = world.publish(message(b"b", job="k", dedup="x"), message(b"c", dedup="x"))
    assert exceptions(confirm) == [Exceptional(0, Status.CONFLICT, 0)]
    assert world.drain() == [b"a", b"c"]


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, ""])
def test_id_is_text_of_up_to_255_bytes(name: str) -> None:
    error = World().publish(message(b"x", dedup=name))
    assert isinstance(error, Invalid)
    assert "dedup id" in str(error)
    assert "255" in str(error)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dedup_window", -1),
        ("dedup_window", 7 * DAY_MS + 1),
        ("dedup_window", None),
        ("content_dedup", "yes"),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name_value_and_range(setting: str, value: Any) -> None:
    error = World().ask(q.CreateQueue("other", {setting: value}, "check"))
    assert isinstance(error, Invalid)
    assert f"{setting}={value!r}" in str(error)
    assert "allowed" in str(error)


@pytest.mark.parametrize("life", RESTARTS)
def test_recreated_queue_knows_no_ids_of_the_one_before(life: str) -> None:
    world = World()
    world.enqueue(message(b"a", dedup="x"))
    world.call(q.DeleteQueue("jobs"))
    world.create("jobs")
    RESTARTS[life](world)
    world.enqueue(message(b"b", dedup="x"))
