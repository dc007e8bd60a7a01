"""The bytes shown in the wire specification are what the package reads and writes."""

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.format.examples import BODIES, LZ4_BODIES

from penstock.murmur2 import murmur2, partition_of
from penstock_protocol import verbs
from penstock_protocol.batch import LZ4, BatchBuilder, BatchView, Kind, OnConflict
from penstock_protocol.cuts import cut, picked
from penstock_protocol.errors import Error, NotFound
from penstock_protocol.link import Link, Role, State
from penstock_protocol.messages.queues import (
    Ack,
    Checkpoint,
    Confirm,
    Delivery,
    Enqueue,
    Nack,
    Outcome,
    Receive,
    Reply,
    Settled,
)
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import MAGIC, Document, Hello, Ping, Pong, Welcome
from penstock_protocol.messages.topics import Commit, Fetch, Fetched
from penstock_protocol.slices import (
    Exceptional,
    Range,
    Slice,
    Status,
    decode_exceptions,
    decode_slices,
    encode_exceptions,
    encode_ranges,
    encode_slice,
)

SPECIFICATION = Path(__file__).parents[2] / "protocol/penstock_protocol/README.md"
TEXT = SPECIFICATION.read_text("utf-8")
EXAMPLES = {
    name: bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))
    for name, block in re.findall(r"^```hex (\S+)\n(.*?)^```", TEXT, flags=re.M | re.S)
}

PRODUCER_ID = 0x1122334455667788
TIME = 1_767_225_600_000
LOG = bytes.fromhex("6f1d2c3b4a59487796a5b4c3d2e1f00f")
TOKEN = (1 << 36) + 1


def plain_batch() -> bytes:
    builder = BatchBuilder()
    builder.extend([b"hello", b"hi"])
    return builder.encode(PRODUCER_ID, 0)


def batch_with_columns() -> bytes:
    builder = BatchBuilder()
    headers = msgpack.packb({"v": 1})
    builder.add(b"\1\2", [(Kind.KEY, msgpack.packb(b"a")), (Kind.HEADERS, headers)])
    builder.add(b"", [(Kind.KEY, msgpack.packb(b"b")), (Kind.ABSENT, 1)])
    return builder.encode()


def sparse_batch() -> bytes:
    builder = BatchBuilder()
    builder.extend([b"hello", b"hey", b"hi"])
    return bytes(picked(BatchView(builder.encode()), [0, 2]))


def lz4_batch() -> bytes:
    builder = BatchBuilder()
    builder.extend(BODIES)
    return builder.encode(0, 0, LZ4, lambda _: LZ4_BODIES)


def batch_with_options() -> bytes:
    builder = BatchBuilder()
    key = (Kind.JOB_KEY, msgpack.packb("report"))
    builder.add(b"run", [(Kind.PRIORITY, 9), key])
    builder.add(b"run", [(Kind.DELAY, 60_000), key, (Kind.ON_CONFLICT, OnConflict.KEEP)])
    return builder.encode()


def answer() -> bytes:
    builder = BatchBuilder()
    builder.add(b"done", [(Kind.CORRELATION_ID, msgpack.packb("c-1"))])
    return builder.encode()


STAMPS = Slice(TOKEN, 0, 0, TIME, LOG, 30_000, 0, 2, 1, 1, 0, len(plain_batch()))
DELIVERED = encode_slice(STAMPS, BatchView(plain_batch()).crc) + plain_batch()
RECORD_STAMPS = Slice(0, 0, 0, TIME, LOG, 0, 0, 2, 1, 0, 0, len(batch_with_columns()))
FETCHED = encode_slice(RECORD_STAMPS, BatchView(batch_with_columns()).crc) + batch_with_columns()
FIRST = encode_ranges([Range(TOKEN, 0, 0, 1)])
THIRD = encode_ranges([Range(TOKEN + 1, 2, 0, 1)])
SECOND_KEPT = [Exceptional(1, Status.DUPLICATE, 2)]
NODE = bytes.fromhex("0c9d8e7f1a2b4c3d8e5f60718293a4b5")
LIMITS = {
    "frame_bytes": 8_388_608,
    "batch_bytes": 1_048_576,
    "batch_count": 10_000,
    "message_bytes": 1_048_576,
    "requests": 4_096,
    "session_grace_ms": 10_000,
    "ping_ms": 30_000,
}

REQUESTS: dict[str, tuple[int, Any]] = {
    "hello": (1, Hello(MAGIC, 1, 1, bytes(range(16)), PRODUCER_ID, "demo", None)),
    "ping": (1, Ping()),
    "enqueue": (2, Enqueue("emails", plain_batch())),
    "receive": (3, Receive("emails", 10, 20_000)),
    "ack": (4, Ack("emails", encode_ranges([Range(TOKEN, 0, 0, 2)]))),
    "nack": (6, Nack("emails", Outcome.RETRY, None, "timeout", FIRST)),
    "fetch": (7, Fetch("orders", 0, 0, 100, 65_536, 1_000)),
    "commit": (8, Commit("billing", "orders", ((0, 2, ""),))),
    "enqueue-options": (10, Enqueue("emails", batch_with_options())),
    "checkpoint": (11, Checkpoint("emails", 30_000, THIRD + b"page 3")),
    "reply": (12, Reply("emails", "answers", THIRD + answer())),
}
"""Example → correlation and message."""

