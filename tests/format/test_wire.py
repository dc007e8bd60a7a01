"""The bytes of the wire are those of `wire.txt`, in both directions."""

import msgpack
import pytest
from tests.format.examples import (
    BATCHES,
    BODIES,
    CORRELATION,
    DELIVERY,
    EXAMPLES,
    EXCEPTIONS,
    LZ4_BODIES,
    OPTIONS_BATCH,
    PLAIN_BATCH,
    RANGES,
    RICH_BATCH,
    SLICE,
    TIME,
    TRIED_BATCH,
    ZSTD_BODIES,
    Example,
    buffers,
)
from tests.format.golden import WIRE, pieces, read

from penstock.compression import inflated
from penstock_protocol.batch import (
    BROKERS,
    HEADER_BYTES,
    BatchView,
    Kind,
    OnConflict,
    renumbered,
    sealed,
)
from penstock_protocol.errors import Error, Invalid
from penstock_protocol.frame import HEADER, FrameDecoder
from penstock_protocol.limits import FRAME_BYTES_MAX
from penstock_protocol.link import Link, Received, Role, State
from penstock_protocol.messages.session import Hello, Welcome
from penstock_protocol.slices import EXCEPTION_BYTES, decode_exceptions, decode_ranges, decode_slices
from penstock_protocol.verbs import VERBS

GOLDEN = read(WIRE)
PIECES = {title: data for title, data, _ in pieces()}


def received(example: Example, data: bytes) -> Received:
    """What the other side makes of it."""
    from_broker = example.to or example.verb.pushed
    link = Link(Role.CLIENT if from_broker else Role.SERVER)
    if not isinstance(example.message, (Hello, Welcome)):
        link.state = State.OPEN
    (found,) = link.receive(data)
    return found


def test_golden_file_holds_every_piece_and_nothing_else() -> None:
    assert GOLDEN.keys() == PIECES.keys()


@pytest.mark.parametrize("title", PIECES)
def test_encoding_gives_the_golden_bytes(title: str) -> None:
    assert PIECES[title].hex(" ") == GOLDEN[title].hex(" ")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_golden_bytes_decode_to_the_message(example: Example) -> None:
    found = received(example, GOLDEN[example.name])
    assert found.verb == example.verb
    assert found.correlation == (0 if example.verb.pushed else CORRELATION)
    assert (found.is_reply, found.is_last) == (bool(example.to), example.is_last)
    if example.is_error:
        assert isinstance(found.message, Error)
        assert isinstance(found.message, type(example.message))
        assert vars(found.message) == vars(example.message)
    else:
        assert found.message == example.message


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_golden_frame_is_one_whole_frame(example: Example) -> None:
    (frame,) = FrameDecoder(FRAME_BYTES_MAX).feed(GOLDEN[example.name])
    assert frame.verb == example.verb.code
    assert b"".join(buffers(example)) == GOLDEN[example.name]


def test_every_verb_has_an_example_of_its_request_and_of_its_reply() -> None:
    asked = {example.verb.name for example in EXAMPLES if not example.to}
    answered = {example.to for example in EXAMPLES if example.to and not example.is_error}
    assert asked == {verb.name for verb in VERBS}
    assert answered == {verb.name for verb in VERBS if verb.reply}


def test_golden_frame_header_decodes() -> None:
    assert HEADER.unpack(GOLDEN["frame header"]) == (27, CORRELATION, 5, 16, 3, 0)


@pytest.mark.parametrize("title", BATCHES)
def test_golden_batch_decodes(title: str) -> None:
    view = BatchView(GOLDEN[f"batch {title}"])
    if not view.sparse and not any(column.kind in BROKERS for column in view.column_table):
        view.check(100)
    assert view.view == BATCHES[title]


def test_golden_sparse_batch_says_which_offsets_it_has() -> None:
    view = BatchView(GOLDEN["batch sparse, without its second message"])
    assert (view.count, list(view.deltas)) == (2, [0, 2])


@pytest.mark.parametrize("title", ["of lz4", "of zstd"])
def test_golden_compressed_batch_says_what_it_holds(title: str) -> None:
    view = BatchView(GOLDEN[f"batch {title}"])
    view.check(30)
    assert (view.ends(), view.inflated) == ([30, 30, 60], 60)
    assert [bytes(cell) for cell in view.cells(Kind.KEY) or ()] == [b"\xc4\x01n", b"\xc4\x00", b"\xc4\x01s"]
    assert inflated(view, SLICE) == b"".join(BODIES)
    assert renumbered(bytes(view.view), 7, 3) == view.view


