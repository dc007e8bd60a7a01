"""A broker with one queue, messages with traits, and every way it may die and come back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack
from tests.fakes.clock import ManualClock
from tests.model.bench import SETTINGS, Bench

from penstock_broker.queues.queue import Queue
from penstock_protocol.batch import BatchBuilder, BatchView, Kind, OnConflict
from penstock_protocol.errors import Error
from penstock_protocol.limits import VISIBILITY_MS_MAX
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import (
    Exceptional,
    Range,
    Slice,
    decode_exceptions,
    decode_slices,
    encode_ranges,
)

Cells = list[tuple[Kind, bytes | int]]
SECOND_MS = 1_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000


class Outgoing(NamedTuple):
    """One message to be published."""

    body: bytes
    cells: Cells


def message(
    body: bytes,
    *,
    delay: int = 0,
    at: int = 0,
    ttl: int = 0,
    priority: int = 0,
    group: str | None = None,
    dedup: str | None = None,
    job: str | None = None,
    conflict: OnConflict | None = None,
    headers: dict[str, Any] | None = None,
) -> Outgoing:
    """A message with columns for what is said of it, and none for what is not."""
    numbers = {Kind.DELAY: delay, Kind.AT: at, Kind.TTL: ttl, Kind.PRIORITY: priority}
    texts = {Kind.MESSAGE_GROUP: group, Kind.DEDUP_ID: dedup, Kind.JOB_KEY: job, Kind.HEADERS: headers}
    cells: Cells = [(kind, value) for kind, value in numbers.items() if value]
    cells += [(kind, msgpack.packb(value)) for kind, value in texts.items() if value is not None]
    if conflict is not None:
        cells.append((Kind.ON_CONFLICT, int(conflict)))
    return Outgoing(body, cells)


def batch_of(*messages: Outgoing, producer_id: int = 0, sequence: int = 0) -> memoryview:
    """These messages as one batch."""
    builder = BatchBuilder()
    for each in messages:
        builder.add(each.body, each.cells)
    return memoryview(builder.encode(producer_id, sequence))


class Seen(NamedTuple):
    """One message as it was delivered."""

    body: bytes
    offset: int
    stamps: Slice
    history: dict[str, Any] | None
    checkpoint: bytes | None

    @property
    def attempt(self) -> int:
        """Failures + 1."""
        return self.stamps.attempt

    @property
    def range(self) -> Range:
        """What settles it."""
        return Range(self.stamps.token, self.offset, 0, 1)

    @property
    def id(self) -> tuple[bytes, int]:
        """Where it was first."""
        return self.stamps.origin_log, self.stamps.origin_first + self.offset - self.stamps.first


def seen(delivery: Any) -> list[Seen]:
    """The messages of a delivery, in its order."""
    out = []
    for stamps, data in decode_slices(memoryview(delivery.payload), delivery.slices):
        view = BatchView(data)
        starts = [0, *view.ends()]
        histories = view.cells(Kind.HISTORY) or [b""] * view.count
        checkpoints = view.cells(Kind.CHECKPOINT) or [b""] * view.count
        for i, delta in enumerate(view.deltas):
            body = bytes(view.bodies()[starts[i] : starts[i + 1]])
            history = msgpack.unpackb(histories[i]) if histories[i] else None
            checkpoint = msgpack.unpackb(checkpoints[i]) if checkpoints[i] else None
            out.append(Seen(body, stamps.first + delta, stamps, history, checkpoint))
    return out


def clean(world: "World") -> None:
    """Stop, and start again."""
    world.stop()
    world.begin(world.bench.files.kill())


def killed(world: "World") -> None:
    """Everything is replayed from the journal."""
    world.begin(world.bench.files.kill())


def cut(world: "World") -> None:
    """The power goes: what was not synced is gone."""
    world.begin(world.bench.files.crash())


def from_a_checkpoint(world: "World") -> None:
    """Everything is in the checkpoint, nothing is left to replay."""
    world.checkpoint()
    cut(world)


def twice(world: "World") -> None:
    """What a replay made is checkpointed at once, and that is restored."""
    killed(world)
    world.checkpoint()
    killed(world)


RESTARTS: dict[str, Callable[["World"], None]] = {
    "clean stop": clean,
    "kill, replayed from the journal": killed,
    "power cut, replayed from the journal": cut,
    "power cut behind a checkpoint": from_a_checkpoint,
    "kill, checkpoint, kill": twice,
}


def nothing(world: "World") -> None:
    """The same life goes on."""


LIVES = {"no restart": nothing, **RESTARTS}
"""Whatever is true in one of them must be true in each."""


class World:
    """A bench with a queue `jobs`, whose leases do not run out by themselves."""

    def __init__(self, name: str = "jobs", **settings: Any) -> None:
        self.clock = ManualClock()
        self.bench = Bench(clock=self.clock)
        self.name = name
        self.peer = self.bench.connect()
        self.pushed: list[Seen] = []
        self.create(name, **{"visibility_timeout": VISIBILITY_MS_MAX, **settings})

    # lives

    def begin(self, files: Any) -> None:
        """The next life on what is left of the files."""
        self.bench = Bench(files, self.clock, SETTINGS)
        self.bench.settle()
        self.peer = self.bench.connect()

    def stop(self) -> None:
        """The broker stops in order."""
        self.bench.core.stop(self.clock.now())
        while not self.bench.core.stopped:
            self.bench.settle()

    def checkpoint(self) -> None:
        """All that is known goes into a checkpoint."""
        self.bench.core.engine.checkpoint_now()
        self.bench.settle()

    def pass_(self, ms: int) -> None:
        """Time passes, and the broker does what is due."""
        self.clock.advance(ms)
        self.bench.settle()

    @property
    def wall(self) -> int:
        """Ms since 1970."""
        return self.clock.now().wall

    @property
    def queue(self) -> Queue:
        """The machine."""
        return self.bench.queue(self.name)

    # requests

    def ask(self, request: Any) -> Any:
        """The reply, or the error."""
        return self.bench.until_taken(self.peer, request)

    def call(self, request: Any) -> Any:
        """The reply; an error is a failure."""
        reply = self.ask(request)
        assert not isinstance(reply, Error), reply
        return reply

    def document(self, request: Any) -> Any:
        """The document of a reply."""
        return unpack_document(self.call(request).payload)

    def create(self, name: str, **settings: Any) -> Any:
        """Another queue."""
        return self.call(q.CreateQueue(name, settings, "check"))

    def alter(self, **settings: Any) -> None:
        """Other settings from now on."""
        self.call(q.AlterQueue(self.name, settings))

    def publish(self, *messages: Outgoing, to: str | None = None, **producer: int) -> Any:
        """The confirm of one batch, or the error."""
        return self.ask(q.Enqueue(to or self.name, batch_of(*messages, **producer)))

    def enqueue(self, *messages: Outgoing, to: str | None = None) -> list[int]:
        """The offsets of messages that must all be taken as new ones, each published on its own."""
        offsets = []
        for each in messages:
            confirm = self.publish(each, to=to)
            assert not isinstance(confirm, Error), confirm
            assert not confirm.payload
            offsets.append(confirm.first)
        return offsets

    def receive(self, messages: int = 100, name: str | None = None, **options: Any) -> list[Seen]:
        """What a RECEIVE gives now."""
        return seen(self.call(q.Receive(name or self.name, messages, 0, **options)))

    def bodies(self, messages: int = 100, name: str | None = None) -> list[bytes]:
        """The same, as bodies."""
        return [each.body for each in self.receive(messages, name)]

    def peek(self, state: str = "ready", name: str | None = None) -> list[bytes]:
        """Bodies in a state, in order of offset."""
        return [each.body for each in seen(self.call(q.Peek(name or self.name, 1_000, state)))]

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Counts by state."""
        stats: dict[str, Any] = self.document(q.DescribeQueue(name or self.name))["stats"]
        return stats

    def _settle(self, request: Any, messages: Sequence[Seen]) -> Any:
        return self.call(request._replace(payload=memoryview(encode_ranges(each.range for each in messages))))

    def ack(self, *messages: Seen, name: str | None = None) -> Any:
        """They are done."""
        return self._settle(q.Ack(name or self.name, b""), messages)

    def nack(self, *messages: Seen, delay: int | None = None, reason: str | None = None) -> Any:
        """They failed."""
        return self._settle(q.Nack(self.name, q.Outcome.RETRY, delay, reason, b""), messages)

    def release(self, *messages: Seen) -> Any:
        """They were not tried."""
        return self._settle(q.Nack(self.name, q.Outcome.RELEASE, None, None, b""), messages)

    def dead_letter(self, *messages: Seen, reason: str | None = "bad") -> Any:
        """They never will be done."""
        return self._settle(q.Nack(self.name, q.Outcome.DEAD_LETTER, None, reason, b""), messages)

    def subscribe(self, number: int = 1, credit: int = 100, peer: Any = None, **options: Any) -> None:
        """Push delivery; what it brings is collected by `deliveries`."""
        options = {"priority": 0, "settle": False} | options
        reply = self.bench.call(
            peer or self.peer, q.Consume(self.name, number, credit, None, payload=b"", **options)
        )
        assert not isinstance(reply, Error), reply

    def deliveries(self) -> list[tuple[int, Seen]]:
        """What was pushed since the last look: (subscription, message)."""
        pushed, self.bench.pushed = self.bench.pushed, []
        return [(each.subscription, item) for each in pushed for item in seen(each)]

    def drain(self) -> list[bytes]:
        """Bodies in the order in which one consumer that acks each message gets them, delays left aside."""
        out = []
        while found := self.receive(1):
            out.append(found[0].body)
            self.ack(*found)
        return out


def exceptions(confirm: Any) -> list[Exceptional]:
    """Of the messages of a batch that are not new."""
    return decode_exceptions(confirm.payload)


def bodies(items: Sequence[tuple[int, Seen]]) -> list[bytes]:
    """Of pushed messages."""
    return [each.body for _, each in items]


def texts(*names: str, **traits: Any) -> list[Outgoing]:
    """Messages with those bodies that share their traits."""
    return [message(name.encode(), **traits) for name in names]
