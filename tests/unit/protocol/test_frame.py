"""Frames come out of the stream as they went in, however it is cut; anything else is an error at once."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_protocol.errors import ProtocolError
from penstock_protocol.frame import ERROR, HEADER, HEADER_BYTES, MORE, REPLY, FrameDecoder, encode_header
from penstock_protocol.limits import FIELDS_BYTES_MAX

Plain = tuple[int, int, int, bytes, bytes]
LIMIT = 300_000

FRAMES: list[Plain] = [
    (2, 0, 1, b"", b""),
    (16, 0, 2, b"fields", b"payload"),
    (16, REPLY, 3, b"", b"x" * 70_000),
    (16, REPLY | ERROR, 2**32 - 1, b"f" * FIELDS_BYTES_MAX, b""),
    (255, 0, 0, b"f", b"p" * 100),
]


def encoded(frame: Plain) -> bytes:
    verb, flags, correlation, fields, payload = frame
    return encode_header(verb, flags, correlation, len(fields), len(payload)) + fields + payload


def fed(decoder: FrameDecoder, *pieces: bytes) -> list[Plain]:
    return [
        (frame.verb, frame.flags, frame.correlation, bytes(frame.fields), bytes(frame.payload))
        for piece in pieces
        for frame in decoder.feed(piece)
    ]


def header(
    length: int = 20, correlation: int = 1, fields: int = 4, verb: int = 2, flags: int = 0, reserved: int = 0
) -> bytes:
    return HEADER.pack(length, correlation, fields, verb, flags, reserved)


BAD_HEADERS = {
    "shorter than a header": header(length=HEADER_BYTES - 1, fields=0),
    "of no length": header(length=0, fields=0),
    "above the limit": header(length=LIMIT + 1),
    "of the largest length": header(length=2**32 - 1),
    "with more fields than frame": header(fields=5),
    "with fields above their limit": header(length=FIELDS_BYTES_MAX + 100, fields=FIELDS_BYTES_MAX + 1),
    "with a reserved bit": header(reserved=1),
    "with an unknown flag": header(flags=8),
    "with an error that is no reply": header(flags=ERROR),
    "with a part that is no reply": header(flags=MORE),
    "with an error that is not the last": header(flags=REPLY | ERROR | MORE),
}
bad_headers = pytest.mark.parametrize("bad", BAD_HEADERS.values(), ids=BAD_HEADERS)


def test_frames_fed_whole_come_out_as_they_went_in() -> None:
    assert fed(FrameDecoder(LIMIT), b"".join(map(encoded, FRAMES))) == FRAMES


def test_frames_fed_byte_by_byte_come_out_as_they_went_in() -> None:
    decoder = FrameDecoder(LIMIT)
    stream = b"".join(encoded(frame) for frame in FRAMES if len(frame[3]) + len(frame[4]) < 1000)
    found = fed(decoder, *(stream[i : i + 1] for i in range(len(stream))))
    assert found == [frame for frame in FRAMES if len(frame[3]) + len(frame[4]) < 1000]
    assert not decoder.partial


@pytest.mark.parametrize("seed", range(50))
def test_frames_fed_in_random_pieces_come_out_as_they_went_in(seed: int) -> None:
    random = Random(seed)
    stream = b"".join(map(encoded, FRAMES))
    cuts = sorted(random.choices(range(len(stream)), k=random.randrange(60)))
    pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
    assert fed(FrameDecoder(LIMIT), *pieces) == FRAMES


@pytest.mark.parametrize("cut", range(1, 2 * HEADER_BYTES + 13))
def test_frame_cut_anywhere_waits_for_its_rest(cut: int) -> None:
    stream = encoded(FRAMES[1]) + encoded(FRAMES[0])
    decoder = FrameDecoder(LIMIT)
    before = fed(decoder, stream[:cut])
    assert decoder.partial == (cut != len(encoded(FRAMES[1])))
    assert before + fed(decoder, stream[cut:]) == [FRAMES[1], FRAMES[0]]
    assert not decoder.partial


def test_frame_of_a_header_alone_needs_nothing_more() -> None:
    assert fed(FrameDecoder(HEADER_BYTES), encoded(FRAMES[0])) == FRAMES[:1]


def test_whole_frame_is_a_view_into_what_was_fed() -> None:
    piece = bytearray(encoded(FRAMES[1]))
    (frame,) = FrameDecoder(LIMIT).feed(piece)
    assert frame.fields.obj is piece
    assert frame.payload.obj is piece


def test_frame_that_spans_pieces_outlives_them() -> None:
    stream = bytearray(encoded(FRAMES[1]))
    decoder = FrameDecoder(LIMIT)
    assert not list(decoder.feed(stream[:20]))
    (frame,) = decoder.feed(rest := stream[20:])
    rest[:] = bytes(len(rest))
    assert bytes(frame.payload) == b"payload"
    assert fed(decoder, encoded(FRAMES[4])) == [FRAMES[4]]
    assert bytes(frame.payload) == b"payload"


@bad_headers
def test_bad_header_is_refused_as_soon_as_it_is_whole(bad: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    with pytest.raises(ProtocolError):
        fed(decoder, bad)
    assert not decoder.partial


@bad_headers
def test_bad_header_is_refused_byte_by_byte(bad: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    assert not fed(decoder, *(bad[i : i + 1] for i in range(HEADER_BYTES - 1)))
    with pytest.raises(ProtocolError):
        fed(decoder, bad[-1:])
    assert not decoder.partial


@bad_headers
def test_frames_before_a_bad_header_are_delivered(bad: bytes) -> None:
    frames = FrameDecoder(LIMIT).feed(encoded(FRAMES[1]) + bad)
    assert bytes(next(frames).payload) == b"payload"
    with pytest.raises(ProtocolError):
        next(frames)


def test_failed_stream_stays_failed() -> None:
    decoder = FrameDecoder(LIMIT)
    with pytest.raises(ProtocolError):
        fed(decoder, header(length=0))
    with pytest.raises(ProtocolError, match="failed earlier"):
        fed(decoder, encoded(FRAMES[0]))


def test_large_claim_allocates_nothing() -> None:
    decoder = FrameDecoder(2**32 - 1)
    assert not fed(decoder, header(length=2**32 - 1, fields=0), b"x")
    assert decoder.partial
    assert decoder.__sizeof__() + len(decoder._partial) < 1000


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_garbage_is_an_error_or_a_frame_and_nothing_else(pieces: list[bytes]) -> None:
    decoder = FrameDecoder(64)
    try:
        found = fed(decoder, *pieces)
    except ProtocolError:
        return
    assert sum(HEADER_BYTES + len(fields) + len(payload) for *_, fields, payload in found) <= len(
        b"".join(pieces)
    )


@given(st.binary(max_size=40), st.binary(max_size=60), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_any_frame_survives_the_way(fields: bytes, payload: bytes, verb: int, correlation: int) -> None:
    frame = (verb, REPLY, correlation, fields, payload)
    assert fed(FrameDecoder(LIMIT), encoded(frame)) == [frame]


def test_awaited_is_the_size_of_the_begun_frame_once_its_header_is_there() -> None:
    decoder = FrameDecoder(LIMIT)
    frame = encoded((1, 0, 1, b"fields", b"payload"))
    assert decoder.awaited == 0
    assert fed(decoder, frame[: HEADER_BYTES - 1]) == []
    assert decoder.awaited == 0
    assert fed(decoder, frame[HEADER_BYTES - 1 : -1]) == []
    assert decoder.awaited == len(frame)
    assert len(fed(decoder, frame[-1:])) == 1
    assert decoder.awaited == 0
