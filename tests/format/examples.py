"""One example of everything that crosses the wire. `wire.txt` holds the bytes of each."""

from typing import Any, NamedTuple

import msgpack

from penstock_protocol.batch import LZ4, ZSTD, BatchBuilder, BatchView, Kind, OnConflict
from penstock_protocol.checksum import Buffer
from penstock_protocol.cuts import cut, picked, with_cells
from penstock_protocol.errors import Conflict, Error, OffsetOutOfRange, QueueFull
from penstock_protocol.link import Link, Role
from penstock_protocol.messages import groups as g
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.slices import (
    REDELIVERED,
    REPLAYED,
    Exceptional,
    Range,
    Slice,
    Status,
    encode_exceptions,
    encode_ranges,
    encode_slice,
)
from penstock_protocol.verbs import BY_REQUEST, VERBS, Verb

BY_NAME = {verb.name: verb for verb in VERBS}
CORRELATION = 0x01020304
SESSION, NODE, LOG = (bytes(range(start, start + 16)) for start in (0x10, 0x20, 0x30))
TIME = 1_700_000_000_000
MEMBER = bytes(range(16))
ASSIGNMENT = {
    "generation": (1 << 32) + 2,
    "heartbeat_ms": 3_000,
    "session_ms": 45_000,
    "partitions": {"clicks": [0, 2], "eu.sales": [1]},
}
SETTINGS = {"visibility_timeout": 30.0, "max_attempts": 5, "dead_letter": None, "retry": (1, 2, 300, 0.2)}


def _plain() -> bytes:
    builder = BatchBuilder()
    builder.extend([b"one", b"", b"three"])
    return builder.encode(producer_id=7, sequence=3)


def _rich() -> bytes:
    builder = BatchBuilder()
    builder.add(b"one", [(Kind.KEY, msgpack.packb(b"k")), (Kind.HEADERS, msgpack.packb({"a": 1}))])
    builder.add(b"two", [(Kind.TIMESTAMP, TIME)])
    builder.add(b"", [(Kind.KEY, msgpack.packb(b"")), (Kind.ABSENT, 1)])
    return builder.encode()


def _with_options() -> bytes:
    builder = BatchBuilder()
    builder.add(b"one", [(Kind.DELAY, 1_000), (Kind.TTL, 60_000), (Kind.PRIORITY, 9)])
    builder.add(b"two", [(Kind.MESSAGE_GROUP, msgpack.packb("g")), (Kind.DEDUP_ID, msgpack.packb("d"))])
    builder.add(b"three", [(Kind.MESSAGE_GROUP, msgpack.packb("g")), (Kind.DEDUP_ID, msgpack.packb("d"))])
    named = (Kind.REPLY_TO, "answers"), (Kind.CORRELATION_ID, "c-1"), (Kind.CONTENT_TYPE, "text/plain")
    builder.add(b"four", [(kind, msgpack.packb(text)) for kind, text in named])
    builder.add(
        b"five", [(Kind.JOB_KEY, msgpack.packb("j")), (Kind.AT, TIME), (Kind.ON_CONFLICT, OnConflict.REPLACE)]
    )
    return builder.encode()


def _tried() -> bytes:
    builder = BatchBuilder()
    builder.add(b"one", [(Kind.HEADERS, msgpack.packb({"a": 1}))])
    attempts = [["example", TIME + 1_000, TIME + 2_000, "nacked", "no address"]]
    history = {
        "queue": "emails", "offset": 40, "first_at": TIME, "last_at": 0, "reason": None, "attempts": attempts
    }  # fmt: skip
    data = with_cells(BatchView(builder.encode()), Kind.HISTORY, [msgpack.packb(history)])
    return with_cells(BatchView(data), Kind.CHECKPOINT, [msgpack.packb(b"page 3")])


BODIES = [b"north " * 5, b"", b"south " * 5]
LZ4_BODIES = bytes.fromhex("6f6e6f7274682006 00053f736f750600 03506f75746820")
ZSTD_BODIES = bytes.fromhex("28b52ffd203c8d00 00486e6f72746820 736f750200201c01 4b11")
"""What lz4 4.4.5 (block) and zstd 1.5.7 (level 3) made of them; other versions may find something else."""


def _compressed(codec: int, bodies: bytes) -> bytes:
    builder = BatchBuilder()
    for body, key in zip(BODIES, (b"n", b"", b"s"), strict=True):
        builder.add(body, [(Kind.KEY, msgpack.packb(key))])
    return builder.encode(7, 3, codec, lambda _: bodies)


