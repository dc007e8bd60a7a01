"""Frames: the envelope of every message, and the incremental decoder that finds them in a byte stream.

    offset  size  field
    0       4     length         bytes of the whole frame, this header included
    4       4     correlation    chosen by the requester, repeated in the reply; 0 = nobody waits
    8       4     fields_length  bytes of msgpack behind the header; the rest of the frame is payload
    12      1     verb           code of the verb table
    13      1     flags          bit 0 reply, bit 1 error (with bit 0), bit 2 more replies follow (with bit 0)
    14      2     reserved       zero

Little-endian. The decoder judges a header as soon as its 16 bytes are there, before anything is
allocated for the body: a length outside the limits is an error of the peer, not a reason to wait.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import ProtocolError
from penstock_protocol.limits import FIELDS_BYTES_MAX

HEADER = Struct(
    "<"
    "I"  # length
    "I"  # correlation
    "I"  # fields_length
    "B"  # verb
    "B"  # flags
    "H"  # reserved
)
HEADER_BYTES = 16
assert HEADER.size == HEADER_BYTES

REPLY = 1
ERROR = 2
MORE = 4
FLAGS = 0, REPLY, REPLY | ERROR, REPLY | MORE


class Frame(NamedTuple):
    """One frame as found in the stream. `fields` and `payload` are views into what was fed."""

    verb: int
    flags: int
    correlation: int
    fields: memoryview
    payload: memoryview


def encode_header(verb: int, flags: int, correlation: int, fields_length: int, payload_length: int) -> bytes:
    """The 16 bytes in front of `fields_length` bytes of msgpack and `payload_length` bytes of payload."""
    length = HEADER_BYTES + fields_length + payload_length
    return HEADER.pack(length, correlation, fields_length, verb, flags, 0)


class FrameDecoder:
    """Finds frames in a stream that arrives in pieces of any size.

    Whole frames are views into the piece they came in; only a frame that spans pieces is gathered in
    a buffer of its own, which grows with what has arrived, never with what a length field claims.
    After an error the decoder stays failed: what follows cannot be trusted.
    """

    __slots__ = ("_failed", "_missing", "_partial", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._partial = bytearray()
        self._missing = 0
        self._failed = False

    @property
    def partial(self) -> bool:
        """A frame has begun and is not complete."""
        return bool(self._partial)

    @property
    def awaited(self) -> int:
        """Bytes of the whole frame that has begun; 0 if none has, or its header is not complete."""
        return len(self._partial) + self._missing if len(self._partial) >= HEADER_BYTES else 0

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Yield each frame that `data` completes. Its views live as long as `data` keeps its bytes.

        Must be run to its end before the next `feed`. Raises `ProtocolError` for a header that breaks
        the rules; frames before it have been yielded.
        """
        if self._failed:
            raise ProtocolError("the stream failed earlier")
        view = memoryview(data)
        at, end = 0, len(view)
        if self._partial:
            at = self._complete(view)
            if self._missing:
                return
            whole = memoryview(self._partial)
            self._partial = bytearray()
            yield _frame(whole, 0, self._header(whole, 0))
        missing = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            header = self._header(view, at)
            if end - at < header[0]:
                missing = header[0]
                break
            yield _frame(view, at, header)
            at += header[0]
        if at < end:
            self._partial += view[at:]
            self._missing = missing - (end - at)

    def _complete(self, view: memoryview) -> int:
        """Move from `view` into the begun frame what it still misses; how many bytes were used."""
        used = 0
        while self._missing and used < len(view):
            take = min(self._missing, len(view) - used)
            self._partial += view[used : used + take]
            used += take
            self._missing -= take
            if not self._missing and len(self._partial) == HEADER_BYTES:
                self._missing = self._header(memoryview(self._partial), 0)[0] - HEADER_BYTES
        return used

    def _header(self, view: memoryview, at: int) -> tuple[int, ...]:
        """The fields of a header that keeps the rules; length first."""
        header = HEADER.unpack_from(view, at)
        length, _, fields_length, _, flags, reserved = header
        if not HEADER_BYTES <= length <= self.frame_bytes_max:
            raise self._fail(f"frame of {length} bytes; allowed are {HEADER_BYTES} to {self.frame_bytes_max}")
        if fields_length > min(length - HEADER_BYTES, FIELDS_BYTES_MAX):
            raise self._fail(f"{fields_length} bytes of fields in a frame of {length}")
        if reserved or flags not in FLAGS:
            raise self._fail("reserved or contradictory bits of a frame header are set")
        return header

    def _fail(self, why: str) -> ProtocolError:
        self._failed = True
        self._partial = bytearray()  # not clear(): the caller may look at the header through a view
        return ProtocolError(why)


def _frame(view: memoryview, at: int, header: tuple[int, ...]) -> Frame:
    length, correlation, fields_length, verb, flags, _ = header
    body = at + HEADER_BYTES
    split = body + fields_length
    return Frame(verb, flags, correlation, view[body:split], view[split : at + length])
