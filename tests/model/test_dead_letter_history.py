"""What a dead letter tells of its life, on a whole node, whatever dies; none is lost or made twice."""

from typing import Any

import pytest
from tests.model.test_simulator_findings import ColdFiles
from tests.model.traits import LIVES, MINUTE_MS, World, message, texts

from penstock_broker.queues.notes import ATTEMPTS_MAX
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.entries import Kind
from penstock_broker.storage.files import Load
from penstock_protocol.errors import Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.slices import encode_ranges

lives = pytest.mark.parametrize("life", LIVES)
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


def history(world: World, name: str = "jobs.dead") -> dict[str, Any]:
    """Of the one dead letter there is."""
    (found,) = world.receive(name=name)
    assert found.history is not None
    return found.history


@lives
def test_dead_letter_keeps_its_place_its_times_and_every_try(life: str) -> None:
    world = World(max_attempts=3, retry_jitter=0, visibility_timeout=5_000)
    world.enqueue(message(b"other"), message(b"x", headers={"a": 1}, priority=3))
    start = world.wall
    world.ack(*[each for each in world.receive() if each.body == b"other"])
    LIVES[life](world)
    if life != "no restart":
        world.receive()
    began = world.wall
    world.pass_(5_000)
    ended = world.wall
    LIVES[life](world)
    world.pass_(1_000)
    (again,) = world.receive()
    assert again.attempt == 2
    assert again.history is not None
    assert [each[3] for each in again.history["attempts"]] == ["lease expired"]
    second = world.wall
    world.nack(again, reason="no luck", delay=0)
    LIVES[life](world)
    world.pass_(1)
    (third,) = world.receive()
    last = world.wall
    world.nack(third, reason="none again")
    LIVES[life](world)
    known = history(world)
    assert (known["queue"], known["offset"], known["first_at"]) == ("jobs", 1, start)
    assert (known["last_at"], known["reason"]) == (last, "max_attempts")
    assert known["attempts"] == [
        ["", began, ended, "lease expired", None],
        ["", second, second, "nacked", "no luck"],
        ["", last, last, "nacked", "none again"],
    ]


@lives
def test_dead_letter_keeps_id_headers_and_body(life: str) -> None:
    world = World()
    (offset,) = world.enqueue(message(b"body", headers={"a": 1}))
    (found,) = world.receive()
    world.dead_letter(found)
    LIVES[life](world)
    (dead,) = world.receive(name="jobs.dead")
    assert (dead.body, dead.id) == (b"body", (world.queue.uuid, offset))
    assert dead.stamps.attempt == 1


