"""A client: a session over one link after another, streams of publishes that no retry duplicates, and the
messages it holds.

An operation of the history begins when its request reaches the node (one lost on the way never began) and
ends when its reply reaches the client. A publish that must be tried again is one operation over all tries.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
from tests.sim.features import Traits, encoded, record_traits, traits_of
from tests.sim.history import LANE, Record, Recorder, payload, value_of
from tests.sim.net import Link
from tests.sim.places import Place

from penstock_broker.outputs import Send
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.errors import Busy, Closing, Error, NotFound, SequenceGap, Stale
from penstock_protocol.limits import PRODUCER_ID_NAMED_MIN
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import (
    REDELIVERED,
    REPLAYED,
    SLICE_BYTES,
    Range,
    Slice,
    decode_exceptions,
    decode_slices,
)

if TYPE_CHECKING:
    from tests.sim.members import Member
    from tests.sim.world import World
    from tests.sim.writers import Writer

CLOCK_MS = 1
"""How exactly a duration can be known: the broker's clock has that step."""
BUSY_MS = 50
WINDOW = 4
"""Batches of a stream under way at once."""
TOKEN_BYTES = 8
KNOWN_MAX = 50
"""Messages that a client remembers by their id."""

Reply = Callable[[Any], None]


class Ask(NamedTuple):
    """A request on its way. `begin` is called when it reaches the node, unless its place is gone by then."""

    client: str
    request: Any
    place: Place | None
    begin: Callable[[], None]
    reply: Reply


class Held(NamedTuple):
    """A message under a lease that this client was given; `number` of the subscription, 0 if received."""

    place: Place
    offset: int
    token: int
    number: int

    @property
    def range(self) -> Range:
        """The settle range of it alone."""
        partition, first = divmod(self.offset, LANE)
        return Range(self.token, first, partition, 1)


class Known(NamedTuple):
    """A message by its id: uuid of a log, number there; and its offset in the history."""

    place: Place
    log: bytes
    number: int
    offset: int


class Batch:
    """A publish: its values, bodies and traits, and the operation it is in the history."""

    def __init__(self, values: list[str], bodies: list[bytes], traits: list[Traits]) -> None:
        self.values = values
        self.bodies = bodies
        self.traits = traits
        self.op: str | None = None
        self.sent = False
        self.sent_in = 0
        """The life of the node that it was sent to first; 0 if not yet."""

    @property
    def asked(self) -> Record:
        """What the history says of it."""
        return {"values": self.values, **({"traits": self.traits} if any(self.traits) else {})}


def joined(parts: list[t.Fetched]) -> t.Fetched:
    """The parts of an answer as one."""
    heads = b"".join([part.payload[: part.slices * SLICE_BYTES] for part in parts if part.slices])
    batches = b"".join([part.payload[part.slices * SLICE_BYTES :] for part in parts if part.slices])
    slices = sum(part.slices for part in parts)
    return parts[-1]._replace(slices=slices, start=parts[0].start, payload=memoryview(heads + batches))