PLAIN_BATCH, RICH_BATCH, OPTIONS_BATCH, TRIED_BATCH = _plain(), _rich(), _with_options(), _tried()
SPARSE_BATCH = bytes(picked(BatchView(RICH_BATCH), [0, 2]))
RICH_ONE = bytes(picked(BatchView(RICH_BATCH), [0]))
LZ4_BATCH, ZSTD_BATCH = _compressed(LZ4, LZ4_BODIES), _compressed(ZSTD, ZSTD_BODIES)
BATCHES = {
    "plain, of producer 7, sequence 3": PLAIN_BATCH,
    "with every column in use": RICH_BATCH,
    "sparse, without its second message": SPARSE_BATCH,
    "with every message option": OPTIONS_BATCH,
    "of a message that failed once, with history and checkpoint": TRIED_BATCH,
    "of lz4": LZ4_BATCH,
    "of zstd": ZSTD_BATCH,
    "of lz4, its last two messages": bytes(cut(BatchView(LZ4_BATCH), 1, 2)),
    "of zstd, without its second message": bytes(picked(BatchView(ZSTD_BATCH), [0, 2])),
}
SLICE = Slice(
    token=2**62 + 1,
    first=100,
    origin_first=40,
    time=TIME,
    origin_log=LOG,
    lease=30_000,
    partition=0,
    messages=3,
    attempt=2,
    delivery=4,
    flags=REDELIVERED,
    batch_length=len(PLAIN_BATCH),
)
RANGES = [Range(2**62 + 1, 100, 0, 3), Range(5, 7, 2, 1)]
ONE = encode_ranges([Range(2**62 + 1, 100, 0, 1)])
EXCEPTIONS = [Exceptional(2, Status.DUPLICATE, 104), Exceptional(4, Status.CONFLICT, 90)]


def _delivered(stamps: Slice, batch: bytes) -> bytes:
    return encode_slice(stamps, int.from_bytes(batch[4:8], "little")) + batch


DELIVERY = _delivered(SLICE, PLAIN_BATCH)
TRIED = SLICE._replace(messages=1, flags=REDELIVERED | REPLAYED, batch_length=len(TRIED_BATCH))
FOUND = TRIED._replace(token=0, lease=0, flags=0)


class Example(NamedTuple):
    """A message as one side sends it: a request or push, or the reply (or error) to the verb `to`. `what`:
    what is special about it, if there is another one. `is_last`: of the replies to one request."""

    message: Any
    to: str | None = None
    what: str = ""
    is_last: bool = True

    @property
    def name(self) -> str:
        said = type(self.message).__name__
        name = f"{said} to {self.to}" if self.to else said
        return f"{name}, {self.what}" if self.what else name

    @property
    def is_error(self) -> bool:
        return isinstance(self.message, Error)

    @property
    def verb(self) -> Verb:
        return BY_NAME[self.to] if self.to else BY_REQUEST[type(self.message)]


def buffers(example: Example) -> list[Buffer]:
    """What goes over the wire for it, under a correlation of its own unless it is pushed."""
    link = Link(Role.CLIENT)
    if example.to:
        return link.reply(example.verb, CORRELATION, example.message, is_last=example.is_last)
    return link.request(example.message, 0 if example.verb.pushed else CORRELATION)


