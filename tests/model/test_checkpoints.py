"""How far the last try got, handed to the next one; and leases that are extended; whatever dies."""

import pytest
from tests.model.traits import LIVES, RESTARTS, Seen, World, batch_of, bodies, message, texts

from penstock_broker.handlers import messages as handlers
from penstock_protocol.errors import Invalid, NotFound, QueueFull, TooLarge
from penstock_protocol.limits import CHECKPOINT_BYTES_MAX, VISIBILITY_MS_MAX
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import Range, encode_ranges

lives = pytest.mark.parametrize("life", LIVES)


def checkpoint(world: World, item: Seen, data: bytes, extend: int = 60_000) -> int:
    """How many messages that was for: 1, or 0 if the lease is gone."""
    payload = memoryview(encode_ranges([item.range]) + data)
    settled: int = world.call(q.Checkpoint("jobs", extend, payload)).messages
    return settled


@lives
@pytest.mark.parametrize("how", ["nack", "release", "lease runs out", "session ends"])
def test_next_try_is_handed_the_last_checkpoint(how: str, life: str) -> None:
    world = World(retry_initial=0)
    world.enqueue(message(b"x"))
    if how == "session ends":
        peer = world.bench.connect(b"o" * 16)
        world.subscribe(peer=peer)
        ((_, found),) = world.deliveries()
    else:
        (found,) = world.receive()
    assert found.checkpoint is None
    assert checkpoint(world, found, b"page 1", 1_000)
    assert checkpoint(world, found, b"page 2", 1_000)
    if how == "nack":
        world.nack(found, delay=0)
    elif how == "release":
        world.release(found)
    elif how == "session ends":
        world.bench.core.disconnected(peer, world.clock.now())
    LIVES[life](world)
    world.pass_(60_000)
    world.pass_(1_000)
    (again,) = world.receive()
    assert (again.body, again.checkpoint) == (b"x", b"page 2")


@pytest.mark.parametrize("life", RESTARTS)
def test_checkpoint_of_a_message_in_flight_survives_the_broker(life: str) -> None:
    world = World()
    world.enqueue(message(b"a"), message(b"x"), message(b"b"))
    checkpoint(world, world.receive()[1], b"half")
    RESTARTS[life](world)
    found = world.receive()
    assert [(each.body, each.checkpoint) for each in found] == [(b"a", None), (b"x", b"half"), (b"b", None)]


