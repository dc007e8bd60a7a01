"""The wire in memory carries what was sent, in any pieces."""

from random import Random

import pytest
from tests.fakes.clock import WALL_AT_START, ManualClock
from tests.fakes.wire import Wire

from penstock_protocol.errors import NotFound
from penstock_protocol.messages.queues import Deliver, Enqueue, Receive
from penstock_protocol.verbs import BY_REQUEST


@pytest.mark.parametrize("seed", range(20))
def test_requests_and_replies_arrive_in_order_whatever_the_pieces(seed: int) -> None:
    wire, random = Wire(), Random(seed)
    assert wire.shake_hands(producer_id=9).producer_id == 9
    for correlation in range(1, 20):
        wire.client.request(Enqueue("jobs", b"x" * random.randrange(100)), correlation)
    asked = wire.server.receive_in_pieces(random)
    assert [received.correlation for received in asked] == list(range(1, 20))
    for received in reversed(asked):
        wire.server.reply(received.verb, received.correlation, NotFound("no queue of that name"))
    wire.server.request(Deliver(1, 0, b""))
    *answers, push = wire.client.receive_in_pieces(random)
    assert [answer.correlation for answer in answers] == list(range(19, 0, -1))
    assert all(isinstance(answer.message, NotFound) and answer.is_reply for answer in answers)
    assert push.message == Deliver(1, 0, b"")


def test_cut_wire_loses_what_was_on_its_way() -> None:
    wire = Wire()
    wire.shake_hands()
    wire.client.request(Receive("jobs", 1, 0), 1)
    assert wire.server.receive(3) == []
    wire.cut()
    assert wire.server.receive() == []
    assert wire.server.link.partial
    assert BY_REQUEST[Receive].code == 17


def test_clock_stands_still_until_it_is_turned() -> None:
    clock = ManualClock()
    assert clock.now() == clock.now() == (0, WALL_AT_START)
    assert clock.advance(250) == (250, WALL_AT_START + 250)
    assert clock.jump_wall(-1_000) == (250, WALL_AT_START - 750)
    with pytest.raises(AssertionError, match="run backwards"):
        clock.advance(-1)