def test_golden_parts_of_compressed_batches_say_where_their_bodies_begin() -> None:
    last = BatchView(GOLDEN["batch of lz4, its last two messages"])
    assert (last.integers(Kind.START), last.ends(), last.bodies()) == ([30, 30], [0, 30], LZ4_BODIES)
    outer = BatchView(GOLDEN["batch of zstd, without its second message"])
    assert (outer.integers(Kind.START), outer.ends(), outer.bodies()) == ([0, 30], [30, 60], ZSTD_BODIES)
    assert list(outer.deltas) == [0, 2]


def test_golden_plain_batch_says_what_it_holds() -> None:
    view = BatchView(GOLDEN["batch plain, of producer 7, sequence 3"])
    assert (view.count, view.producer_id, view.sequence) == (3, 7, 3)
    assert (view.ends(), bytes(view.bodies())) == ([3, 3, 8], b"onethree")
    assert renumbered(bytes(view.view), 7, 3) == PLAIN_BATCH


def test_golden_rich_batch_says_what_it_holds() -> None:
    view = BatchView(GOLDEN["batch with every column in use"])
    assert [bytes(cell) for cell in view.cells(Kind.KEY) or ()] == [b"\xc4\x01k", b"", b"\xc4\x00"]
    assert [bytes(cell) for cell in view.cells(Kind.HEADERS) or ()] == [b"\x81\xa1a\x01", b"", b""]
    assert view.integers(Kind.TIMESTAMP) == [0, 1_700_000_000_000, 0]
    assert view.integers(Kind.ABSENT) == [0, 0, 1]
    assert sealed(3, 4, 0, 0, [view.view[HEADER_BYTES:]]) == RICH_BATCH


def test_golden_batch_with_options_says_what_it_holds() -> None:
    view = BatchView(GOLDEN["batch with every message option"])
    labels = {
        kind: [cell and msgpack.unpackb(cell) for cell in map(bytes, view.cells(kind) or ())]
        for kind in (Kind.MESSAGE_GROUP, Kind.DEDUP_ID, Kind.REPLY_TO, Kind.CORRELATION_ID)
    }
    assert labels == {
        Kind.MESSAGE_GROUP: [b"", "g", "g", b"", b""],
        Kind.DEDUP_ID: [b"", "d", "d", b"", b""],
        Kind.REPLY_TO: [b"", b"", b"", "answers", b""],
        Kind.CORRELATION_ID: [b"", b"", b"", "c-1", b""],
    }
    assert view.integers(Kind.DELAY) == [1_000, 0, 0, 0, 0]
    assert view.integers(Kind.TTL) == [60_000, 0, 0, 0, 0]
    assert view.integers(Kind.PRIORITY) == [9, 0, 0, 0, 0]
    assert view.integers(Kind.AT) == [0, 0, 0, 0, TIME]
    assert view.integers(Kind.ON_CONFLICT) == [0, 0, 0, 0, OnConflict.REPLACE]
    assert sealed(5, 11, 0, 0, [view.view[HEADER_BYTES:]]) == OPTIONS_BATCH


def test_golden_batch_that_failed_says_so_and_nobody_may_publish_it() -> None:
    view = BatchView(GOLDEN["batch of a message that failed once, with history and checkpoint"])
    assert view.view == TRIED_BATCH
    (history,) = view.cells(Kind.HISTORY) or [memoryview(b"")]
    (checkpoint,) = view.cells(Kind.CHECKPOINT) or [memoryview(b"")]
    assert msgpack.unpackb(history)["attempts"][0][3:] == ["nacked", "no address"]
    assert (msgpack.unpackb(checkpoint), bytes(view.bodies())) == (b"page 3", b"one")
    with pytest.raises(Invalid, match="only a broker adds"):
        view.check(100)


def test_golden_exceptions_decode() -> None:
    confirm = GOLDEN["Confirm to ENQUEUE, with exceptions"]
    assert decode_exceptions(confirm[-2 * EXCEPTION_BYTES :]) == EXCEPTIONS


def test_golden_slice_and_its_batch_decode() -> None:
    delivery = GOLDEN["Delivery to RECEIVE"][-len(DELIVERY) :]
    assert decode_slices(memoryview(delivery), 1) == [(SLICE, memoryview(PLAIN_BATCH))]


def test_golden_ranges_decode() -> None:
    assert decode_ranges(memoryview(GOLDEN["ranges"])) == RANGES