@lives
def test_empty_checkpoint_is_one(life: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    checkpoint(world, found, b"something")
    checkpoint(world, found, b"")
    world.release(found)
    LIVES[life](world)
    assert [each.checkpoint for each in world.receive()] == [b""]


@lives
def test_largest_checkpoint_is_kept_and_a_larger_one_is_refused_with_the_limit(life: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    assert checkpoint(world, found, b"c" * CHECKPOINT_BYTES_MAX)
    payload = memoryview(encode_ranges([found.range]) + b"c" * (CHECKPOINT_BYTES_MAX + 1))
    error = world.ask(q.Checkpoint("jobs", 1_000, payload))
    assert isinstance(error, TooLarge)
    assert "65,537" in str(error)
    assert "65,536" in str(error)
    world.release(found)
    LIVES[life](world)
    assert world.receive()[0].checkpoint == b"c" * CHECKPOINT_BYTES_MAX


def test_checkpoint_lets_the_lease_go_on_from_now() -> None:
    world = World(visibility_timeout=1_000, retry_initial=0)
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    for _ in range(5):
        world.pass_(900)
        assert checkpoint(world, found, b"on", 1_000)
    assert world.ack(found).messages == 1


def test_checkpoint_of_a_lease_that_is_gone_is_stale_and_changes_nothing() -> None:
    world = World(visibility_timeout=1_000, retry_initial=0)
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    checkpoint(world, found, b"good", 1_000)
    world.pass_(1_001)
    assert checkpoint(world, found, b"late") == 0
    world.pass_(1)
    (again,) = world.receive()
    assert again.checkpoint == b"good"
    assert checkpoint(world, found, b"of another token") == 0


@lives
def test_message_in_a_group_or_with_a_priority_keeps_place_and_checkpoint(life: str) -> None:
    world = World()
    world.enqueue(message(b"a1", group="a"), message(b"a2", group="a"), message(b"high", priority=9))
    for found in world.receive():
        checkpoint(world, found, b"of " + found.body)
        world.release(found)
    LIVES[life](world)
    found = world.receive()
    assert [(each.body, each.checkpoint) for each in found] == [
        (b"high", b"of high"),
        (b"a1", b"of a1"),
    ]


@lives
def test_message_that_is_settled_leaves_no_checkpoint(life: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    checkpoint(world, found, b"half")
    world.ack(found)
    LIVES[life](world)
    assert world.queue.indexes.notes.size == 0
    assert not world.queue.indexes.notes


def test_checkpoint_is_not_shown_to_anybody_before_it_is_durable() -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    payload = memoryview(encode_ranges([found.range]) + b"half")
    world.bench.ask(world.peer, q.Checkpoint("jobs", 60_000, payload))
    world.bench.ask(world.peer, q.Consume("jobs", 1, 10, None, 0, False, b""))
    release = q.Nack("jobs", q.Outcome.RELEASE, None, None, memoryview(encode_ranges([found.range])))
    world.bench.ask(world.peer, release)
    world.bench.turn()
    assert world.deliveries() == []
    world.bench.settle()
    assert [each.checkpoint for _, each in world.deliveries()] == [b"half"]


def test_queue_keeps_so_many_bytes_of_checkpoints_and_refuses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "NOTES_BYTES_MAX", 100)
    world = World()
    world.enqueue(*texts("a", "b"))
    first, second = world.receive()
    assert checkpoint(world, first, b"c" * 90)
    payload = memoryview(encode_ranges([second.range]) + b"c" * 20)
    error = world.ask(q.Checkpoint("jobs", 1_000, payload))
    assert isinstance(error, QueueFull)
    assert "'jobs'" in str(error)
    assert checkpoint(world, first, b"c" * 95), "it takes the place of the one before"
    world.ack(first)
    assert checkpoint(world, second, b"c" * 20)


@pytest.mark.parametrize(
    ("payload", "extend", "words"),
    [
        pytest.param(b"short", 1_000, ("range",), id="no range"),
        pytest.param(encode_ranges([Range(1, 0, 0, 2)]), 1_000, ("one message",), id="two messages"),
        pytest.param(encode_ranges([Range(1, 0, 0, 1)]), -1, ("extend=-1", "43,200,000"), id="backwards"),
        pytest.param(
            encode_ranges([Range(1, 0, 0, 1)]),
            VISIBILITY_MS_MAX + 1,
            (f"extend={VISIBILITY_MS_MAX + 1}", "43,200,000"),
            id="beyond twelve hours",
        ),
    ],
)
def test_checkpoint_that_cannot_be_is_refused(payload: bytes, extend: int, words: tuple[str, ...]) -> None:
    error = World().ask(q.Checkpoint("jobs", extend, memoryview(payload)))
    assert isinstance(error, Invalid)
    assert all(word in str(error) for word in words)


def test_checkpoint_in_a_queue_that_is_not_there_is_refused() -> None:
    item = memoryview(encode_ranges([Range(1, 0, 0, 1)]))
    assert isinstance(World().ask(q.Checkpoint("nowhere", 0, item)), NotFound)


def test_range_of_a_partition_that_is_not_there_is_stale() -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    item = found.range._replace(partition=3)
    answer = encode_ranges([item]) + bytes(batch_of(message(b"answer")))
    for request in (
        q.Ack("jobs", encode_ranges([item])),
        q.Nack("jobs", q.Outcome.RETRY, None, None, encode_ranges([item])),
        q.Extend("jobs", 10, encode_ranges([item])),
        q.Checkpoint("jobs", 10, encode_ranges([item])),
        q.Reply("jobs", "jobs", answer),
    ):
        assert world.call(request._replace(payload=memoryview(request.payload))).messages == 0
    assert world.ack(found).messages == 1


def test_consumer_that_waits_gets_message_and_checkpoint() -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    checkpoint(world, found, b"half")
    world.subscribe()
    world.nack(found, delay=0)
    world.pass_(1)
    pushed = world.deliveries()
    assert bodies(pushed) == [b"x"]
    assert pushed[0][1].checkpoint == b"half"
    assert pushed[0][1].history is not None
