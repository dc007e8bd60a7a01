"""What became of a message, from the journal and from what is kept of its bytes; whatever is gone is said."""

from typing import Any

import pytest
from tests.model.test_simulator_findings import ColdFiles
from tests.model.test_transfers import transfer
from tests.model.traits import LIVES, SECOND_MS, World, message, texts

from penstock_broker.storage import lookback
from penstock_protocol.errors import NotFound
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import encode_ranges

lives = pytest.mark.parametrize("life", LIVES)
Line = tuple[int, str, str]


def story(world: World, offset: int = 0, name: str = "jobs") -> list[Line]:
    document = world.document(q.Explain(name, world.bench.queue(name).uuid, offset, True))
    found = [(when, what, detail) for when, what, detail in document["story"]]
    assert [when for when, _, _ in found] == sorted(when for when, _, _ in found)
    return found


def told(lines: list[Line]) -> list[str]:
    """What happened, but for where it is now."""
    return [what for _, what, _ in lines[:-1]]


@lives
def test_settled_message_has_its_whole_life_told(life: str) -> None:
    world = World(retry_jitter=0)
    world.enqueue(message(b"x", delay=SECOND_MS))
    start = world.wall
    world.pass_(SECOND_MS)
    (held,) = world.receive()
    head = encode_ranges([held.range])
    world.call(q.Checkpoint("jobs", 60_000, memoryview(head + b"half")))
    world.pass_(1)
    world.nack(held, delay=0, reason="no luck")
    world.pass_(1)
    (again,) = world.receive()
    world.pass_(1)
    world.ack(again)
    end = world.wall
    LIVES[life](world)
    lines = story(world)
    assert told(lines) == ["enqueued", "checkpoint", "nacked", "acked"]
    assert lines[0] == (start, "enqueued", "jobs")
    assert "no luck" in lines[2][2]
    assert lines[3][0] == end
    assert lines[-1][1] == "settled"


@lives
def test_dead_letter_tells_where_it_went_and_there_where_it_came_from(life: str) -> None:
    world = World()
    world.enqueue(*texts("other", "x"))
    _, second = world.receive()
    world.pass_(1)
    world.dead_letter(second, reason="no such user")
    LIVES[life](world)
    lines = story(world, 1)
    assert told(lines) == ["enqueued", "rejected", "dead-lettered"]
    assert lines[2][2] == "to offset 0 of queue 'jobs.dead': no such user"
    there = story(world, 0, "jobs.dead")
    assert sorted(told(there)) == ["enqueued", "rejected"]
    assert "jobs.dead, from offset 1 of queue 'jobs'" in [detail for _, _, detail in there]
    assert there[-1][1] == "ready"


def test_ways_to_end_are_told() -> None:
    world = World()
    world.create("other")
    world.enqueue(*texts("moved", "cancelled"))
    world.enqueue(message(b"expired", ttl=SECOND_MS), message(b"first", dedup="d"))
    world.publish(message(b"second", dedup="d"))
    world.document(q.Transfer("jobs", "other", "ready", 1, 0, {}))
    world.document(q.Reschedule("jobs", world.queue.uuid, 1, None))
    world.pass_(SECOND_MS)
    assert told(story(world, 0)) == ["enqueued", "moved"]
    assert story(world, 0)[1][2] == "to offset 0 of queue 'other'"
    assert told(story(world, 1)) == ["enqueued", "purged"]
    assert told(story(world, 2)) == ["enqueued", "expired"]
    assert told(story(world, 4)) == ["enqueued", "not taken"]


def test_dead_letter_without_room_waits_in_its_story() -> None:
    world = World()
    world.create("jobs.dead", max_messages=0, dead_letter=None, max_attempts=None, max_deliveries=None)
    world.enqueue(message(b"x"))
    world.dead_letter(*world.receive())
    assert told(story(world)) == ["enqueued", "rejected", "waiting"]


@lives
def test_second_life_of_a_dead_letter_is_told_with_the_first(life: str) -> None:
    world = World(retry_jitter=0)
    world.enqueue(*texts("other", "x"))
    world.ack(world.receive(1)[0])
    world.nack(*world.receive(), delay=0, reason="no luck")
    world.dead_letter(*world.receive(), reason="never")
    transfer(world, "jobs.dead")
    LIVES[life](world)
    assert told(story(world, 1)) == ["enqueued", "nacked", "rejected", "dead-lettered", "enqueued"]
    world.nack(*world.receive(), delay=0, reason="none again")
    world.ack(*world.receive())
    lines = story(world, 1)
    assert told(lines) == [
        *("enqueued", "nacked", "rejected", "dead-lettered"),
        *("enqueued", "nacked", "acked"),
    ]
    assert lines[0][2] == "jobs"
    assert lines[4][2] == "jobs, again, at offset 2, out of queue 'jobs.dead'"
    assert "none again" in lines[5][2]
    assert lines[-1][1] == "settled"


