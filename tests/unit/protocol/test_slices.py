"""Deliveries and settle ranges: nothing damaged is taken for a delivery."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.format.examples import PLAIN_BATCH, RANGES, RICH_BATCH, SLICE

from penstock_protocol.errors import Corrupt, Invalid
from penstock_protocol.limits import RANGES_MAX
from penstock_protocol.slices import (
    RANGE_BYTES,
    SLICE_BYTES,
    Range,
    Slice,
    decode_ranges,
    decode_slices,
    encode_ranges,
    encode_slice,
)

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
PARTS = [(SLICE, PLAIN_BATCH), (SLICE._replace(first=7, batch_length=len(RICH_BATCH)), RICH_BATCH)]


def delivery(parts: list[tuple[Slice, bytes]]) -> bytes:
    heads = [encode_slice(stamps, int.from_bytes(batch[4:8], "little")) for stamps, batch in parts]
    return b"".join([*heads, *(batch for _, batch in parts)])


def test_slices_come_out_with_their_batches() -> None:
    assert decode_slices(memoryview(delivery(PARTS)), 2) == [(stamps, memoryview(b)) for stamps, b in PARTS]


def test_delivery_of_nothing_is_empty() -> None:
    assert decode_slices(memoryview(b""), 0) == []


@given(
    st.builds(Slice, *[U64] * 4, st.binary(min_size=16, max_size=16), *[U32] * 6, st.just(len(PLAIN_BATCH)))
)
def test_any_stamps_survive_the_way(stamps: Slice) -> None:
    assert decode_slices(memoryview(delivery([(stamps, PLAIN_BATCH)])), 1)[0][0] == stamps


def test_every_truncated_delivery_is_corrupt() -> None:
    data = delivery(PARTS)
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            decode_slices(memoryview(data)[:length], 2)


def test_bytes_behind_the_last_batch_are_corrupt() -> None:
    with pytest.raises(Corrupt, match="longer than its batches"):
        decode_slices(memoryview(delivery(PARTS) + b"x"), 2)


def test_another_number_of_slices_is_corrupt() -> None:
    for count in (0, 1, 3, 2**63 - 1):
        with pytest.raises(Corrupt):
            decode_slices(memoryview(delivery(PARTS)), count)


def test_every_flipped_bit_of_a_slice_is_corrupt() -> None:
    data = delivery(PARTS)
    for bit in range(2 * SLICE_BYTES * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_slices(memoryview(damaged), 2)


def test_slice_does_not_fit_another_batch_of_the_same_length() -> None:
    other = PLAIN_BATCH[:4] + bytes([PLAIN_BATCH[4] ^ 1]) + PLAIN_BATCH[5:]
    data = delivery([(SLICE, PLAIN_BATCH)])[:SLICE_BYTES] + other
    with pytest.raises(Corrupt, match="fails its checksum"):
        decode_slices(memoryview(data), 1)


@pytest.mark.parametrize("length", [0, 7])
def test_batch_too_short_for_its_own_checksum_is_corrupt(length: int) -> None:
    data = encode_slice(SLICE._replace(batch_length=length), 0) + bytes(length)
    with pytest.raises(Corrupt, match="shorter than its batches"):
        decode_slices(memoryview(data), 1)


@given(st.lists(st.builds(Range, U64, U64, U32, st.integers(1, 2**32 - 1)), max_size=5))
def test_ranges_come_out_as_they_went_in(ranges: list[Range]) -> None:
    assert decode_ranges(memoryview(encode_ranges(ranges))) == ranges


@pytest.mark.parametrize("extra", [-1, 1, RANGE_BYTES - 1])
def test_part_of_a_range_is_invalid(extra: int) -> None:
    data = (encode_ranges(RANGES) + bytes(RANGE_BYTES))[: len(RANGES) * RANGE_BYTES + extra]
    with pytest.raises(Invalid, match="ranges of 24 bytes"):
        decode_ranges(memoryview(data))


def test_empty_range_is_invalid() -> None:
    with pytest.raises(Invalid, match="is empty"):
        decode_ranges(memoryview(encode_ranges([*RANGES, Range(1, 2, 0, 0)])))


def test_more_ranges_than_allowed_are_invalid() -> None:
    most = encode_ranges([Range(1, 2, 0, 3)]) * RANGES_MAX
    assert len(decode_ranges(memoryview(most))) == RANGES_MAX
    with pytest.raises(Invalid, match="at most 10,000 ranges"):
        decode_ranges(memoryview(most + most[:RANGE_BYTES]))