@lives
@pytest.mark.parametrize(
    ("reason", "expected"), [("unreadable", "unreadable"), (None, "rejected")], ids=["with a word", "without"]
)
def test_rejected_message_burns_no_tries(life: str, reason: str | None, expected: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.dead_letter(*world.receive(), reason=reason)
    LIVES[life](world)
    known = history(world)
    assert known["reason"] == expected
    assert [each[3:] for each in known["attempts"]] == [["rejected", reason]]


@lives
def test_message_that_is_delivered_too_often_dies_of_that(life: str) -> None:
    world = World(max_deliveries=2)
    world.enqueue(message(b"x"))
    for _ in range(2):
        world.release(*world.receive())
    LIVES[life](world)
    assert history(world)["reason"] == "max_deliveries"


@lives
@pytest.mark.parametrize("why", ["max_attempts", "rejected with a word", "max_deliveries"])
def test_reason_is_not_forgotten_while_a_dead_letter_waits_for_room(life: str, why: str) -> None:
    world = World(max_attempts=1, max_deliveries=1)
    world.create("jobs.dead", max_messages=0, **NO_LIMITS)
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    if why == "max_attempts":
        world.nack(found, reason="boom")
    elif why == "max_deliveries":
        world.release(found)
    else:
        world.dead_letter(found, reason=why)
    assert world.stats()["waiting"] == 1
    LIVES[life](world)
    world.pass_(3_000)
    assert world.stats()["waiting"] == 1
    world.call(q.AlterQueue("jobs.dead", {"max_messages": 1}))
    world.pass_(2_000)
    LIVES[life](world)
    assert history(world)["reason"] == why
    assert world.stats()["waiting"] == 0


@lives
def test_dead_letters_that_wait_enter_as_there_is_room_each_once(life: str) -> None:
    world = World(max_attempts=1)
    world.create("jobs.dead", max_messages=2, **NO_LIMITS)
    world.publish(*texts(*"abcde"))
    world.nack(*world.receive())
    out = []
    for _ in range(6):
        LIVES[life](world)
        world.pass_(2_000)
        found = world.receive(name="jobs.dead")
        out += [each.body for each in found]
        if found:
            world.ack(*found, name="jobs.dead")
    assert sorted(out) == [b"a", b"b", b"c", b"d", b"e"]
    assert world.stats()["waiting"] == 0


@lives
def test_redriven_message_tells_of_all_its_lives(life: str) -> None:
    world = World(max_attempts=1)
    (offset,) = world.enqueue(message(b"x"))
    for number in range(3):
        (found,) = world.receive()
        assert found.attempt == 1
        assert found.id[1] == offset
        world.nack(found, reason=f"life {number}")
        LIVES[life](world)
        if number < 2:
            moved = world.document(q.Transfer("jobs.dead", None, "ready", 10, 0, {}))
            assert moved["messages"] == 1
            LIVES[life](world)
    known = history(world)
    assert [each[4] for each in known["attempts"]] == ["life 0", "life 1", "life 2"]
    assert (known["queue"], known["offset"]) == ("jobs", offset)


def test_history_is_capped_and_keeps_the_last_tries() -> None:
    world = World(max_attempts=1_000, max_deliveries=None)
    world.enqueue(message(b"x"))
    for number in range(ATTEMPTS_MAX + 10):
        world.nack(*world.receive(), delay=0, reason=str(number))
        world.pass_(1)
    world.dead_letter(*world.receive(), reason="enough")
    tries = [each[4] for each in history(world)["attempts"]]
    assert len(tries) == ATTEMPTS_MAX
    assert tries[-2:] == [str(ATTEMPTS_MAX + 9), "enough"]


def test_many_small_messages_with_long_histories_die_none_the_less() -> None:
    world = World(max_attempts=6)
    assert world.publish(*texts(*(f"m{n}" for n in range(40)))).messages == 40
    for _ in range(6):
        world.nack(*world.receive(), delay=0, reason="x" * 1_000)
        world.pass_(1)
    assert world.stats()["waiting"] == 0
    assert world.stats("jobs.dead")["ready"] == 40


@lives
def test_consumer_is_named_in_the_history(life: str) -> None:
    world = World(max_attempts=1)
    world.enqueue(message(b"x"))
    named = world.bench.core.connected(object())
    world.bench.call(named, s.Hello(s.MAGIC, 1, 1, b"n" * 16, 0, "worker-7"))
    world.peer = named
    world.nack(*world.receive())
    LIVES[life](world)
    assert [each[0] for each in history(world)["attempts"]] == ["worker-7"]


def test_message_that_is_acked_leaves_no_notes() -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.nack(*world.receive(), delay=0, reason="r" * 1_000)
    world.pass_(1)
    notes = world.queue.indexes.notes
    assert notes.size == 1_000
    world.ack(*world.receive())
    assert (notes.size, bool(notes)) == (0, False)


@pytest.mark.parametrize("length", [1_025, 2_000])
def test_reason_beyond_a_kib_is_refused(length: int) -> None:
    world = World()
    world.enqueue(message(b"x"))
    (found,) = world.receive()
    payload = memoryview(encode_ranges([found.range]))
    error = world.ask(q.Nack("jobs", q.Outcome.DEAD_LETTER, None, "x" * length, payload))
    assert isinstance(error, Invalid)
    assert "1,024" in str(error)
    assert world.ack(found).messages == 1, "and the lease is as it was"


CYCLES = {
    "itself": [("a", "a")],
    "two": [("a", "b"), ("b", "a")],
    "three": [("a", "b"), ("b", "c"), ("c", "a")],
}


@pytest.mark.parametrize("cycle", CYCLES)
def test_dead_letters_that_would_go_round_are_refused_with_their_way(cycle: str) -> None:
    world = World()
    *first, (name, back) = CYCLES[cycle]
    for queue, dead in first:
        world.create(queue, dead_letter=dead)
    error = world.ask(q.CreateQueue(name, {"dead_letter": back}, "check"))
    assert isinstance(error, Invalid)
    if len(first):
        assert " → ".join([name, *[each for each, _ in first], name]) in str(error)
        world.create(name, **NO_LIMITS)
        altered = world.ask(q.AlterQueue(name, {"dead_letter": back}))
        assert isinstance(altered, Invalid)


def test_dead_letter_queue_that_is_gone_is_made_again() -> None:
    world = World(max_attempts=1)
    for _ in range(2):
        world.enqueue(message(b"x"))
        world.nack(*world.receive())
        assert world.peek(name="jobs.dead") == [b"x"]
        world.call(q.DeleteQueue("jobs.dead"))


def test_dead_letters_of_a_minute_are_in_order() -> None:
    world = World(max_attempts=1)
    for name in "abc":
        world.enqueue(message(name.encode()))
        world.pass_(MINUTE_MS // 3)
    for each in world.receive():
        world.nack(each)
    assert world.bodies(name="jobs.dead") == [b"a", b"b", b"c"]


# ---- One entry


def appended(world: World, monkeypatch: pytest.MonkeyPatch) -> list[list[Kind]]:
    """The kinds of the parts of every entry from now on."""
    found: list[list[Kind]] = []
    append = Engine.append

    def noticed(self: Any, parts: Any, *args: Any, **options: Any) -> int:
        found.append([Kind(part.kind) for part in parts])
        return append(self, parts, *args, **options)

    monkeypatch.setattr(Engine, "append", noticed)
    return found


@pytest.mark.parametrize("how", ["rejected", "nacked", "lease expired"])
def test_last_try_and_the_death_are_one_entry(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(max_attempts=1, visibility_timeout=1_000)
    world.create("jobs.dead")
    world.enqueue(message(b"x"))
    found = world.receive()
    entries = appended(world, monkeypatch)
    if how == "rejected":
        world.dead_letter(*found)
    elif how == "nacked":
        world.nack(*found)
    else:
        world.pass_(1_000)
    assert entries == [[Kind.APPEND, Kind.SETTLE]]
    assert [each[3] for each in history(world)["attempts"]] == [how]


def test_crash_before_the_bytes_of_a_dead_letter_were_read_leaves_no_try() -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.enqueue(message(b"y"))  # proves the block of the first, which is left where it is, cold
    world.begin(ColdFiles(world.bench.files.kill().disk))
    (found,) = world.receive(1)
    request = q.Nack("jobs", q.Outcome.DEAD_LETTER, None, "bad", memoryview(encode_ranges([found.range])))
    world.bench.ask(world.peer, request)
    world.bench.turn()
    assert any(isinstance(job, Load) for job in world.bench.jobs)
    world.bench.jobs = [job for job in world.bench.jobs if not isinstance(job, Load)]
    world.bench.settle()
    world.begin(world.bench.files.kill())
    again = world.receive(1)
    assert [(each.body, each.attempt, each.history) for each in again] == [(b"x", 1, None)]


def test_try_of_a_dead_letter_that_waits_for_room_is_kept() -> None:
    world = World(max_attempts=1)
    world.create("jobs.dead", max_messages=1, max_attempts=None, max_deliveries=None, dead_letter=None)
    world.enqueue(message(b"in the way"), to="jobs.dead")
    world.enqueue(message(b"x"))
    world.nack(*world.receive(), reason="no luck")
    world.begin(world.bench.files.crash())
    world.ack(*world.receive(name="jobs.dead"), name="jobs.dead")
    world.pass_(1_000)
    assert [each[3:] for each in history(world)["attempts"]] == [["nacked", "no luck"]]
