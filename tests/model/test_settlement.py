"""Settlement against a naive model: one dict of messages, one small object each, no runs and no pages.

Every step goes to the broker and to the model; what a RECEIVE delivers, what a settle answers and all
counts must be the same, through lease expiry, retries, dead letters without room, purges and restarts.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.fakes.clock import ManualClock
from tests.model.bench import Bench, got

from penstock_broker.deliveries import PARKED_RETRY_MS
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import REDELIVERED, Range, decode_ranges, encode_ranges

RETRY_INITIAL_MS, RETRY_FACTOR = 1_000, 2
STATES = ("ready", "delayed", "in_flight", "waiting", "settled")


@dataclass(slots=True)
class Message:
    """All that is known of one message."""

    state: str = "ready"
    failures: int = 0
    deliveries: int = 0
    came_back: bool = False
    due: int = 0
    token: int = 0
    deadline: int = 0


class Model:
    """What one queue must do, a message at a time."""

    def __init__(self, clock: ManualClock, max_attempts: int, max_deliveries: int | None) -> None:
        self.clock = clock
        self.max_attempts = max_attempts
        self.max_deliveries = max_deliveries
        self.messages: dict[int, Message] = {}
        self.dead: list[int] = []
        self.dead_has_room = True
        self.retry_at: int | None = None
        self.suspect_below = 0
        self.handed_out_below = 0

    def of(self, state: str) -> list[int]:
        return [offset for offset, message in sorted(self.messages.items()) if message.state == state]

    def leased(self, held: Range) -> list[int]:
        """The offsets of a range that are still leased under its token."""
        return [
            offset
            for offset in range(held.first, held.first + held.messages)
            if self.messages[offset].state == "in_flight" and self.messages[offset].token == held.token
        ]

    def receive(self, limit: int, visibility: int) -> list[tuple[int, int, int, bool]]:
        out = []
        for offset in self.of("ready")[:limit]:
            message = self.messages[offset]
            message.state = "in_flight"
            message.deliveries += 1
            message.deadline = self.clock.now().mono + visibility
            redelivered = message.came_back or offset < self.suspect_below
            out.append((offset, message.failures + 1, message.deliveries, redelivered))
            self.handed_out_below = max(self.handed_out_below, offset + 1)
        return out

    def fail(self, offset: int, delay: int | None) -> None:
        message = self.messages[offset]
        message.failures += 1
        if message.failures >= self.max_attempts or self.delivered_too_often(message):
            self.bury(offset)
            return
        if delay is None:
            delay = RETRY_INITIAL_MS * RETRY_FACTOR ** (message.failures - 1)
        message.state, message.due = "delayed", self.clock.now().wall + delay

    def release(self, offset: int) -> None:
        message = self.messages[offset]
        if self.delivered_too_often(message):
            self.bury(offset)
        else:
            message.state, message.came_back = "ready", True

    def delivered_too_often(self, message: Message) -> bool:
        return self.max_deliveries is not None and message.deliveries >= self.max_deliveries

    def bury(self, offset: int) -> None:
        self.messages[offset].state = "settled" if self.dead_has_room else "waiting"
        if self.dead_has_room:
            self.dead.append(offset)

    def pass_time(self) -> None:
        """Whatever is due by now."""
        now = self.clock.now()
        for offset in self.of("in_flight"):
            if self.messages[offset].deadline <= now.mono:
                self.fail(offset, None)
        for offset in self.of("delayed"):
            message = self.messages[offset]
            if message.due <= now.wall:
                message.state, message.came_back = "ready", True
        if self.retry_at is not None and self.retry_at <= now.mono:
            self.retry_at = None
            for offset in self.of("waiting"):
                self.bury(offset)
        if self.retry_at is None and self.of("waiting"):
            self.retry_at = now.mono + PARKED_RETRY_MS

    def restart(self, *, clean: bool) -> None:
        """Leases and deliveries are forgotten, failures are not."""
        self.suspect_below = max(self.suspect_below, self.handed_out_below if clean else len(self.messages))
        self.retry_at = None
        for message in self.messages.values():
            if message.state == "in_flight":
                message.state = "ready"
            message.deliveries = message.failures
            message.came_back = message.failures > 0


class Settlement(RuleBasedStateMachine):
    """One queue and its dead-letter queue."""

    @initialize(max_attempts=st.integers(1, 4), max_deliveries=st.sampled_from([2, 3, 5, None]))
    def begin(self, max_attempts: int, max_deliveries: int | None) -> None:
        self.clock = ManualClock()
        self.bench = Bench(clock=self.clock)
        self.model = Model(self.clock, max_attempts, max_deliveries)
        self.held: list[Range] = []
        self.connection = self.bench.connect()
        no_limits = {"dead_letter": None, "max_attempts": None, "max_deliveries": None}
        self.call(q.CreateQueue("dead", no_limits, "check"))
        limits = {"dead_letter": "dead", "max_attempts": max_attempts, "max_deliveries": max_deliveries}
        curve = {"retry_initial": RETRY_INITIAL_MS, "retry_factor": RETRY_FACTOR, "retry_jitter": 0}
        self.call(q.CreateQueue("jobs", {**limits, **curve}, "check"))

    def call(self, request: Any) -> Any:
        reply = self.bench.call(self.connection, request)
        assert not isinstance(reply, Exception), reply
        return reply

    @rule(messages=st.integers(1, 5))
    def enqueue(self, messages: int) -> None:
        first = len(self.model.messages)
        bodies = [b"%d" % offset for offset in range(first, first + messages)]
        assert self.bench.enqueue(self.connection, "jobs", *bodies).first == first
        self.model.messages.update({first + index: Message() for index in range(messages)})

    @rule(limit=st.integers(1, 6), visibility=st.sampled_from([100, 1_000, 20_000]))
    def receive(self, limit: int, visibility: int) -> None:
        found = got(self.call(q.Receive("jobs", limit, 0, visibility)))
        delivered = []
        newest = max((held.token for held in self.held), default=0)
        for stamps, bodies in found:
            assert stamps.token > newest, "a token only grows"
            for offset, body in enumerate(bodies, stamps.first):
                assert body == b"%d" % offset
                delivered.append((offset, stamps.attempt, stamps.delivery, bool(stamps.flags & REDELIVERED)))
        assert delivered == self.model.receive(limit, visibility)
        for item in found:
            self.held.append(item.range)
            for offset in range(item.range.first, item.range.first + item.range.messages):
                self.model.messages[offset].token = item.range.token

    def choose(self, data: st.DataObject) -> Range:
        """Part of a lease: mostly one that is alive, sometimes one that is over."""
        alive = [held for held in self.held if self.model.leased(held)]
        late = not alive or data.draw(st.integers(0, 4), "late") == 0
        held = data.draw(st.sampled_from(self.held[-8:] if late else alive), "held")
        low = data.draw(st.integers(0, held.messages - 1), "low")
        high = data.draw(st.integers(low + 1, held.messages), "high")
        return held._replace(first=held.first + low, messages=high - low)

    def settle(self, held: Range, request: Any) -> list[int]:
        """Ask; the offsets that were leased. All others of the range must have been answered stale."""
        leased = self.model.leased(held)
        reply = self.call(request._replace(payload=memoryview(encode_ranges([held]))))
        stale = decode_ranges(memoryview(reply.payload))
        assert reply.messages == len(leased)
        named = [offset for item in stale for offset in range(item.first, item.first + item.messages)]
        everything = list(range(held.first, held.first + held.messages))
        if isinstance(request, q.Extend):  # answers with the ranges as they were asked
            assert named == (everything if len(leased) < held.messages else [])
        else:
            assert named == [offset for offset in everything if offset not in leased]
        return leased

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        for offset in self.settle(self.choose(data), q.Ack("jobs", b"")):
            self.model.messages[offset].state = "settled"

    @precondition(lambda self: self.held)
    @rule(data=st.data(), delay=st.sampled_from([None, 0, 500, 5_000]))
    def nack(self, data: st.DataObject, delay: int | None) -> None:
        for offset in self.settle(self.choose(data), q.Nack("jobs", q.Outcome.RETRY, delay, None, b"")):
            self.model.fail(offset, delay)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        for offset in self.settle(self.choose(data), q.Nack("jobs", q.Outcome.RELEASE, None, None, b"")):
            self.model.release(offset)

    @precondition(lambda self: self.model.of("ready"))
    @rule(times=st.integers(1, 5), outcome=st.sampled_from([q.Outcome.RETRY, q.Outcome.RELEASE]))
    def take_and_give_back_at_once(self, times: int, outcome: q.Outcome) -> None:
        for _ in range(times):
            before = len(self.held)
            self.receive(3, 20_000)
            for held in self.held[before:]:
                for offset in self.settle(held, q.Nack("jobs", outcome, 0, None, b"")):
                    if outcome is q.Outcome.RETRY:
                        self.model.fail(offset, 0)
                    else:
                        self.model.release(offset)
            self.model.pass_time()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        request = q.Nack("jobs", q.Outcome.DEAD_LETTER, None, "bad", b"")
        for offset in self.settle(self.choose(data), request):
            self.model.bury(offset)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ms=st.sampled_from([0, 500, 30_000]))
    def extend(self, data: st.DataObject, ms: int) -> None:
        for offset in self.settle(self.choose(data), q.Extend("jobs", ms, b"")):
            self.model.messages[offset].deadline = self.clock.now().mono + ms

    @rule(ms=st.sampled_from([1, 99, 500, 1_000, 4_000, 30_000, 200_000]))
    def advance(self, ms: int) -> None:
        self.clock.advance(ms)
        self.bench.settle()

    @rule()
    def purge(self) -> None:
        gone = [o for o, m in self.model.messages.items() if m.state in ("ready", "delayed", "waiting")]
        assert unpack_document(self.call(q.Purge("jobs")).payload) == {"purged": len(gone)}
        for offset in gone:
            self.model.messages[offset].state = "settled"

    @rule()
    def fill_or_empty_the_dead_letter_queue(self) -> None:
        self.model.dead_has_room = not self.model.dead_has_room
        limit = None if self.model.dead_has_room else 0
        self.call(q.AlterQueue("dead", {"max_messages": limit}))

    @rule()
    def checkpoint(self) -> None:
        self.bench.core.engine.checkpoint_now()
        self.bench.settle()

    @rule(how=st.sampled_from(["kill", "power cut", "clean"]))
    def restart(self, how: str) -> None:
        if how == "clean":
            self.bench.core.stop(self.clock.now())
            while not self.bench.core.stopped:
                self.bench.settle()
        files = self.bench.files
        self.bench = Bench(files.crash() if how == "power cut" else files.kill(), self.clock)
        self.connection = self.bench.connect()
        self.model.restart(clean=how == "clean")

    @property
    def expected(self) -> Model:
        """The model, as late as it is."""
        self.model.pass_time()
        return self.model

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        stats = unpack_document(self.call(q.DescribeQueue("jobs")).payload)["stats"]
        stats["settled"] = stats["settled_total"]
        assert {s: stats[s] for s in STATES} == {s: len(self.expected.of(s)) for s in STATES}

    @invariant()
    def every_message_is_in_the_state_of_the_model(self) -> None:
        for state in STATES[:-1]:
            found = got(self.call(q.Peek("jobs", 1_000, state)))
            assert [int(body) for item in found for body in item.bodies] == self.expected.of(state)

    @invariant()
    def dead_letter_queue_holds_each_dead_letter_once(self) -> None:
        found = got(self.call(q.Peek("dead", 1_000, "ready")))
        assert sorted(int(body) for item in found for body in item.bodies) == sorted(self.expected.dead)


TestSettlement = Settlement.TestCase
TestSettlement.settings = settings(max_examples=300, stateful_step_count=50)
