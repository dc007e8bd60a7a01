"""How many message groups may be parked, and what becomes of messages that would park one more."""

import pytest
from tests.model.traits import LIVES, World, message

from penstock_broker.queues import message_groups
from penstock_protocol.messages import queues as q

lives = pytest.mark.parametrize("life", LIVES)
MOST = 3


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_groups, "PARKED_MAX", MOST)


def resume(world: World, name: str) -> bool:
    resumed: bool = world.document(q.Resume("jobs", name))["resumed"]
    return resumed


def full(*, groups: int) -> World:
    """A queue where one message each of so many groups has died, in one batch."""
    world = World(max_attempts=1, group_failure="park")
    world.publish(*(message(b"%d" % i, group=f"g{i}") for i in range(groups)))
    world.nack(*world.receive())
    return world


@lives
def test_message_that_would_park_one_group_too_many_waits_until_one_is_resumed(life: str) -> None:
    world = full(groups=MOST + 2)
    LIVES[life](world)
    world.pass_(5_000)
    assert len(world.queue.indexes.groups.parked) == MOST
    assert world.stats()["waiting"] == 2
    assert world.stats("jobs.dead")["ready"] == MOST
    reasons = "; ".join(world.document(q.Explain("jobs", world.queue.uuid, MOST))["reasons"])
    assert "3 message groups are parked: penstock queue resume jobs --message-group" in reasons
    assert resume(world, "g1")
    world.pass_(1_000)
    assert world.bodies(name="jobs.dead") == [b"0", b"1", b"2", b"3"]
    assert world.queue.indexes.groups.parked == {"g0", "g2", "g3"}
    assert world.stats()["waiting"] == 1


@lives
def test_others_go_on_and_so_do_messages_of_groups_that_are_parked_already(life: str) -> None:
    world = full(groups=MOST)
    world.enqueue(message(b"late", group="late"), message(b"free", group="free"), message(b"plain"))
    LIVES[life](world)
    late, free, plain = world.receive()
    world.dead_letter(late, plain)
    assert world.stats()["waiting"] == 1
    assert world.bodies(name="jobs.dead")[-1] == b"plain"
    world.ack(free)
    world.enqueue(message(b"free again", group="free"))
    assert world.bodies() == [b"free again"]


def test_what_waits_is_not_written_again_and_again() -> None:
    world = full(groups=MOST + 1)
    world.pass_(1_000)
    before = world.bench.core.engine.journal.entries_total
    world.pass_(10_000)
    assert world.bench.core.engine.journal.entries_total == before
