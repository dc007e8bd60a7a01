"""Redrive, move, replay and find: everything is in one place or the other, never in both, whatever dies."""

from random import Random
from typing import Any

import pytest
from tests.model.bench import Bench
from tests.model.traits import (
    DAY_MS,
    LIVES,
    RESTARTS,
    SECOND_MS,
    Seen,
    World,
    batch_of,
    exceptions,
    message,
    seen,
    texts,
)

from penstock_protocol.errors import Error, Invalid, NotFound, QueueFull
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import REPLAYED

lives = pytest.mark.parametrize("life", LIVES)
NO_LIMITS = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}


def transfer(
    world: World,
    source: str,
    to: str | None = None,
    state: str = "ready",
    *,
    step: int = 100,
    limit: int = 1_000,
    dry: bool = False,
    **where: Any,
) -> int:
    """Every step, as a client does it; how many messages went."""
    moved, cursor = 0, 0
    while cursor is not None and moved < limit:
        request = q.Transfer(source, to, state, min(step, limit - moved), cursor, where, dry)
        document = world.document(request)
        moved += document["messages"]
        assert document["next"] is None or document["next"] > cursor
        cursor = document["next"]
    return moved


def find(world: World, name: str = "jobs", *, step: int = 50, **where: Any) -> list[tuple[str, Seen]]:
    """Everything that is found, with its state."""
    out: list[tuple[str, Seen]] = []
    cursor: int | None = 0
    while cursor is not None:
        found = world.call(q.Find(name, step, cursor, where))
        out += zip(found.states, seen(found), strict=True)
        cursor = found.next
    return out


def bury(world: World, *names: str, reason: str = "bad") -> None:
    world.publish(*texts(*names))
    world.dead_letter(*world.receive(), reason=reason)


# ---- Redrive


@lives
@pytest.mark.parametrize("step", [1, 3, 100])
def test_dead_letters_go_back_to_where_they_died_with_a_fresh_count(life: str, step: int) -> None:
    world = World(max_attempts=2)
    world.publish(*texts(*"abcde"))
    for _ in range(2):
        world.nack(*world.receive(), delay=0)
        world.pass_(1)
    LIVES[life](world)
    assert transfer(world, "jobs.dead", step=step) == 5
    LIVES[life](world)
    found = world.receive()
    assert [each.body for each in found] == [b"a", b"b", b"c", b"d", b"e"]
    assert {each.attempt for each in found} == {1}
    assert [each.id for each in found] == [(world.queue.uuid, n) for n in range(5)]
    assert world.stats("jobs.dead")["ready"] == 0


@lives
def test_dead_letters_of_one_reason_go_and_the_others_stay(life: str) -> None:
    world = World()
    bury(world, "a", "b", reason="typo")
    bury(world, "c", reason="timeout")
    LIVES[life](world)
    assert transfer(world, "jobs.dead", reason="typo", dry=True) == 2
    assert transfer(world, "jobs.dead", reason="typo") == 2
    assert world.drain() == [b"a", b"b"]
    assert world.peek(name="jobs.dead") == [b"c"]


@lives
def test_dead_letters_go_elsewhere_if_somebody_says_so(life: str) -> None:
    world = World()
    world.create("elsewhere")
    bury(world, "a", "b")
    LIVES[life](world)
    assert transfer(world, "jobs.dead", "elsewhere", limit=1) == 1
    assert world.bodies(name="elsewhere") == [b"a"]
    assert world.peek(name="jobs.dead") == [b"b"]


def test_dead_letters_of_several_queues_each_go_home() -> None:
    world = World(dead_letter="graves")
    world.create("others", dead_letter="graves")
    bury(world, "a", "b")
    world.enqueue(message(b"x"), to="others")
    world.name = "others"
    world.dead_letter(*world.receive())
    world.name = "jobs"
    bury(world, "c")
    assert transfer(world, "graves") == 4
    assert world.bodies() == [b"a", b"b", b"c"]
    assert world.bodies(name="others") == [b"x"]


def test_plan_moves_nothing() -> None:
    world = World()
    bury(world, "a", "b")
    assert transfer(world, "jobs.dead", dry=True) == 2
    assert world.bodies() == []