@lives
def test_dead_letter_that_dies_again_tells_both_deaths_there_and_here(life: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    for reason in ("first", "second"):
        world.dead_letter(*world.receive(), reason=reason)
        world.pass_(1)
        if reason == "first":
            transfer(world, "jobs.dead")
            world.pass_(1)
    LIVES[life](world)
    ends = [detail for _, what, detail in story(world) if what == "dead-lettered"]
    assert ends == ["to offset 0 of queue 'jobs.dead': first", "to offset 1 of queue 'jobs.dead': second"]
    there = story(world, 1, "jobs.dead")
    assert told(there) == ["rejected", "enqueued", "moved", "rejected", "enqueued"]
    assert there[2][2] == "to offset 1 of queue 'jobs'"
    assert there[-1][1] == "ready"


@lives
def test_copy_that_is_replayed_goes_on_with_the_story(life: str) -> None:
    world = World(keep_settled=60_000)
    world.enqueue(message(b"x"))
    world.ack(*world.receive())
    transfer(world, "jobs", None, "settled")
    LIVES[life](world)
    world.ack(*world.receive())
    lines = story(world)
    assert told(lines) == ["enqueued", "acked", "enqueued", "acked"]
    assert lines[2][2] == "jobs, again, at offset 1, replayed"


def test_first_life_that_the_journal_has_lost_is_said_to_be() -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.dead_letter(*world.receive(), reason="bad")
    transfer(world, "jobs.dead")
    world.create("busy")
    world.name = "busy"
    busy(world)
    world.name = "jobs"
    lines = story(world)
    assert told(lines) == ["forgotten", "rejected", "enqueued"]
    assert lines[2][2] == "jobs, again, at offset 1"


def test_rescheduling_is_told() -> None:
    world = World()
    world.enqueue(message(b"x", delay=SECOND_MS))
    world.document(q.Reschedule("jobs", world.queue.uuid, 0, world.wall + 5_000))
    lines = story(world)
    assert told(lines) == ["enqueued", "rescheduled"]
    assert lines[1][2] == "ready in 5.0 s"


def busy(world: World, entries: int = 400) -> None:
    """So much goes through the journal that its first files are recycled."""
    for _ in range(entries):
        world.publish(message(bytes(2_000)))
        world.ack(*world.receive())


def test_what_the_journal_has_lost_is_said_to_be() -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.ack(*world.receive())
    busy(world)
    lines = story(world)
    assert told(lines) == ["forgotten", "forgotten"]
    assert [detail for _, _, detail in lines[:2]] == [
        "what was before, its enqueueing too, is not kept any more",
        "when and how it was settled is not kept any more",
    ]


def test_bytes_in_a_segment_still_tell_when_it_was_enqueued() -> None:
    world = World()
    world.enqueue(message(b"x", delay=86_400_000))
    start = world.wall
    busy(world)
    assert world.queue.log.young_position is None or world.queue.log.at(0) is not None
    world.begin(ColdFiles(world.bench.files.kill().disk))
    assert story(world)[0] == (start, "enqueued", "jobs")


@pytest.mark.parametrize("piece", [4_096, 8_192, 1 << 20])
def test_journal_is_read_in_pieces_of_any_size(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookback, "PIECE_BYTES", piece)
    world = World()
    world.enqueue(*(message(bytes(9_000)) for _ in range(3)))
    world.ack(*world.receive())
    for offset in range(3):
        assert told(story(world, offset)) == ["enqueued", "acked"]


def test_no_more_of_the_journal_is_read_than_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.ack(*world.receive())
    busy(world, 10)
    assert len(world.bench.core.engine.journal.files) > 1
    assert told(story(world)) == ["enqueued", "acked"]
    monkeypatch.setattr(lookback, "LOOK_BACK_BYTES", 1)
    assert told(story(world)) == ["forgotten", "forgotten"]


def test_queue_that_is_deleted_meanwhile_has_no_stories() -> None:
    world = World()
    world.enqueue(message(b"x"))
    correlation = world.bench.ask(world.peer, q.Explain("jobs", world.queue.uuid, 0, True))
    world.bench.ask(world.peer, q.DeleteQueue("jobs"))
    world.bench.settle()
    reply: Any = world.bench.replies.pop((world.peer, correlation))
    assert isinstance(reply, NotFound)