REPLIES: dict[str, tuple[str, int, Any]] = {
    "welcome": ("HELLO", 1, Welcome(1, "penstock", NODE, 1, False, 4_194_304, TIME, LIMITS)),
    "pong": ("PING", 1, Pong(TIME)),
    "refused": ("RECEIVE", 5, NotFound("no queue 'mails'", hint="create it: penstock queue create mails")),
    "confirm": ("ENQUEUE", 2, Confirm(0, 0, 2, False, "fsync", len(plain_batch()), TIME, LOG)),
    "confirm-exceptions": (
        "ENQUEUE",
        10,
        Confirm(
            0, 2, 2, False, "fsync", len(batch_with_options()), TIME, LOG, encode_exceptions(SECOND_KEPT)
        ),
    ),
    "delivery": ("RECEIVE", 3, Delivery(1, DELIVERED)),
    "settled": ("ACK", 4, Settled(2, b"")),
    "settled-stale": ("NACK", 6, Settled(0, FIRST)),
    "fetched": ("FETCH", 7, Fetched(1, 0, 2, 2, FETCHED)),
    "committed": ("OFFSETS", 9, Document(pack_document([[0, 2, "", TIME]]))),
}
"""Example → verb, correlation and message."""

BATCHES = {
    "batch-plain": plain_batch(),
    "batch-columns": batch_with_columns(),
    "batch-sparse": sparse_batch(),
    "batch-options": batch_with_options(),
    "batch-lz4": lz4_batch(),
    "batch-lz4-cut": bytes(cut(BatchView(lz4_batch()), 2, 1)),
}
VERBS = {verb.name: verb for verb in verbs.VERBS}


def opened(role: Role) -> Link:
    link = Link(role)
    link.state = State.OPEN
    return link


def test_every_example_is_checked_here() -> None:
    assert EXAMPLES.keys() == REQUESTS.keys() | REPLIES.keys() | BATCHES.keys()


@pytest.mark.parametrize("name", REQUESTS)
def test_request_is_written_as_shown(name: str) -> None:
    correlation, message = REQUESTS[name]
    assert b"".join(Link(Role.CLIENT).request(message, correlation)) == EXAMPLES[name]


@pytest.mark.parametrize("name", REQUESTS)
def test_request_is_read_as_shown(name: str) -> None:
    link = Link(Role.SERVER) if name == "hello" else opened(Role.SERVER)
    (received,) = link.receive(EXAMPLES[name])
    assert (received.correlation, received.message) == REQUESTS[name]
    assert not received.is_reply


@pytest.mark.parametrize("name", REPLIES)
def test_reply_is_written_as_shown(name: str) -> None:
    verb, correlation, message = REPLIES[name]
    assert b"".join(Link(Role.SERVER).reply(VERBS[verb], correlation, message)) == EXAMPLES[name]


@pytest.mark.parametrize("name", REPLIES)
def test_reply_is_read_as_shown(name: str) -> None:
    link = Link(Role.CLIENT) if name == "welcome" else opened(Role.CLIENT)
    (received,) = link.receive(EXAMPLES[name])
    verb, correlation, message = REPLIES[name]
    assert (received.verb.name, received.correlation, received.is_reply) == (verb, correlation, True)
    if isinstance(message, Error):
        assert type(received.message) is type(message)
        assert vars(received.message) == vars(message)
    else:
        assert received.message == message


@pytest.mark.parametrize("name", BATCHES)
def test_batch_is_written_as_shown(name: str) -> None:
    assert BATCHES[name] == EXAMPLES[name]


@pytest.mark.parametrize("name", BATCHES)
def test_batch_is_read_as_shown(name: str) -> None:
    view = BatchView(EXAMPLES[name])
    if not view.sparse and view.column(Kind.START) is None:
        view.check(1024)
    assert view.count == {"batch-lz4": 3, "batch-lz4-cut": 1}.get(name, 2)
    assert view.length == len(EXAMPLES[name])


def test_columns_of_the_example_say_what_the_text_says() -> None:
    view = BatchView(EXAMPLES["batch-columns"])
    assert [msgpack.unpackb(cell) for cell in view.cells(Kind.KEY) or []] == [b"a", b"b"]
    headers, nothing = view.cells(Kind.HEADERS) or []
    assert (msgpack.unpackb(headers), len(nothing)) == ({"v": 1}, 0)
    assert view.integers(Kind.ABSENT) == [0, 1]
    assert bytes(view.bodies()) == b"\1\2"


def test_options_of_the_example_say_what_the_text_says() -> None:
    view = BatchView(EXAMPLES["batch-options"])
    assert (view.integers(Kind.DELAY), view.integers(Kind.PRIORITY)) == ([0, 60_000], [9, 0])
    assert [msgpack.unpackb(cell) for cell in view.cells(Kind.JOB_KEY) or []] == ["report", "report"]
    assert view.integers(Kind.ON_CONFLICT) == [OnConflict.REJECT, OnConflict.KEEP]


def test_exception_of_the_example_says_what_the_text_says() -> None:
    (received,) = opened(Role.CLIENT).receive(EXAMPLES["confirm-exceptions"])
    assert decode_exceptions(received.message.payload) == SECOND_KEPT


@pytest.mark.parametrize(
    ("name", "expected", "of"),
    [("delivery", STAMPS, "batch-plain"), ("fetched", RECORD_STAMPS, "batch-columns")],
)
def test_delivery_of_the_example_holds_the_batch_of_the_example(name: str, expected: Slice, of: str) -> None:
    (received,) = opened(Role.CLIENT).receive(EXAMPLES[name])
    ((stamps, batch),) = decode_slices(received.message.payload, received.message.slices)
    assert stamps == expected
    assert bytes(batch) == EXAMPLES[of]


def test_keys_of_the_partition_table_land_where_it_says() -> None:
    table = re.findall(r"^\| `(\S+)` \| (\d+) \| (\d+) \|$", TEXT, flags=re.M)
    assert len(table) == 5
    for key, hashed, partition in table:
        assert murmur2(key.encode()) == int(hashed)
        assert partition_of(key.encode(), 12) == int(partition)
