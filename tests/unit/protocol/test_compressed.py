"""Compressed batches: a part of one is the same messages, what is said of them fits, and nothing is decoded.

The protocol does not know what compresses; zlib stands in for it here.
"""

import zlib
from collections.abc import Sequence

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.protocol.test_batch import Message, built, cuts, messages_strategy, picks, read, tampered

from penstock_protocol.batch import (
    COLUMN,
    LZ4,
    SPARSE,
    ZSTD,
    BatchBuilder,
    BatchView,
    Kind,
    is_sparse,
    renumbered,
    sealed,
    to_u32,
)
from penstock_protocol.cuts import cut, picked, with_cells
from penstock_protocol.errors import Invalid, TooLarge
from penstock_protocol.limits import COMPRESSION_RATIO_MAX, INFLATED_BYTES_MAX, MESSAGE_BYTES_MAX_DEFAULT

TALL = [Message(b"north " * 9, key=b"k", headers={"a": 1}), Message(b""), Message(b"south " * 9, key=b"l")]
TALL += [Message(b"", key=b"k", absent=1), Message(b"east " * 9, timestamp=7)]


def squeezed(messages: Sequence[Message], codec: int = LZ4) -> BatchView:
    """A batch whose bodies are compressed, however much larger that makes them."""
    bodies = b"".join(message.body for message in messages)
    builder = built([message._replace(body=b"") for message in messages])
    plain = BatchView(built(list(messages)).encode())
    view = BatchView(builder.encode())
    at = view.ends_at
    ends = plain.view[plain.ends_at : plain.ends_at + 4 * plain.count]
    head = bytes(view.view[32:at]) + bytes(ends) + bytes(view.view[at + 4 * view.count :])
    data = sealed(view.count, len(view.column_table), 5, 6, [head, zlib.compress(bodies)], codec, len(bodies))
    return BatchView(data)


def inflated(view: BatchView) -> BatchView:
    """The same messages in a batch that is not compressed, as a reader makes it of START and ends."""
    assert view.codec
    bodies = zlib.decompress(view.bodies())
    assert len(bodies) == view.inflated
    ends = view.ends()
    starts = view.integers(Kind.START) or [0, *ends[:-1]]
    lengths = [end - before for before, end in zip([0, *ends], ends, strict=False)]
    builder = BatchBuilder()
    kinds = (Kind.KEY, Kind.HEADERS, Kind.TIMESTAMP, Kind.ABSENT)
    columns = {kind: view.cells(kind) if kind < Kind.TIMESTAMP else view.integers(kind) for kind in kinds}
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        values = [(kind, column[i]) for kind, column in columns.items() if column and column[i]]
        cells = [(kind, value if isinstance(value, int) else bytes(value)) for kind, value in values]
        builder.add(bodies[start : start + length], cells)
    return BatchView(builder.encode())


some_messages = messages_strategy.filter(lambda messages: any(message.body for message in messages))


# What is said of it


@pytest.mark.parametrize("codec", [LZ4, ZSTD])
def test_bodies_are_compressed_and_nothing_else_is(codec: int) -> None:
    builder = built(TALL)
    view = BatchView(builder.encode(7, 3, codec, zlib.compress))
    view.check(MESSAGE_BYTES_MAX_DEFAULT)
    plain = BatchView(builder.encode(7, 3))
    assert (view.codec, view.inflated) == (codec, len(plain.bodies()))
    assert (view.producer_id, view.sequence, view.sparse) == (7, 3, False)
    assert view.ends() == plain.ends()
    assert view.view[32 : view.bodies_at] == plain.view[32 : plain.bodies_at]
    assert zlib.decompress(view.bodies()) == plain.bodies()
    assert (plain.codec, plain.inflated) == (0, 0)


@pytest.mark.parametrize(
    "bodies",
    [[b"x"], [b""], [bytes(COMPRESSION_RATIO_MAX * 2_000)], [bytes(INFLATED_BYTES_MAX + 1)]],
    ids=["no smaller", "nothing", "smaller beyond all measure", "larger than a reader takes"],
)
def test_batch_that_is_better_sent_as_it_is_is(bodies: list[bytes]) -> None:
    builder = BatchBuilder()
    builder.extend(bodies)
    assert builder.encode(1, 2, LZ4, zlib.compress) == builder.encode(1, 2)


def test_batch_within_all_measure_is_compressed() -> None:
    builder = BatchBuilder()
    builder.extend([b"x" * 500_000])
    view = BatchView(builder.encode(1, 2, LZ4, zlib.compress))
    assert view.codec
    view.check(MESSAGE_BYTES_MAX_DEFAULT)


def test_renumbered_compressed_batch_stays_compressed() -> None:
    before = squeezed(TALL, ZSTD)
    view = BatchView(renumbered(bytes(before.view), 8, 9))
    assert (view.codec, view.inflated, view.producer_id, view.sequence) == (ZSTD, before.inflated, 8, 9)
    assert read(inflated(view)) == TALL


def test_cells_added_to_a_compressed_batch_leave_it_compressed() -> None:
    part = BatchView(cut(squeezed(TALL), 2, 2))
    view = BatchView(with_cells(part, Kind.HISTORY, [msgpack.packb({}), b""]))
    assert [bytes(cell) for cell in view.cells(Kind.HISTORY) or ()] == [b"\x80", b""]
    assert read(inflated(view)) == TALL[2:4]