LIMITS = {
    "frame_bytes": 8_388_608,
    "batch_bytes": 1_048_576,
    "batch_count": 10_000,
    "message_bytes": 1_048_576,
    "requests": 4096,
    "session_grace_ms": 10_000,
    "ping_ms": 30_000,
}
EXAMPLES = [
    Example(s.Hello(s.MAGIC, 1, 1, SESSION, 7, "example", None)),
    Example(s.Welcome(1, "penstock 0.1.0", NODE, 3, False, 1_048_576, TIME, LIMITS), "HELLO"),
    Example(s.Ping()),
    Example(s.Pong(TIME), "PING"),
    Example(s.Goodbye()),
    Example(s.Done(), "GOODBYE"),
    Example(s.Cancel(12)),
    Example(q.Enqueue("emails", PLAIN_BATCH)),
    Example(q.Confirm(0, 100, 3, False, "fsync", 68, TIME, LOG), "ENQUEUE"),
    Example(QueueFull("emails holds 1,000 messages", retry_after=0.5), "ENQUEUE"),
    Example(q.Receive("emails", 10, 20_000)),
    Example(q.Delivery(1, DELIVERY), "RECEIVE"),
    Example(q.Ack("emails", encode_ranges(RANGES))),
    Example(q.Settled(4, b""), "ACK"),
    Example(q.Nack("emails", q.Outcome.RETRY, None, "ValueError: no address", encode_ranges(RANGES))),
    Example(q.Settled(3, encode_ranges(RANGES[1:])), "NACK"),
    Example(q.Extend("emails", 60_000, encode_ranges(RANGES))),
    Example(q.Settled(4, b""), "EXTEND"),
    Example(q.Consume("emails", 1, 10, 30_000, 0, False, (2**62 + 1).to_bytes(8, "little"))),
    Example(s.Done(), "CONSUME"),
    Example(q.Credit(1, 5)),
    Example(q.Stop(1)),
    Example(s.Done(), "STOP"),
    Example(q.Deliver(1, 1, DELIVERY)),
    Example(t.Produce("clicks", 2, None, RICH_BATCH)),
    Example(q.Confirm(2, 40, 3, True, "interval", 140, TIME, LOG), "PRODUCE"),
    Example(t.Fetch("clicks", 2, 40, 500, 1_048_576, 0)),
    Example(t.Fetched(1, 0, 43, 103, DELIVERY), "FETCH"),
    Example(
        OffsetOutOfRange("clicks/2 begins at 40", hint="read from there", detail={"start": 40, "end": 43}),
        "FETCH",
    ),
    Example(t.Commit("audit", "clicks", ((0, 17, ""), (2, 43, "nightly")), None, 0)),
    Example(s.Done(), "COMMIT"),
    Example(t.Offsets("audit", "clicks")),
    Example(s.Document(pack_document([[0, 17, "", TIME], [2, 43, "nightly", TIME]])), "OFFSETS"),
    Example(
        g.Join("audit", MEMBER, ("clicks", "eu.*"), "sticky", "audit-1", pack_document({"clicks": [0, 2]}))
    ),
    Example(s.Document(pack_document(ASSIGNMENT)), "JOIN"),
    Example(g.Heartbeat("audit", MEMBER, (1 << 32) + 2, (1 << 32) + 1)),
    Example(s.Document(pack_document({**ASSIGNMENT, "partitions": None})), "HEARTBEAT"),
    Example(g.Leave("audit", MEMBER)),
    Example(s.Done(), "LEAVE"),
    Example(g.DeleteGroup("audit")),
    Example(s.Done(), "DELETE_GROUP"),
    Example(t.Offset("clicks", 2, t.At.TIME, TIME)),
    Example(t.OffsetReply(41), "OFFSET"),
    Example(q.CreateQueue("emails", SETTINGS, "check")),
    Example(s.Document(pack_document({"name": "emails"})), "CREATE_QUEUE"),
    Example(q.AlterQueue("emails", {"max_attempts": 7})),
    Example(s.Document(pack_document({"name": "emails"})), "ALTER_QUEUE"),
    Example(q.DeleteQueue("emails")),
    Example(s.Done(), "DELETE_QUEUE"),
    Example(q.ListQueues("e", "", 1000)),
    Example(s.Document(pack_document([{"name": "emails"}])), "LIST_QUEUES"),
    Example(q.DescribeQueue("emails")),
    Example(s.Document(pack_document({"name": "emails", "ready": 3})), "DESCRIBE_QUEUE"),
    Example(q.Purge("emails")),
    Example(s.Document(pack_document({"purged": 3})), "PURGE"),
    Example(q.Peek("emails", 10, "ready")),
    Example(q.Delivery(0, b""), "PEEK"),
    Example(t.CreateTopic("clicks", {"partitions": 4}, "keep")),
    Example(s.Document(pack_document({"name": "clicks"})), "CREATE_TOPIC"),
    Example(t.AlterTopic("clicks", {"retention": None})),
    Example(s.Document(pack_document({"name": "clicks"})), "ALTER_TOPIC"),
    Example(t.DeleteTopic("clicks")),
    Example(s.Done(), "DELETE_TOPIC"),
    Example(t.ListTopics("", "clicks", 10)),
    Example(s.Document(pack_document([])), "LIST_TOPICS"),
    Example(t.DescribeTopic("clicks")),
    Example(s.Document(pack_document({"name": "clicks", "partitions": 4})), "DESCRIBE_TOPIC"),
    Example(t.ListGroups("", "", 10)),
    Example(s.Document(pack_document(["audit"])), "LIST_GROUPS"),
    Example(t.DescribeGroup("audit")),
    Example(s.Document(pack_document([["clicks", 2, 43, 43, 0, 0.0, None]])), "DESCRIBE_GROUP"),
    Example(
        t.Fetch("clicks", 2, 40, 500, 1_048_576, 20_000, {"key": "eu.*", "header:a": 1}),
        what="with conditions",
    ),
    Example(t.Fetch("clicks", 2, 40, 500, 1_048_576, 20_000, None, True), what="in parts"),
    Example(t.Fetched(1, 0, 43, 103, DELIVERY), "FETCH", "a part", is_last=False),
    Example(t.OpenProducer("orders-writer")),
    Example(
        s.Document(pack_document({"name": "orders-writer", "producer_id": 2**62 | 5 << 20 | 1, "epoch": 1})),
        "OPEN_PRODUCER",
    ),
    Example(t.OpenProducer("orders-writer", True), what="again"),
    Example(t.ListProducers("", "", 10)),
    Example(s.Document(pack_document({"items": [], "more": False})), "LIST_PRODUCERS"),
    Example(t.DeleteProducer("orders-writer")),
    Example(s.Done(), "DELETE_PRODUCER"),
    Example(q.Enqueue("emails", OPTIONS_BATCH), what="with message options"),
    Example(
        q.Confirm(0, 103, 5, False, "fsync", len(OPTIONS_BATCH), TIME, LOG, encode_exceptions(EXCEPTIONS)),
        "ENQUEUE",
        "with exceptions",
    ),
    Example(Conflict("the job key is taken", hint="wait", detail={"offset": 90}), "ENQUEUE"),
    Example(q.Receive("emails", 10, 0, None, True), what="at most once"),
    Example(q.Delivery(1, _delivered(TRIED, TRIED_BATCH)), "RECEIVE", "of a message that failed"),
    Example(q.Consume("emails", 2, 10, None, 9, True, b""), what="of a priority, at most once"),
    Example(q.Checkpoint("emails", 60_000, ONE + b"page 3")),
    Example(q.Settled(1, b""), "CHECKPOINT"),
    Example(q.Reply("emails", "answers", ONE + RICH_BATCH)),
    Example(q.Settled(0, ONE), "REPLY"),
    Example(q.Resume("emails", "g")),
    Example(s.Document(pack_document({"resumed": True})), "RESUME"),
    Example(q.Reschedule("emails", LOG, 40, TIME)),
    Example(q.Reschedule("emails", LOG, 41, None), what="to purge it"),
    Example(s.Document(pack_document({"found": True})), "RESCHEDULE"),
    Example(
        q.Transfer("emails.dead", None, "ready", 1_000, 0, {"reason": "no address", "since": TIME}, True)
    ),
    Example(s.Document(pack_document({"messages": 2, "bytes": 104, "next": None})), "TRANSFER"),
    Example(q.Find("emails", 10, 0, {"header": "a", "value": 1})),
    Example(q.Found(1, ("held",), 101, _delivered(FOUND, TRIED_BATCH)), "FIND"),
    Example(q.Explain("emails", LOG, 40)),
    Example(
        s.Document(
            pack_document(
                {
                    "state": "delayed",
                    "reasons": ["it is delayed and due in 1.0 s"],
                    "facts": {"offset": 100, "failures": 0, "deliveries": 0, "enqueued_at": TIME},
                    "attempts": [],
                    "story": [[TIME, "enqueued", "emails"]],
                }
            )
        ),
        "EXPLAIN",
    ),
    Example(c.CreateSchedule("nightly", "emails", {"cron": "0 3 * * *", "zone": "UTC"}, "check", RICH_ONE)),
    Example(s.Document(pack_document({"name": "nightly", "next": [TIME]})), "CREATE_SCHEDULE"),
    Example(c.AlterSchedule("nightly", {"paused": True})),
    Example(s.Document(pack_document({"name": "nightly", "next": []})), "ALTER_SCHEDULE"),
    Example(c.DeleteSchedule("nightly")),
    Example(s.Done(), "DELETE_SCHEDULE"),
    Example(c.ListSchedules("n", "", 10, 3)),
    Example(s.Document(pack_document({"items": [], "more": False})), "LIST_SCHEDULES"),
]