class Client:
    """One client."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.recorder = Recorder(name, world.time, world.write)
        self.link: Link | None = None
        self.welcome: s.Welcome | None = None
        self.held: list[Held] = []
        self.streams: dict[tuple[Place, int], Stream] = {}
        """By the id of the producer, too: those of one that is fenced go on."""
        self.subscriptions: dict[int, Place] = {}
        self.settling: set[int] = set()
        """Numbers of subscriptions whose messages are settled when they are pushed."""
        self.known: deque[Known] = deque(maxlen=KNOWN_MAX)
        """Messages that it enqueued, or got as records of a topic, where that may matter."""
        self.positions: dict[Place, int] = {}
        self.selected: dict[tuple[Place, int], int] = {}
        """The same of each filter."""
        self.member: Member | None = None
        """Of the group whose partitions the broker shares out."""
        self.writers: dict[str, Writer] = {}
        """By the name that it opened, or wants to."""
        self._asks: dict[int, Ask] = {}
        self._parts: dict[int, list[t.Fetched]] = defaultdict(list)
        """Replies that were not the last; with that one they are one answer in the history."""
        self._correlation = 0
        self._values = 0
        self._numbers = 0
        self._producer_id = 1 + world.random.getrandbits(60)
        self._session = world.random.randbytes(16)

    # connection

    def connect(self) -> None:
        """Open a link and say hello; mostly as the session it was."""
        if not self.world.random.randrange(5):
            self._session = self.world.random.randbytes(16)
        self.link = Link(self.world, self)
        hello = s.Hello(s.MAGIC, 1, 1, self._session, self._producer_id, self.name)
        self.ask(hello, self._welcomed)

    def _welcomed(self, reply: Any) -> None:
        if isinstance(reply, Error):
            return
        self.welcome = reply
        self.world.met("session resumed", when=reply.resumed)
        before, self.subscriptions = self.subscriptions, {}
        if reply.resumed:
            for number, place in before.items():
                self.consume(place, number)
        for stream in self.streams.values():
            stream.begin_again()

    def lost(self) -> None:
        """The link is gone. What was asked and not answered has an unknown outcome."""
        self.recorder.note("disconnect")
        self.link = self.welcome = None
        for correlation, parts in self._parts.items():
            self._asks[correlation].reply(joined(parts))
        self._parts.clear()
        self._asks.clear()

    @property
    def connected(self) -> bool:
        """The node has welcomed it."""
        return self.welcome is not None

    # asking

    def ask(
        self,
        request: Any,
        reply: Reply,
        place: Place | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> int:
        """Send a request; its correlation id."""
        assert self.link is not None
        self._correlation += 1
        ask = Ask(self.name, request, place, begin, reply)
        self._asks[self._correlation] = ask
        self.link.send(self._correlation, ask)
        return self._correlation

    def operate(
        self,
        f: str,
        place: Place,
        request: Any,
        answer: Callable[[Any], Record],
        refused: Reply = lambda error: None,
        **asked: Any,
    ) -> int:
        """Ask something that is an operation of the history; `answer` makes the fields of its `ok`, `refused`
        hears why it was not done."""
        op: list[str] = []

        def begin() -> None:
            op.append(self.recorder.invoke(f, **{place.sort: place.label}, **asked))

        def ended(reply: Any) -> None:
            if isinstance(reply, Error):
                self.recorder.refused(op[0], type(reply).__name__)
                refused(reply)
            else:
                fields = answer(reply)
                self.recorder.ok(op[0], **fields)

        return self.ask(request, ended, place, begin)

    def received(self, send: Send, since: float) -> None:
        """Something came from the node."""
        message = send.message
        if isinstance(getattr(message, "payload", None), tuple):
            message = message._replace(payload=memoryview(b"".join(message.payload)))
        if not send.correlation:
            self._pushed(message, since)
            return
        if not send.is_last:
            self._parts[send.correlation].append(message)
            self.world.met("part of an answer")
            return
        parts = self._parts.pop(send.correlation, [])
        if parts:
            message = joined(parts if isinstance(message, Error) else [*parts, message])
        self._asks.pop(send.correlation).reply(message)

    # publishing

    def new_name(self) -> str:
        """A text that nobody has used."""
        self._values += 1
        return f"{self.name}.{self._values}"

    def new_batch(self, place: Place) -> Batch:
        """Values that nobody has used, as bodies, with traits that fit the place."""
        random = self.world.random
        values = [self.new_name() for _ in range(random.choice((1, 1, 2, 5)))]
        size = random.choice(self.world.plan.body_bytes)
        words, wall = self.world.features.words_of(place.name), self.world.clock.now().wall
        traits = [traits_of(random, words, wall) if words else {} for _ in values]
        if place.sort == "log" and self.world.streams.filtered:
            traits = [record_traits(random) for _ in values]
        return Batch(values, [payload(value, size) for value in values], traits)

    def publish(self, place: Place, producer_id: int | None = None) -> None:
        """Publish in the stream to that place: of the client, or of a producer with a name."""
        id = self._producer_id if producer_id is None else producer_id
        stream = self.streams.get((place, id))
        if stream is None:
            stream = self.streams[place, id] = Stream(self, place, id)
        stream.add(self.new_batch(place))

    def publish_once(self, place: Place) -> None:
        """Publish without a sequence: tried once."""
        batch = self.new_batch(place)
        self.operate(
            "enqueue" if place.sort == "queue" else "produce",
            place,
            publish_request(place, encoded(batch.bodies, batch.traits)),
            lambda confirm: self.confirmed(place, confirm),
            **batch.asked,
        )

    def confirmed(self, place: Place, confirm: q.Confirm) -> Record:
        """What a confirm says, for the history."""
        answer: Record = {"first": confirm.first}
        if self.world.features.is_special(place.name):
            exceptions = decode_exceptions(confirm.payload)
            offsets = range(confirm.first, confirm.first + confirm.messages)
            self.known.extend(Known(place, place.uuid, offset, offset) for offset in offsets)
            answer["exceptions"] = [list(each) for each in exceptions]
            for each in exceptions:
                self.world.met("duplicate" if each.status == 1 else "conflict")
        return answer

    # receiving

    def messages(self, place: Place, delivery: Any, number: int = 0, *, settle: bool = False) -> list[Record]:
        """What a delivery carries, for the history; the client holds it from now on, unless it is settled."""
        out = []
        self.world.met("delivered at most once", when=settle and bool(delivery.slices))
        for stamps, view in _decoded(delivery):
            for i, value in enumerate(_values(view)):
                offset = stamps.partition * LANE + stamps.first + i
                if place.over is not None:
                    self.known.append(Known(place, stamps.origin_log, stamps.origin_first + i, offset))
                if not settle:
                    self.held.append(Held(place, offset, stamps.token, number))
                record = {
                    "value": value,
                    "offset": offset,
                    "token": stamps.token,
                    "attempt": stamps.attempt,
                    "delivery": stamps.delivery,
                    "redelivered": bool(stamps.flags & REDELIVERED),
                    "lease": 0 if settle else (stamps.lease - CLOCK_MS) / 1000,
                }
                if self.world.features.is_special(place.name):
                    record |= self._beyond(stamps, view, i) | ({"once": True} if settle else {})
                out.append(record)
        return out

    def _beyond(self, stamps: Slice, view: BatchView, i: int) -> Record:
        """What else is told of a message."""
        met, out = self.world.met, Record(time=stamps.time / 1000)
        if stamps.token:
            mono, wall = self.world.node.handed_out_at(stamps.token)
            out |= {"at": wall / 1000, "handed": mono / 1000}
        if stamps.flags & REPLAYED:
            out["replayed"] = True
            met("replayed message delivered")
        for name, kind in (("checkpoint", Kind.CHECKPOINT), ("history", Kind.HISTORY)):
            found = view.cells(kind)
            if found is not None and found[i]:
                out[name] = msgpack.unpackb(found[i])
                met(f"{name} delivered")
        if "checkpoint" in out:
            out["checkpoint"] = value_of(out["checkpoint"])
        return out

    def consume(self, place: Place, number: int | None = None) -> None:
        """Begin push delivery: anew, or as subscription `number` of before, whose messages it still holds."""
        random = self.world.random
        if number is None:
            self._numbers += 1
            number = self._numbers
        held = [held.token for held in self.held if held.number == number and random.random() < 0.8]
        tokens = b"".join(token.to_bytes(TOKEN_BYTES, "little") for token in sorted(set(held)))
        if "once" in self.world.features.words_of(place.name) and random.random() < 0.5:
            self.settling.add(number)
        settle, priority = number in self.settling, 0
        if self.world.features.is_special(place.name):
            priority = random.choice((0, 0, 5))
        credit = random.randrange(10)
        request = q.Consume(place.name, number, credit, None, priority, settle, memoryview(tokens))

        def begin() -> None:
            self.subscriptions[number] = place

        def reply(answer: Any) -> None:
            if isinstance(answer, Error):
                del self.subscriptions[number]

        self.ask(request, reply, place, begin)

    def _pushed(self, message: Any, since: float) -> None:
        assert isinstance(message, q.Deliver), message
        place = self.subscriptions[message.subscription]
        if not message.slices:
            del self.subscriptions[message.subscription]
            return
        settle = message.subscription in self.settling
        messages = self.messages(place, message, message.subscription, settle=settle)
        self.recorder.note("deliver", queue=place.label, messages=messages, since=since)


class Stream:
    """Batches of one producer to one place: several under way, each with a number that no retry changes."""

    def __init__(self, client: Client, place: Place, producer_id: int) -> None:
        self._client = client
        self._place = place
        self._producer_id = producer_id
        self._confirmed = 0
        self._unresolved: list[Batch] = []
        self._named = producer_id >= PRODUCER_ID_NAMED_MIN
        self._resting = False
        """The node was busy: nothing is sent for a while."""

    def add(self, batch: Batch) -> None:
        """Publish a batch behind the others."""
        self._unresolved.append(batch)
        self._pump()

    def begin_again(self) -> None:
        """A new link: whatever has no outcome is sent again, under its number."""
        for batch in self._unresolved:
            batch.sent = False
        self._pump()

    def _rested(self) -> None:
        self._resting = False
        self._pump()

    def _pump(self) -> None:
        if self._resting or not self._client.connected or not self._place.alive:
            return
        for index, batch in enumerate(self._unresolved[:WINDOW]):
            if not batch.sent:
                self._send(batch, self._confirmed + index)

    def _send(self, batch: Batch, number: int) -> None:
        batch.sent = True
        client, place = self._client, self._place
        f = "enqueue" if place.sort == "queue" else "produce"

        def begin() -> None:
            batch.sent_in = batch.sent_in or client.world.node.life + 1
            if batch.op is None:
                fields = {place.sort: place.label, "producer": self._producer_id, **batch.asked}
                batch.op = client.recorder.invoke(f, **fields)

        request = publish_request(place, encoded(batch.bodies, batch.traits, self._producer_id, number))
        client.ask(request, lambda reply: self._ended(batch, number, reply), place, begin)

    def _ended(self, batch: Batch, number: int, reply: Any) -> None:
        client = self._client
        assert batch.op is not None
        if isinstance(reply, SequenceGap):
            first = batch is self._unresolved[0] and number == self._confirmed
            assert not first, f"{self._place} forgot batches: it expects {reply.detail}, comes {number}"
            batch.sent = False
        elif isinstance(reply, Closing | Busy):
            batch.sent = False
            client.world.met(f"refused: {type(reply).__name__}")
            self._resting = True
            client.world.after(BUSY_MS, self._rested)
            return
        elif isinstance(reply, NotFound) or (isinstance(reply, Stale) and not self._named):
            raise AssertionError(f"{batch.values} to {self._place}: {reply}")
        elif isinstance(reply, Error):
            client.world.met("producer fenced", when=isinstance(reply, Stale))
            client.world.met(f"refused: {type(reply).__name__}")
            client.recorder.refused(batch.op, type(reply).__name__)
            self._unresolved.remove(batch)
        else:
            assert batch is self._unresolved.pop(0), f"{batch.values} was confirmed out of order"
            self._confirmed += 1
            again = reply.duplicate and batch.sent_in != client.world.node.life + 1
            client.world.met("dedup hit after restart", when=again)
            client.world.met("dedup hit", when=reply.duplicate)
            fenced = client.world.node.core.registry.named.fences(self._producer_id)
            client.world.met("fenced producer told of what it did", when=reply.duplicate and fenced)
            client.recorder.ok(batch.op, **client.confirmed(self._place, reply))
        client.world.soon(1, self._pump)


def publish_request(place: Place, batch: memoryview) -> q.Enqueue | t.Produce:
    """The request that appends a batch there."""
    if place.sort == "queue":
        return q.Enqueue(place.name, batch)
    return t.Produce(place.name, place.number, None, batch)


def records_of(fetched: t.Fetched) -> list[list[Any]]:
    """[offset, value] of what was fetched."""
    return [
        [stamps.first + delta, value]
        for stamps, view in _decoded(fetched)
        for delta, value in zip(view.deltas, _values(view), strict=True)
    ]


def _decoded(delivery: Any) -> list[tuple[Slice, BatchView]]:
    out = []
    for stamps, data in decode_slices(memoryview(delivery.payload), delivery.slices):
        view = BatchView(data)
        assert view.count == stamps.messages, stamps
        out.append((stamps, view))
    return out


def _values(view: BatchView) -> list[str | None]:
    ends, bodies = view.ends(), view.bodies()
    return [value_of(bytes(bodies[begin:end])) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
