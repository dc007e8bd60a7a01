"""Batches: what goes in comes out, a cut is the same messages, and nothing malformed gets in."""

from collections.abc import Iterator
from struct import pack_into
from typing import NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_protocol import batch
from penstock_protocol.batch import (
    COLUMN,
    COLUMN_BYTES,
    HEADER_BYTES,
    SPARSE,
    BatchBuilder,
    BatchView,
    Kind,
    from_u32,
    renumbered,
    sealed,
    to_u32,
)
from penstock_protocol.checksum import crc32
from penstock_protocol.cuts import cut, picked
from penstock_protocol.errors import Invalid, Refused, TooLarge
from penstock_protocol.limits import (
    BATCH_BYTES_MAX,
    BATCH_COLUMNS_MAX,
    BATCH_COUNT_MAX,
    BATCH_OVERHEAD_BYTES_MAX,
    MESSAGE_BYTES_MAX_DEFAULT,
)


class Message(NamedTuple):
    body: bytes
    key: bytes | None = None
    headers: dict[str, object] | None = None
    timestamp: int = 0
    absent: int = 0


def built(messages: list[Message]) -> BatchBuilder:
    builder = BatchBuilder()
    for message in messages:
        cells: list[tuple[Kind, bytes | int]] = []
        if message.key is not None:
            cells.append((Kind.KEY, msgpack.packb(message.key)))
        if message.headers is not None:
            cells.append((Kind.HEADERS, msgpack.packb(message.headers)))
        if message.timestamp:
            cells.append((Kind.TIMESTAMP, message.timestamp))
        if message.absent:
            cells.append((Kind.ABSENT, message.absent))
        builder.add(message.body, cells)
    return builder


