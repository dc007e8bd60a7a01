"""Messages that are settled before they leave the broker: delivered once or not at all, whatever dies."""

import pytest
from tests.model.traits import LIVES, RESTARTS, World, bodies, message, texts

from penstock_protocol.messages import queues as q

lives = pytest.mark.parametrize("life", LIVES)


@lives
def test_message_that_was_received_so_is_settled_and_has_no_lease(life: str) -> None:
    world = World()
    world.enqueue(*texts("a", "b"))
    found = world.receive(settle=True)
    assert [(each.body, each.stamps.token, each.stamps.lease) for each in found] == [
        (b"a", 0, 0),
        (b"b", 0, 0),
    ]
    LIVES[life](world)
    assert world.bodies() == []
    assert world.stats()["settled_total"] == 2


@lives
def test_message_that_was_pushed_so_is_settled(life: str) -> None:
    world = World()
    world.subscribe(settle=True)
    world.publish(*texts("a", "b", "c"))
    assert bodies(world.deliveries()) == [b"a", b"b", b"c"]
    LIVES[life](world)
    assert world.bodies() == []


@pytest.mark.parametrize("life", RESTARTS)
def test_message_does_not_leave_before_it_is_durably_settled(life: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    waiting = world.bench.ask(world.peer, q.Receive("jobs", 1, 0, None, True))
    world.bench.turn()
    assert (world.peer, waiting) not in world.bench.replies
    if life == "power cut, replayed from the journal":
        world.begin(world.bench.files.crash())
        assert world.bodies() == [b"x"], "nobody had it"
        return
    world.bench.settle()
    assert world.bench.replies[world.peer, waiting].slices == 1
    RESTARTS[life](world)
    assert world.bodies() == []


def test_message_is_lost_with_the_connection_and_never_comes_twice() -> None:
    world = World()
    other = world.bench.connect(b"o" * 16)
    world.enqueue(message(b"x"), message(b"y"))
    world.bench.ask(other, q.Receive("jobs", 1, 0, None, True))
    world.bench.turn()
    world.bench.core.disconnected(other, world.clock.now())
    world.bench.settle()
    world.pass_(60_000)
    assert world.drain() in ([b"y"], [b"x", b"y"]), "at most once"
    assert world.stats()["settled_total"] == 2


@lives
def test_group_goes_on_as_its_messages_are_settled_on_their_way(life: str) -> None:
    world = World()
    world.enqueue(*texts("1", "2", "3", group="a"))
    LIVES[life](world)
    world.subscribe(settle=True)
    assert bodies(world.deliveries()) == [b"1", b"2", b"3"]


def test_limit_in_flight_does_not_hold_up_what_is_settled_on_its_way() -> None:
    world = World(max_in_flight=1)
    world.subscribe(settle=True)
    world.publish(*texts(*"abcde"))
    assert bodies(world.deliveries()) == [b"a", b"b", b"c", b"d", b"e"]


def test_credit_is_used_up_all_the_same() -> None:
    world = World()
    world.subscribe(credit=2, settle=True)
    world.publish(*texts(*"abcde"))
    assert bodies(world.deliveries()) == [b"a", b"b"]
    world.bench.call(world.peer, q.Credit(1, 1))
    assert bodies(world.deliveries()) == [b"c"]


def test_both_kinds_of_consumers_share_a_queue() -> None:
    world = World()
    world.subscribe(1, credit=2, settle=True)
    world.subscribe(2, credit=2)
    world.publish(*texts(*"abcd"))
    found = world.deliveries()
    assert sorted(bodies(found)) == [b"a", b"b", b"c", b"d"]
    for number, each in found:
        assert bool(each.stamps.token) == (number == 2)


@lives
def test_message_that_failed_before_is_settled_so_too(life: str) -> None:
    world = World()
    world.enqueue(message(b"x"))
    world.nack(*world.receive(), delay=0, reason="once")
    world.pass_(1)
    LIVES[life](world)
    (found,) = world.receive(settle=True)
    assert (found.attempt, found.stamps.token) == (2, 0)
    assert found.history is not None
    LIVES[life](world)
    assert world.bodies() == []


def test_message_whose_socket_takes_nothing_is_not_settled_yet() -> None:
    world = World()
    other = world.bench.connect(b"o" * 16)
    world.subscribe(peer=other, settle=True)
    world.bench.core.blocked(other, True, world.clock.now())
    world.enqueue(message(b"x"))
    assert world.deliveries() == []
    world.bench.core.disconnected(other, world.clock.now())
    world.bench.settle()
    assert world.bodies() == [b"x"]
