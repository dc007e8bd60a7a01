"""Queues that end by themselves: with their session, or when nobody uses them."""

from random import Random

import pytest
from tests.model.bench import Bench

from penstock_protocol.errors import Conflict, Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s

GRACE = 10_000


def exists(bench: Bench, name: str) -> bool:
    return name in bench.core.registry.queues


def pass_time(bench: Bench, ms: int) -> None:
    for _ in range(0, ms, 1_000):
        bench.clock.advance(1_000)
        bench.settle()


def test_exclusive_queue_ends_with_a_goodbye() -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("mine", {"exclusive": True}, "check"))
    bench.call(me, s.Goodbye())
    assert not exists(bench, "mine")


def test_exclusive_queue_ends_a_grace_after_its_socket() -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("mine", {"exclusive": True}, "check"))
    bench.core.disconnected(me, bench.clock.now())
    pass_time(bench, GRACE - 2_000)
    assert exists(bench, "mine")
    pass_time(bench, 3_000)
    assert not exists(bench, "mine")


def test_exclusive_queue_stays_for_a_session_that_comes_back() -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("mine", {"exclusive": True}, "check"))
    bench.core.disconnected(me, bench.clock.now())
    bench.connect()
    pass_time(bench, 3 * GRACE)
    assert exists(bench, "mine")


def test_another_session_cannot_take_from_an_exclusive_queue() -> None:
    bench = Bench()
    me, other = bench.connect(), bench.connect(b"o" * 16)
    bench.call(me, q.CreateQueue("mine", {"exclusive": True}, "check"))
    bench.enqueue(other, "mine", b"an answer")
    assert isinstance(bench.call(other, q.Receive("mine", 1, 0)), Conflict)
    refused = bench.call(other, q.Consume("mine", 1, 10, None, 0, False, memoryview(b"")))
    assert isinstance(refused, Conflict)
    assert bench.receive(me, "mine")[0].bodies == [b"an answer"]


@pytest.mark.parametrize("claimed", [True, False])
def test_exclusive_queue_after_a_restart_is_whose_session_comes_back(claimed: bool) -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("mine", {"exclusive": True}, "check"))
    again = Bench(bench.files.crash(Random(1)), bench.clock)
    if claimed:
        again.call(again.connect(), q.Consume("mine", 1, 10, None, 0, False, memoryview(b"")))
    pass_time(again, GRACE + 2_000)
    assert exists(again, "mine") is claimed


def test_unused_queue_expires_and_a_used_one_does_not() -> None:
    bench = Bench()
    me = bench.connect()
    for name in ("published", "received", "consumed", "unused"):
        bench.call(me, q.CreateQueue(name, {"expires": 5_000}, "check"))
    bench.call(me, q.Consume("consumed", 1, 10, None, 0, False, memoryview(b"")))
    for _ in range(4):
        pass_time(bench, 3_000)
        bench.enqueue(me, "published", b"x")
        bench.receive(me, "received")
    assert [exists(bench, name) for name in ("published", "received", "consumed", "unused")] == [
        *(True, True, True, False)
    ]


def test_queue_cannot_become_exclusive() -> None:
    bench = Bench()
    me = bench.connect()
    bench.call(me, q.CreateQueue("shared", {}, "check"))
    assert isinstance(bench.call(me, q.AlterQueue("shared", {"exclusive": True})), Invalid)