def read(view: BatchView) -> list[Message]:
    def unpacked(kind: Kind) -> list[object]:
        cells = view.cells(kind)
        return [msgpack.unpackb(cell) if cell else None for cell in cells] if cells else [None] * view.count

    ends, bodies = view.ends(), view.bodies()
    texts = [bytes(bodies[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    zeros = [0] * view.count
    numbers = [view.integers(kind) or zeros for kind in (Kind.TIMESTAMP, Kind.ABSENT)]
    columns = (texts, unpacked(Kind.KEY), unpacked(Kind.HEADERS), *numbers)
    return [Message(*fields) for fields in zip(*columns, strict=True)]


messages_strategy = st.lists(
    st.builds(
        lambda body, absent, **cells: Message(b"" if absent else body, absent=absent, **cells),
        body=st.binary(max_size=30),
        key=st.none() | st.binary(max_size=8),
        headers=st.none()
        | st.dictionaries(st.text(max_size=5), st.integers() | st.none(), max_size=3).map(
            lambda headers: {
                key: value for key, value in headers.items() if value is None or abs(value) < 2**63
            }
        ),
        timestamp=st.integers(0, 2**64 - 1),
        absent=st.integers(0, 1),
    ),
    min_size=1,
    max_size=12,
)
PLAIN = [Message(b"one"), Message(b""), Message(b"three")]
RICH = [
    Message(b"one", key=b"k", headers={"a": 1}),
    Message(b"two", timestamp=1_700_000_000_000),
    Message(b"", key=b"", absent=1),
]
SAMPLES = {"plain": PLAIN, "of one": [Message(b"x" * 40)], "with every column": RICH}
samples = pytest.mark.parametrize("messages", SAMPLES.values(), ids=SAMPLES)


def tampered(data: bytes, at: int, layout: str, value: int) -> bytes:
    """The batch with another number at one place, under a checksum that fits."""
    out = bytearray(data)
    pack_into("<" + layout, out, at, value)
    length = min(len(out), int.from_bytes(out[:4], "little"))
    out[4:8] = crc32(memoryview(out)[8:length]).to_bytes(4, "little")
    return bytes(out)


# what goes in comes out


@samples
def test_messages_come_out_as_they_went_in(messages: list[Message]) -> None:
    view = BatchView(built(messages).encode(7, 3))
    view.check(MESSAGE_BYTES_MAX_DEFAULT)
    assert read(view) == messages
    assert (view.count, view.producer_id, view.sequence) == (len(messages), 7, 3)


@given(messages_strategy, st.integers(1, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_any_messages_come_out_as_they_went_in(
    messages: list[Message], producer_id: int, sequence: int
) -> None:
    builder = built(messages)
    data = builder.encode(producer_id, sequence)
    view = BatchView(data)
    view.check(MESSAGE_BYTES_MAX_DEFAULT)
    assert read(view) == messages
    assert len(data) == view.length <= builder.size
    assert (view.producer_id, view.sequence) == (producer_id, sequence)


@given(messages_strategy)
def test_size_counted_while_adding_is_exact(messages: list[Message]) -> None:
    builder = built(messages)
    assert builder.size == len(builder.encode())
    assert len(builder) == len(messages)


def test_plain_messages_have_no_columns() -> None:
    data = built(PLAIN).encode()
    assert len(data) == HEADER_BYTES + 3 * 4 + len(b"onethree")
    assert BatchView(data).column_table == ()
    assert BatchView(data).cells(Kind.KEY) is None
    assert BatchView(data).integers(Kind.TIMESTAMP) is None


@pytest.mark.parametrize("before", [0, 2], ids=["alone", "behind messages with columns"])
def test_plain_messages_can_be_added_all_at_once(before: int) -> None:
    builder = built(RICH[:before])
    builder.extend([b"a", bytearray(b"bb"), memoryview(b"")])
    assert builder.size == len(builder.encode())
    view = BatchView(builder.encode())
    assert read(view) == [*RICH[:before], Message(b"a"), Message(b"bb"), Message(b"")]


def test_batch_ends_where_it_says_whatever_follows() -> None:
    data = built(RICH).encode()
    view = BatchView(data + b"what follows")
    assert view.length == len(view.view) == len(data)
    assert read(view) == RICH


def test_absent_cell_is_empty_and_an_empty_value_is_not() -> None:
    cells = BatchView(built(RICH).encode()).cells(Kind.KEY)
    assert cells is not None
    assert [bytes(cell) for cell in cells] == [b"\xc4\x01k", b"", b"\xc4\x00"]


def test_renumbered_batch_holds_the_same_messages() -> None:
    view = BatchView(renumbered(built(RICH).encode(1, 2), 8, 9))
    assert read(view) == RICH
    assert (view.producer_id, view.sequence) == (8, 9)


# cuts


def cuts(
    view: BatchView, messages: list[Message], data: st.DataObject
) -> Iterator[tuple[BatchView, list[Message]]]:
    """A cut, a cut of that and one of that again, each with the messages it has to hold."""
    for _ in range(3):
        first = data.draw(st.integers(0, len(messages) - 1))
        count = data.draw(st.integers(1, len(messages) - first))
        view, messages = BatchView(cut(view, first, count)), messages[first : first + count]
        yield view, messages


def picks(
    view: BatchView, messages: list[Message], data: st.DataObject
) -> Iterator[tuple[BatchView, dict[int, Message]]]:
    """The same of picked messages, which have to keep their offsets: by offset."""
    expected, first = dict(enumerate(messages)), 0
    for _ in range(3):
        chosen = data.draw(st.sets(st.integers(0, view.count - 1), min_size=1))
        offsets = [first + view.deltas[index] for index in sorted(chosen)]
        view = BatchView(picked(view, sorted(chosen)))
        first, expected = offsets[0], {offset: expected[offset] for offset in offsets}
        assert [first + delta for delta in view.deltas] == offsets
        yield view, expected


@given(messages_strategy, st.data())
def test_cut_of_a_cut_is_the_same_messages(messages: list[Message], data: st.DataObject) -> None:
    for view, expected in cuts(BatchView(built(messages).encode(5, 6)), messages, data):
        view.check(MESSAGE_BYTES_MAX_DEFAULT)
        assert read(view) == expected
        assert (view.producer_id, view.sequence) == (5, 6)


def test_cut_of_everything_is_the_batch_itself() -> None:
    view = BatchView(built(RICH).encode())
    assert cut(view, 0, 3) is view.view


# sparse


@given(messages_strategy, st.data())
def test_picked_messages_are_the_same_and_keep_their_offsets(
    messages: list[Message], data: st.DataObject
) -> None:
    for view, expected in picks(BatchView(built(messages).encode(5, 6)), messages, data):
        assert read(view) == list(expected.values())
        assert (view.producer_id, view.sequence) == (5, 6)


def test_picked_neighbours_are_a_cut() -> None:
    view = BatchView(built(RICH).encode(5, 6))
    assert picked(view, [1, 2]) == cut(view, 1, 2)
    assert not BatchView(picked(view, [1, 2])).sparse


def test_cut_of_a_sparse_batch_counts_from_its_own_first() -> None:
    sparse = BatchView(picked(BatchView(built(PLAIN * 3).encode()), [0, 2, 5, 6, 8]))
    assert list(sparse.deltas) == [0, 2, 5, 6, 8]
    part = BatchView(cut(sparse, 1, 3))
    assert list(part.deltas) == [0, 3, 4]
    assert read(part) == read(sparse)[1:4]
    assert not BatchView(cut(sparse, 2, 2)).sparse


def test_sparse_batch_cannot_be_published() -> None:
    with pytest.raises(Invalid, match="sparse"):
        BatchView(picked(BatchView(built(PLAIN).encode()), [0, 2])).check(MESSAGE_BYTES_MAX_DEFAULT)


@pytest.mark.parametrize(
    ("deltas", "sparse"),
    [([1, 2], True), ([0, 0], True), ([0, 3, 2], True), ([0, 2], False), (None, True)],
    ids=["not from 0", "one twice", "going back", "under no flag", "none under the flag"],
)
def test_deltas_that_make_no_sense_are_refused(deltas: list[int] | None, sparse: bool) -> None:
    count = len(deltas or "ab")
    column = to_u32(deltas) if deltas else b""
    table = COLUMN.pack(Kind.DELTA, 4, 0, len(column)) if deltas else b""
    tail = table + to_u32([0] * count) + column
    with pytest.raises(Invalid, match="deltas"):
        BatchView(sealed(count, bool(table), 0, 0, [tail], SPARSE if sparse else 0))


# what is refused


@samples
def test_every_truncation_is_refused(messages: list[Message]) -> None:
    data = built(messages).encode(1, 1)
    for length in range(len(data)):
        with pytest.raises(Invalid):
            BatchView(data[:length])


@samples
def test_every_flipped_bit_is_refused(messages: list[Message]) -> None:
    data = built(messages).encode(1, 1) + b"what follows"
    for position in range((len(data) - len(b"what follows")) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(Invalid):
            BatchView(damaged)


def read_or_refuse(data: bytes) -> None:
    """Whatever is let in can be read and cut."""
    try:
        view = BatchView(data)
        view.check(MESSAGE_BYTES_MAX_DEFAULT)
    except (Invalid, TooLarge):
        return
    assert sum(map(len, view.cells(Kind.KEY) or ())) <= view.length
    assert len(view.cells(Kind.HEADERS) or [b""] * view.count) == view.count
    assert len(view.integers(Kind.TIMESTAMP) or [0] * view.count) == view.count
    assert view.ends()[-1] == len(view.bodies())
    for first in range(view.count):
        BatchView(cut(view, first, 1)).check(2**32)


@samples
def test_any_byte_of_a_sealed_batch_may_be_anything_and_is_refused_or_harmless(
    messages: list[Message],
) -> None:
    data = built(messages).encode(1, 1)
    for position in range(len(data)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, data[position] ^ 1, data[position] + 1 & 0xFF):
            read_or_refuse(tampered(data, position, "B", value))


@given(st.binary(max_size=120), st.integers(1, 8), st.integers(0, 4))
def test_any_tail_behind_a_good_header_is_refused_or_harmless(tail: bytes, count: int, columns: int) -> None:
    read_or_refuse(sealed(count, columns, 0, 0, [tail]))


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        BatchView(data)


HEADER_FAULTS = {
    "another version": (8, "B", 2),
    "a codec of nothing": (9, "B", 1),
    "the sparse flag": (9, "B", 2),
    "both flags": (9, "B", 3),
    "no messages": (10, "H", 0),
    "too many messages": (10, "H", BATCH_COUNT_MAX + 1),
    "an epoch": (14, "H", 1),
    "a size before compression": (28, "I", 1),
    "a length beyond its bytes": (0, "I", 2**32 - 1),
    "a length below its header": (0, "I", HEADER_BYTES - 1),
    "too many columns": (12, "H", BATCH_COLUMNS_MAX + 1),
    "more columns than bytes": (12, "H", BATCH_COLUMNS_MAX),
    "more messages than bytes": (10, "H", BATCH_COUNT_MAX),
}
TABLE_FAULTS = {
    "an unknown kind": (0, "B", 200),
    "a kind of a later feature": (0, "B", Kind.PRIORITY),
    "another width": (1, "B", 8),
    "a reserved bit": (2, "H", 1),
    "a column shorter than its ends": (4, "I", 4 * len(RICH) - 1),
    "a column beyond the batch": (4, "I", 2**32 - 1),
    "kinds out of order": (0, "B", Kind.ABSENT),
    "a fixed column of another length": (COLUMN_BYTES * 2 + 4, "I", 8 * len(RICH) + 1),
}
LENGTH_FAULTS = {
    "bodies that end before the batch": (8, "I", 4),
    "bodies that end behind it": (8, "I", 2**32 - 1),
    "ends that go back": (0, "I", 7),
}


@pytest.mark.parametrize("fault", HEADER_FAULTS.values(), ids=HEADER_FAULTS)
def test_malformed_header_is_refused(fault: tuple[int, str, int]) -> None:
    with pytest.raises(Invalid):
        BatchView(tampered(built(RICH).encode(), *fault))


@pytest.mark.parametrize("fault", TABLE_FAULTS.values(), ids=TABLE_FAULTS)
def test_malformed_column_table_is_refused(fault: tuple[int, str, int]) -> None:
    at, layout, value = fault
    with pytest.raises(Invalid, match="column"):
        BatchView(tampered(built(RICH).encode(), HEADER_BYTES + at, layout, value))


@pytest.mark.parametrize("fault", LENGTH_FAULTS.values(), ids=LENGTH_FAULTS)
@pytest.mark.parametrize("of", ["bodies", "cells"])
def test_lengths_that_do_not_add_up_are_refused(fault: tuple[int, str, int], of: str) -> None:
    data = built(RICH).encode()
    view = BatchView(data)
    at, layout, value = fault
    column = view.column(Kind.KEY)
    assert column is not None
    begin = view.ends_at if of == "bodies" else column.at
    with pytest.raises(Invalid, match="do not add up"):
        BatchView(tampered(data, begin + at, layout, value)).check(MESSAGE_BYTES_MAX_DEFAULT)


def test_body_of_a_single_message_must_fill_the_batch() -> None:
    data = built([Message(b"x" * 40)]).encode()
    with pytest.raises(Invalid, match="do not add up"):
        BatchView(tampered(data, HEADER_BYTES, "I", 39)).check(MESSAGE_BYTES_MAX_DEFAULT)


def test_sequence_without_a_producer_is_refused() -> None:
    BatchView(built(PLAIN).encode(0, 0)).check(MESSAGE_BYTES_MAX_DEFAULT)
    with pytest.raises(Invalid, match="without a producer"):
        BatchView(built(PLAIN).encode(0, 1)).check(MESSAGE_BYTES_MAX_DEFAULT)


@pytest.mark.parametrize(
    "messages",
    [[Message(b"x", absent=1)], [Message(b""), Message(b"x", absent=1)], [Message(b"", absent=2)]],
    ids=["a body", "a body behind another message", "a mark that is not 0 or 1"],
)
def test_absent_value_with_something_to_it_is_refused(messages: list[Message]) -> None:
    with pytest.raises(Invalid, match="absent"):
        BatchView(built(messages).encode()).check(MESSAGE_BYTES_MAX_DEFAULT)


# limits


def test_message_as_large_as_allowed_passes_and_one_byte_more_does_not() -> None:
    BatchView(built([Message(b"x" * 1000)]).encode()).check(1000)
    with pytest.raises(TooLarge, match=r"message of 1,001 bytes; the limit is 1,000"):
        BatchView(built([Message(b"x" * 1001)]).encode()).check(1000)


def test_single_message_may_be_larger_than_a_batch_of_many() -> None:
    BatchView(built([Message(bytes(BATCH_BYTES_MAX + 1))]).encode()).check(BATCH_BYTES_MAX + 1)


def test_batch_of_many_above_its_limit_is_too_large() -> None:
    half = bytes(BATCH_BYTES_MAX // 2)
    with pytest.raises(TooLarge, match="batch of"):
        BatchView(built([Message(half), Message(half)]).encode()).check(BATCH_BYTES_MAX)


def test_key_and_headers_of_a_single_message_have_a_limit() -> None:
    with pytest.raises(TooLarge, match="key and headers"):
        BatchView(built([Message(b"", key=bytes(BATCH_OVERHEAD_BYTES_MAX))]).encode()).check(BATCH_BYTES_MAX)


def test_largest_count_passes() -> None:
    builder = BatchBuilder()
    builder.extend([b"x"] * BATCH_COUNT_MAX)
    view = BatchView(builder.encode())
    view.check(BATCH_BYTES_MAX)
    assert view.count == BATCH_COUNT_MAX
    assert view.bodies() == b"x" * BATCH_COUNT_MAX


def test_unverified_view_skips_the_checksum_alone() -> None:
    data = bytearray(built(PLAIN).encode())
    data[-1] ^= 1
    assert bytes(BatchView(data, verify=False).bodies()) == b"onethred"
    with pytest.raises(Refused, match="checksum"):
        BatchView(data)


# byte order


@pytest.mark.parametrize("order", ["little", "big"])
def test_numbers_are_little_endian_on_every_machine(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = built(RICH).encode()
    table = BatchView(data)
    monkeypatch.setattr(batch, "sys", FakeSystem(order))
    swapped = order == "big"
    ends = [1, 2**24]
    assert to_u32(ends) == (b"".join(end.to_bytes(4, "big" if swapped else "little") for end in ends))
    assert from_u32(memoryview(to_u32(ends))) == ends
    stamps = table.integers(Kind.TIMESTAMP)
    assert stamps is not None
    assert stamps[1].to_bytes(8, "big" if swapped else "little") == (1_700_000_000_000).to_bytes(8, "little")


class FakeSystem(NamedTuple):
    byteorder: str


def test_column_table_entry_is_eight_bytes() -> None:
    assert COLUMN.size == COLUMN_BYTES == 8