def test_full_origin_refuses_and_nothing_is_lost() -> None:
    world = World(max_messages=2)
    bury(world, "a", "b")
    world.enqueue(*texts("x", "y"))
    error = world.ask(q.Transfer("jobs.dead", None, "ready", 10, 0, {}))
    assert isinstance(error, QueueFull)
    assert "holds 2 of 2 messages" in str(error)
    assert world.peek(name="jobs.dead") == [b"a", b"b"]


def test_origin_that_is_gone_is_named() -> None:
    world = World()
    bury(world, "a")
    world.call(q.DeleteQueue("jobs"))
    error = world.ask(q.Transfer("jobs.dead", None, "ready", 10, 0, {}))
    assert isinstance(error, NotFound)
    assert "'jobs'" in str(error)
    assert world.peek(name="jobs.dead") == [b"a"]


def test_message_that_did_not_die_has_nowhere_to_go_back_to() -> None:
    world = World()
    world.enqueue(message(b"a"))
    error = world.ask(q.Transfer("jobs", None, "ready", 10, 0, {}))
    assert isinstance(error, Invalid)
    assert "no dead letter" in str(error)


@pytest.mark.parametrize("to", [None, "jobs"])
def test_messages_are_not_moved_to_the_queue_they_are_in(to: str | None) -> None:
    world = World()
    bury(world, "a")
    transfer(world, "jobs.dead")
    error = world.ask(q.Transfer("jobs", to, "ready", 10, 0, {}))
    assert isinstance(error, Invalid)
    assert "the queue they are in" in str(error)


@pytest.mark.parametrize("seed", range(12))
def test_power_cut_in_a_redrive_leaves_each_in_one_place(seed: int) -> None:
    world = World()
    bury(world, *"abcdef")
    world.bench.ask(world.peer, q.Transfer("jobs.dead", None, "ready", 4, 0, {}))
    world.bench.turn()
    if seed % 2:
        world.bench.run_jobs()
    world.begin(world.bench.files.crash(Random(seed)))
    left = world.peek(name="jobs.dead")
    assert sorted(world.drain() + left) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert len(left) in (2, 6)


# ---- Move


@lives
def test_ready_messages_move_in_order_with_priority_group_and_headers(life: str) -> None:
    world = World()
    world.create("other")
    world.enqueue(message(b"a", headers={"h": 1}), message(b"b", priority=5), message(b"c", group="g"))
    world.enqueue(message(b"d", group="g"))
    LIVES[life](world)
    assert transfer(world, "jobs", "other", step=2) == 4
    LIVES[life](world)
    assert world.bodies(name="other") == [b"b", b"a", b"c"]
    assert world.stats()["ready"] == 0


@lives
def test_delayed_messages_keep_their_time(life: str) -> None:
    world = World()
    world.create("other")
    world.publish(message(b"a", delay=5_000), message(b"now"), message(b"b", delay=9_000))
    world.enqueue(message(b"c", delay=1_000))
    world.document(q.Reschedule("jobs", world.queue.uuid, 3, world.wall + 7_000))
    LIVES[life](world)
    assert transfer(world, "jobs", "other", "delayed") == 3
    LIVES[life](world)
    assert world.bodies(name="other") == []
    for ms, body in ((5_000, b"a"), (2_000, b"c"), (2_000, b"b")):
        world.pass_(ms - 1)
        assert world.bodies(name="other") == []
        world.pass_(1)
        assert world.bodies(name="other") == [body]
    assert world.bodies() == [b"now"]


def test_messages_in_flight_stay() -> None:
    world = World()
    world.create("other")
    world.enqueue(*texts("a", "b", "c"))
    (first,) = world.receive(1)
    assert transfer(world, "jobs", "other") == 2
    assert world.ack(first).messages == 1


def test_group_goes_on_when_its_head_is_moved() -> None:
    world = World()
    world.create("other")
    world.enqueue(*texts("a1", "a2", group="a"))
    assert transfer(world, "jobs", "other", limit=1) == 1
    assert world.bodies() == [b"a2"]


def test_consumer_that_waits_there_gets_what_is_moved() -> None:
    world = World(name="other")
    world.subscribe()
    world.create("source")
    world.enqueue(message(b"a"), to="source")
    transfer(world, "source", "other")
    assert [each.body for _, each in world.deliveries()] == [b"a"]


def test_dead_letters_that_wait_can_be_moved_out_of_the_way() -> None:
    world = World(max_attempts=1)
    world.create("jobs.dead", max_messages=0, **NO_LIMITS)
    world.create("other")
    world.enqueue(message(b"x"))
    world.nack(*world.receive())
    assert transfer(world, "jobs", "other", "waiting") == 1
    assert world.bodies(name="other") == [b"x"]
    assert world.stats()["waiting"] == 0


