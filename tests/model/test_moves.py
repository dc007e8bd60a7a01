"""What goes with a message that is moved beside its bytes: its count, its tries, its checkpoint."""

import pytest
from tests.model.test_transfers import NO_LIMITS, bury, transfer
from tests.model.traits import LIVES, World, message, texts

from penstock_protocol.messages import queues as q
from penstock_protocol.slices import encode_ranges

lives = pytest.mark.parametrize("life", LIVES)


@lives
def test_moved_message_keeps_its_count_its_tries_and_its_checkpoint(life: str) -> None:
    world = World(retry_jitter=0)
    world.create("other", max_attempts=3, retry_jitter=0)
    world.publish(*texts("a", "b"))
    held = world.receive()
    head = encode_ranges([held[0].range])
    world.call(q.Checkpoint("jobs", 60_000, memoryview(head + b"half")))
    world.nack(held[0], delay=0, reason="no luck")
    world.ack(held[1])
    LIVES[life](world)
    assert transfer(world, "jobs", "other") == 1
    LIVES[life](world)
    (found,) = world.receive(name="other")
    assert (found.attempt, found.checkpoint) == (2, b"half")
    assert found.history is not None
    assert [each[3:] for each in found.history["attempts"]] == [["nacked", "no luck"]]
    world.name = "other"
    world.nack(found, delay=0, reason="none again")
    world.nack(*world.receive(), delay=0, reason="never")
    (dead,) = world.receive(name="other.dead")
    assert dead.history is not None
    assert [each[4] for each in dead.history["attempts"]] == ["no luck", "none again", "never"]


@lives
def test_message_that_waits_for_another_try_keeps_count_and_time_when_it_is_moved(life: str) -> None:
    world = World()
    world.create("other")
    world.enqueue(message(b"a", priority=2, group="g"))
    world.nack(*world.receive(), delay=5_000)
    LIVES[life](world)
    assert transfer(world, "jobs", "other", "delayed") == 1
    LIVES[life](world)
    world.pass_(4_999)
    assert world.bodies(name="other") == []
    world.pass_(1)
    assert [each.attempt for each in world.receive(name="other")] == [2]


def test_moved_message_counts_its_hand_outs_on() -> None:
    world = World(max_deliveries=3, max_attempts=None)
    world.create("other", max_deliveries=3, max_attempts=None)
    world.enqueue(message(b"a"))
    for _ in range(2):
        world.release(*world.receive())
    transfer(world, "jobs", "other")
    (found,) = world.receive(name="other")
    assert (found.attempt, found.stamps.delivery) == (1, 3)
    world.name = "other"
    world.release(found)
    assert world.bodies(name="other.dead") == [b"a"]


@pytest.mark.parametrize(("limit", "delivery"), [("max_attempts", 4), ("max_deliveries", 2)])
def test_moved_message_has_one_more_try_whatever_the_limits_are_there(limit: str, delivery: int) -> None:
    world = World()
    world.create("other", **{limit: 2})
    world.enqueue(message(b"a"))
    for _ in range(3):
        world.nack(*world.receive(), delay=0)
    transfer(world, "jobs", "other")
    (found,) = world.receive(name="other")
    assert (found.attempt, found.stamps.delivery) == (2, delivery)
    world.name = "other"
    world.nack(found, delay=0)
    assert world.bodies(name="other.dead") == [b"a"]


@lives
def test_tries_in_the_dead_letter_queue_are_history_and_not_the_count(life: str) -> None:
    world = World()
    world.create("jobs.dead", **NO_LIMITS)
    bury(world, "a")
    world.name = "jobs.dead"
    world.nack(*world.receive(), delay=0, reason="still bad")
    world.name = "jobs"
    LIVES[life](world)
    assert transfer(world, "jobs.dead") == 1
    LIVES[life](world)
    (found,) = world.receive()
    assert (found.attempt, found.history is not None) == (1, True)
    assert [each[4] for each in (found.history or {})["attempts"]] == ["bad", "still bad"]


def test_step_takes_no_more_than_an_entry_bears_of_what_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_broker.searching.BYTES_PER_STEP", 64 << 10)
    world = World()
    world.create("other")
    checkpoint = b"x" * (16 << 10)
    for _ in range(20):
        world.publish(message(b"a"))
        (held,) = world.receive(1)
        world.call(q.Checkpoint("jobs", 60_000, memoryview(encode_ranges([held.range]) + checkpoint)))
        world.nack(held, delay=0)
        world.document(q.Reschedule("jobs", *held.id, world.wall + 60_000))
    first = world.document(q.Transfer("jobs", "other", "delayed", 100, 0, {}))
    assert 2 <= first["messages"] <= 4
    assert transfer(world, "jobs", "other", "delayed") == 20 - first["messages"]
    world.pass_(60_000)
    assert [each.checkpoint for each in world.receive(name="other")] == [checkpoint] * 20