# Parts


@given(some_messages, st.data())
def test_cut_of_a_cut_of_a_compressed_batch_is_the_same_messages(
    messages: list[Message], data: st.DataObject
) -> None:
    for view, expected in cuts(squeezed(messages), messages, data):
        assert read(inflated(view)) == expected
        assert (view.producer_id, view.sequence, view.codec) == (5, 6, LZ4)


@given(some_messages, st.data())
def test_picked_messages_of_a_compressed_batch_are_the_same_and_keep_their_offsets(
    messages: list[Message], data: st.DataObject
) -> None:
    for view, expected in picks(squeezed(messages, ZSTD), messages, data):
        span = max(expected) - min(expected)
        assert is_sparse(view.view) == view.sparse == (span >= len(expected))
        assert read(inflated(view)) == list(expected.values())


def test_part_of_a_compressed_batch_has_its_bytes_as_they_are() -> None:
    whole = squeezed(TALL)
    part = BatchView(picked(whole, [0, 2, 4]))
    assert part.bodies() == whole.bodies()
    assert (part.integers(Kind.START), part.ends()) == ([0, 54, 108], [54, 108, 153])
    assert cut(whole, 0, len(TALL)) is whole.view


# What is refused


def test_part_of_a_compressed_batch_cannot_be_published() -> None:
    with pytest.raises(Invalid, match="only a broker adds"):
        BatchView(cut(squeezed(TALL), 1, 3)).check(MESSAGE_BYTES_MAX_DEFAULT)


FAULTS = {
    "two codecs": (9, "B", LZ4 | ZSTD),
    "a codec nobody knows": (9, "B", 8),
    "a size before compression without a codec": (9, "B", 0),
    "a codec without a size before compression": (28, "I", 0),
    "sparse without deltas": (9, "B", LZ4 | SPARSE),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_header_that_contradicts_itself_is_refused(fault: tuple[int, str, int]) -> None:
    with pytest.raises(Invalid):
        BatchView(tampered(bytes(squeezed(TALL).view), *fault))


@pytest.mark.parametrize(("codec", "starts"), [(0, [0, 0]), (LZ4, [0, 5])], ids=["of nothing", "behind it"])
def test_starts_that_make_no_sense_are_refused(codec: int, starts: list[int]) -> None:
    tail = COLUMN.pack(Kind.START, 4, 0, 8) + to_u32([1, 4]) + to_u32(starts) + b"abcd"
    with pytest.raises(Invalid, match="start behind"):
        BatchView(sealed(2, 1, 0, 0, [tail], codec, 4 if codec else 0))


def of_size(size: int, compressed: int = 100, ends: Sequence[int] = ()) -> BatchView:
    """A batch that says it inflates to `size` bytes, and has `compressed` bytes of bodies."""
    ends = ends or [size]
    tail = to_u32(ends) + bytes(compressed)
    return BatchView(sealed(len(ends), 0, 0, 0, [tail], LZ4, size))


def test_compressed_batch_must_inflate_to_what_its_ends_say() -> None:
    of_size(200).check(200)
    with pytest.raises(Invalid, match="do not add up"):
        of_size(200, ends=[199]).check(200)


def test_compressed_batch_must_be_smaller_than_it_was() -> None:
    of_size(101).check(200)
    with pytest.raises(Invalid, match="send such a batch as it is"):
        of_size(100).check(200)


def test_compressed_batch_must_not_inflate_beyond_the_ratio() -> None:
    most = COMPRESSION_RATIO_MAX * (32 + 4 + 100)
    of_size(most).check(most)
    with pytest.raises(Invalid, match=r"more than 1,000 times"):
        of_size(most + 1).check(most + 1)


def test_compressed_batch_must_not_inflate_beyond_what_a_reader_takes() -> None:
    half = INFLATED_BYTES_MAX // 2
    of_size(2 * half, 10_000, [half, 2 * half]).check(half)
    with pytest.raises(TooLarge, match=r"inflate to 8,388,609 bytes"):
        of_size(2 * half + 1, 10_000, [half, 2 * half + 1]).check(2 * half)


@pytest.mark.parametrize("ends", [[1_001], [0, 1_001], [500, 1_501]], ids=["one", "first", "behind another"])
def test_message_above_the_limit_is_too_large_before_it_is_inflated(ends: list[int]) -> None:
    of_size(ends[-1], 100, ends).check(1_001)
    with pytest.raises(TooLarge, match=r"message of 1,001 bytes; the limit is 1,000"):
        of_size(ends[-1], 100, ends).check(1_000)


def test_any_byte_of_a_compressed_batch_may_be_anything_and_is_refused_or_can_be_cut() -> None:
    data = bytes(squeezed(TALL).view)
    for position in range(len(data)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, data[position] ^ 1, data[position] + 1 & 0xFF):
            try:
                view = BatchView(tampered(data, position, "B", value))
                view.check(MESSAGE_BYTES_MAX_DEFAULT)
            except (Invalid, TooLarge):
                continue
            assert view.ends()[-1] == (view.inflated or len(view.bodies()))
            for first in range(view.count):
                part = BatchView(cut(view, first, 1))
                assert part.bodies() == view.bodies() or not view.codec