# ---- Replay


@lives
def test_settled_messages_come_again_with_their_ids_and_say_so(life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.publish(*texts("a", "b", "c"))
    world.ack(*world.receive())
    LIVES[life](world)
    assert transfer(world, "jobs", None, "settled", step=2, until=world.wall + 1) == 3
    LIVES[life](world)
    found = world.receive()
    assert [each.body for each in found] == [b"a", b"b", b"c"]
    assert all(each.stamps.flags & REPLAYED for each in found)
    assert [each.id for each in found] == [(world.queue.uuid, n) for n in range(3)]
    assert {each.attempt for each in found} == {1}


@lives
def test_replayed_message_that_comes_back_still_says_so(life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.enqueue(message(b"a"))
    world.ack(*world.receive())
    transfer(world, "jobs", None, "settled")
    world.nack(*world.receive(), delay=0)
    LIVES[life](world)
    world.pass_(1)
    (found,) = world.receive()
    assert found.stamps.flags & REPLAYED
    assert found.attempt == 2


@lives
def test_replay_goes_by_the_time_of_the_enqueue_and_into_another_queue(life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.create("other")
    times = []
    for name in "abcd":
        times.append(world.wall)
        world.enqueue(message(name.encode()))
        world.pass_(SECOND_MS)
    world.ack(*world.receive())
    LIVES[life](world)
    assert transfer(world, "jobs", "other", "settled", since=times[1], until=times[3]) == 2
    assert world.bodies(name="other") == [b"b", b"c"]
    assert world.bodies() == []


def test_only_what_is_settled_is_replayed() -> None:
    world = World(keep_settled=DAY_MS)
    world.enqueue(*texts("a", "b", "c", "d"))
    found = world.receive(3)
    world.ack(found[1])
    assert transfer(world, "jobs", None, "settled") == 1
    assert [each.body for each in world.receive()] == [b"d", b"b"]


@lives
def test_messages_that_were_never_taken_are_neither_replayed_nor_found(life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.enqueue(message(b"a", job="k", dedup="x"))
    confirm = world.publish(message(b"b", job="k"), message(b"c"), message(b"d", dedup="x"))
    assert [each.number for each in exceptions(confirm)] == [0, 2]
    assert world.drain() == [b"a", b"c"]
    LIVES[life](world)
    assert [each.body for _, each in find(world)] == [b"a", b"c"]
    assert transfer(world, "jobs", None, "settled", until=world.wall + 1) == 2
    assert world.drain() == [b"a", b"c"]


def test_what_was_not_taken_is_forgotten_with_the_messages_around_it() -> None:
    world = World(keep_settled=10_000)
    world.enqueue(message(b"a", dedup="x"))
    for _ in range(20):
        world.publish(message(b"b", dedup="x"))
    world.drain()
    assert len(world.queue.kept.unseen) == 20
    for _ in range(10):
        world.pass_(10_000)
    assert not world.queue.kept.unseen


# ---- Find


@lives
def test_message_is_found_in_every_state_and_says_which(life: str) -> None:
    world = World(keep_settled=DAY_MS)
    world.enqueue(message(b"settled"), message(b"delayed", delay=DAY_MS), message(b"ready"))
    world.enqueue(*texts("head", "held", group="g"))
    world.ack(world.receive(1)[0])
    LIVES[life](world)
    (out,) = (each for each in world.receive() if each.body == b"head")
    states = {each.body: state for state, each in find(world, step=2)}
    assert states == {
        b"settled": "settled",
        b"delayed": "delayed",
        b"ready": "in_flight",
        b"head": "in_flight",
        b"held": "held",
    }
    world.release(out)
    assert {each.body: state for state, each in find(world)}[b"head"] == "ready"


@lives
def test_message_is_found_by_header_by_id_and_by_time(life: str) -> None:
    world = World()
    ids = []
    for number in range(5):
        ids += world.enqueue(message(b"%d" % number, headers={"user": number % 2, "n": number}))
        world.pass_(SECOND_MS)
    LIVES[life](world)
    assert [each.body for _, each in find(world, header="user", value=1)] == [b"1", b"3"]
    assert len(find(world, header="user")) == 5
    assert find(world, header="nothing") == []
    assert [each.body for _, each in find(world, id_log=world.queue.uuid, id_offset=3)] == [b"3"]
    since = world.wall - 2 * SECOND_MS
    assert [each.body for _, each in find(world, since=since)] == [b"3", b"4"]
    assert [each.body for _, each in find(world, until=since)] == [b"0", b"1", b"2"]


def test_finding_takes_nothing_and_counts_nothing() -> None:
    world = World()
    world.enqueue(message(b"a"))
    ((_, found),) = find(world)
    assert (found.stamps.token, found.stamps.delivery) == (0, 0)
    assert [each.stamps.delivery for each in world.receive()] == [1]


def test_long_queue_is_read_in_steps_of_a_megabyte() -> None:
    world = World()
    for _ in range(40):
        world.publish(*(message(b"x" * 900) for _ in range(60)))
    world.enqueue(message(b"needle", headers={"n": 1}))
    steps, cursor, out = 0, 0, []
    while cursor is not None:
        found = world.call(q.Find("jobs", 50, cursor, {"header": "n"}))
        out += seen(found)
        steps, cursor = steps + 1, found.next
    assert [each.body for each in out] == [b"needle"]
    assert steps > 2


@pytest.mark.parametrize("life", RESTARTS)
def test_steps_go_on_behind_a_restart(life: str) -> None:
    world = World()
    world.create("other")
    world.publish(*texts(*"abcdefgh"))
    document = world.document(q.Transfer("jobs", "other", "ready", 3, 0, {}))
    RESTARTS[life](world)
    world.document(q.Transfer("jobs", "other", "ready", 3, document["next"], {}))
    RESTARTS[life](world)
    assert world.peek(name="other") == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert world.peek() == [b"g", b"h"]


# ---- Bad input


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        pytest.param(q.Transfer("jobs", "other", "ready", 0, 0, {}), ("limit=0", "1 to"), id="none"),
        pytest.param(q.Transfer("jobs", "other", "ready", 10_001, 0, {}), ("limit=10001",), id="too many"),
        pytest.param(
            q.Transfer("jobs", "other", "lost", 1, 0, {}), ("state='lost'", "delayed"), id="no state"
        ),
        pytest.param(q.Transfer("jobs", "other", "in_flight", 1, 0, {}), ("in_flight",), id="in flight"),
        pytest.param(q.Transfer("jobs", "other", "ready", 1, -1, {}), ("cursor=-1",), id="cursor before all"),
        pytest.param(q.Transfer("jobs", "other", "ready", 1, 1 << 50, {}), ("cursor=",), id="cursor beyond"),
        pytest.param(q.Find("jobs", 51, 0, {}), ("limit=51", "1 to 50"), id="more than one look"),
        pytest.param(q.Find("jobs", 1, 0, {"color": 1}), ("color=1", "known:"), id="no condition"),
        pytest.param(q.Find("jobs", 1, 0, {"since": "now"}), ("since='now'",), id="no time"),
        pytest.param(q.Find("jobs", 1, 0, {"reason": 1}), ("reason=1",), id="no reason"),
        pytest.param(q.Find("jobs", 1, 0, {"id_log": "x"}), ("id_log='x'",), id="no id"),
    ],
)
def test_request_that_cannot_be_is_refused_and_says_what_can(request_: Any, words: tuple[str, ...]) -> None:
    world = World()
    world.create("other")
    world.enqueue(message(b"x"))
    error = world.ask(request_)
    assert isinstance(error, Invalid), error
    assert all(word in str(error) for word in words), error


@pytest.mark.parametrize("name", ["jobs", "nowhere"])
def test_queue_that_is_not_there_is_named(name: str) -> None:
    world = World()
    for request in (q.Transfer(name, "nowhere", "ready", 1, 0, {}), q.Find("nowhere", 1, 0, {})):
        error = world.ask(request)
        assert isinstance(error, NotFound)
        assert "'nowhere'" in str(error)


def test_transfer_of_a_node_without_memory_of_bytes_loads_them_first() -> None:
    world = World()
    world.create("other")
    world.publish(*texts(*"abc"))
    world.checkpoint()
    files = world.bench.files
    world.begin(type(files)(files.kill().disk, random=Random(3)))
    assert isinstance(world.bench, Bench)
    assert transfer(world, "jobs", "other", step=1) == 3
    reply = world.ask(q.Enqueue("jobs", batch_of(message(b"d"))))
    assert not isinstance(reply, Error)
