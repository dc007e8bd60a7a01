"""A disk that does not answer for a while: confirms wait, memory stays in its bound, nothing is said that is
not so, and all goes on when it answers."""

from typing import Any

import pytest
from tests.model.bench import Bench, batch, got

from penstock_broker.settings import CoreSettings
from penstock_broker.storage.journal import BLOCK_BYTES_MAX, GATHERED_BYTES_MAX
from penstock_protocol.errors import Busy
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import encode_ranges

MIB = 1 << 20
MINUTE_MS = 60_000
LEASE_MS = 12 * 60 * MINUTE_MS
ROOMY = CoreSettings(
    journal_budget_bytes=256 * MIB,
    journal_file_bytes_min=64 * MIB,
    journal_file_bytes_max=64 * MIB,
    credit_bytes=256 * MIB,
    publish_pool_bytes=256 * MIB,
)
BODY = b"x" * (MIB // 2)


class Stalled(Bench):
    """A node whose disk stands still, beside it what was published and how each of it ended."""

    def __init__(self, settings: CoreSettings = ROOMY) -> None:
        super().__init__(settings=settings)
        self.peer = self.connect()
        self.call(self.peer, q.CreateQueue("jobs", {"max_bytes": None}, "check"))
        self.call(self.peer, t.CreateTopic("log", {}, "check"))
        self.enqueue(self.peer, "jobs", b"before")
        (self.held,) = self.receive_for(LEASE_MS)
        self.asked: list[int] = []

    def receive_for(self, visibility: int) -> Any:
        return got(self.call(self.peer, q.Receive("jobs", 1, 0, visibility)))

    def publish(self, times: int) -> None:
        for _ in range(times):
            number = len(self.asked)
            self.asked.append(self.ask(self.peer, q.Enqueue("jobs", batch(b"%d" % number + BODY))))
            self.turn()

    def outcome(self, correlation: int) -> Any:
        """The reply; None while there is none."""
        return self.replies.get((self.peer, correlation))

    def outcomes(self) -> list[Any]:
        """Of every publish."""
        return [self.outcome(correlation) for correlation in self.asked]

    def bodies(self) -> list[int]:
        """Numbers of the messages that are there."""
        found: list[int] = []
        while some := self.receive(self.peer, "jobs"):
            found += [int(body.rstrip(b"x")) for each in some for body in each.bodies]
        return found


@pytest.fixture
def node() -> Stalled:
    return Stalled()


@pytest.mark.covers("enqueue", "ack", "produce", "stalled disk")
def test_nothing_is_confirmed_and_nothing_refused_while_the_disk_stands_still(node: Stalled) -> None:
    node.publish(3)
    produced = node.ask(node.peer, t.Produce("log", 0, None, batch(b"record")))
    for _ in range(10):
        node.clock.advance(MINUTE_MS)
        node.turn()
    assert node.outcomes() == [None] * 3
    assert node.outcome(produced) is None


def test_publishes_beyond_the_block_buffers_are_busy_and_memory_stays_in_its_bound(node: Stalled) -> None:
    node.publish(100)
    busy = [outcome for outcome in node.outcomes() if isinstance(outcome, Busy)]
    assert busy
    assert node.outcomes() == [None] * (100 - len(busy)) + busy
    assert node.core.engine.journal.gathered <= GATHERED_BYTES_MAX + 2 * BLOCK_BYTES_MAX


def test_settles_are_taken_while_publishes_are_busy(node: Stalled) -> None:
    node.publish(100)
    acked = node.ask(node.peer, q.Ack("jobs", memoryview(encode_ranges([node.held.range]))))
    node.turn()
    assert node.outcome(acked) is None
    node.settle()
    assert node.outcome(acked) == q.Settled(1, b"")


def test_what_was_busy_never_appears_and_all_else_is_confirmed_when_the_disk_answers(node: Stalled) -> None:
    node.publish(100)
    node.clock.advance(MINUTE_MS)
    node.settle()
    confirmed = [n for n, outcome in enumerate(node.outcomes()) if isinstance(outcome, q.Confirm)]
    refused = [n for n, outcome in enumerate(node.outcomes()) if isinstance(outcome, Busy)]
    assert sorted(confirmed + refused) == list(range(100))
    node.publish(1)
    node.settle()
    assert isinstance(node.outcomes()[-1], q.Confirm)
    assert node.bodies() == [*confirmed, 100]


@pytest.mark.covers("enqueue", "produce", "stalled disk", "power cut")
def test_power_cut_in_a_stall_takes_nothing_that_was_confirmed(node: Stalled) -> None:
    node.publish(1)
    node.settle()
    node.publish(5)
    life = Bench(node.files.crash(), node.clock, ROOMY)
    found = life.receive(life.connect(), "jobs")
    assert [body[:1] for each in found for body in each.bodies] == [b"b", b"0"]
