"""Settled messages whose bytes are kept for a while, on a whole node."""

from typing import Any

from tests.model.bench import Bench, batch

from penstock_broker.queues.queue import Queue
from penstock_protocol.messages import queues as q

BODY = b"x" * 900
MINUTE_MS = 60_000
ARCHIVED_AFTER_MS = 61_000


def began(**settings: Any) -> tuple[Bench, Any, Queue]:
    bench = Bench()
    peer = bench.connect()
    bench.call(peer, q.CreateQueue("jobs", {"keep_settled": 10 * MINUTE_MS, **settings}, "check"))
    return bench, peer, bench.queue("jobs")


def enqueue(bench: Bench, peer: Any, messages: int) -> None:
    for _ in range(messages):
        bench.call(peer, q.Enqueue("jobs", batch(BODY)))


def settle(bench: Bench, peer: Any, messages: int, *, but: int = -1) -> None:
    for item in bench.receive(peer, "jobs", messages):
        if item.stamps.first != but:
            bench.ack(peer, "jobs", item.range)


def passes(bench: Bench, ms: int) -> None:
    """Time in steps in which the archiver and its pauses have their turn."""
    for _ in range(ms // 30_000):
        bench.clock.advance(30_000)
        bench.settle()


def kept(bench: Bench, queue: Queue) -> int:
    """How many messages can still be read."""
    return sum(cut.messages for cut in bench.core.engine.reads.cuts(queue.log, 0, queue.log.end, {}))


def test_settled_messages_are_kept_for_their_time_then_given_up() -> None:
    bench, peer, queue = began()
    enqueue(bench, peer, 20)
    settle(bench, peer, 20)
    assert (queue.messages, kept(bench, queue)) == (0, 20)
    passes(bench, 9 * MINUTE_MS)
    assert kept(bench, queue) == 20
    passes(bench, 2 * MINUTE_MS)
    assert kept(bench, queue) == 0
    assert queue.log.size_bytes == 0


def test_settled_messages_are_kept_through_a_restart() -> None:
    bench, peer, queue = began()
    enqueue(bench, peer, 20)
    settle(bench, peer, 20)
    passes(bench, 5 * MINUTE_MS)
    bench.core.engine.checkpoint_now()
    bench.settle()
    again = Bench(bench.files.kill(), bench.clock)
    queue = again.queue("jobs")
    assert (queue.messages, kept(again, queue)) == (0, 20)
    passes(again, 6 * MINUTE_MS)
    assert kept(again, queue) == 0


def test_message_that_is_stuck_pins_nothing_that_was_settled_behind_it() -> None:
    bench, peer, queue = began(visibility_timeout=12 * 3_600_000)
    enqueue(bench, peer, 60)
    settle(bench, peer, 60, but=0)
    passes(bench, 5 * MINUTE_MS)
    assert kept(bench, queue) == 60
    passes(bench, 10 * MINUTE_MS)
    enqueue(bench, peer, 60)
    passes(bench, 5 * MINUTE_MS)
    assert queue.log.start == 0
    assert 1 <= kept(bench, queue) - 60 < 10


def test_queue_that_stops_keeping_gives_all_of_it_up() -> None:
    bench, peer, queue = began()
    enqueue(bench, peer, 5)
    settle(bench, peer, 5)
    bench.call(peer, q.AlterQueue("jobs", {"keep_settled": None}))
    passes(bench, MINUTE_MS)
    assert kept(bench, queue) == 0


def test_queue_that_keeps_nothing_frees_at_once() -> None:
    bench, peer, queue = began(keep_settled=None)
    enqueue(bench, peer, 5)
    settle(bench, peer, 5)
    assert kept(bench, queue) == 0
