"""Golden files: bytes a person can read, and every later version must be able to.

    == title                            begins one piece of format
    2f 00 00 00    ; length 47          bytes, and what they are

Bytes of a released format are never changed, only added. `python -m tests.format.golden` prints the
file for the formats as they are now, to add new pieces from.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import msgpack
from tests.format.examples import BATCHES, EXAMPLES, RANGES, SLICE, Example, buffers

from penstock_protocol import batch, frame, slices
from penstock_protocol.frame import ERROR
from penstock_protocol.messages import schema
from penstock_protocol.messages.session import Failure

WIRE = Path(__file__).parent / "wire.txt"
COMMENT_AT = 50
BYTES_IN_A_LINE = 16

Line = tuple[bytes, str]


def read(path: Path) -> dict[str, bytes]:
    """Title → bytes."""
    found: dict[str, bytes] = {}
    title = ""
    for line in path.read_text().splitlines():
        if line.startswith("== "):
            title = line.removeprefix("== ")
            assert title not in found, f"two pieces are called {title}"
            found[title] = b""
        elif not line.startswith("#"):
            found[title] = found.get(title, b"") + bytes.fromhex(line.partition(";")[0])
    found.pop("", None)
    return found


def pieces() -> Iterator[tuple[str, bytes, list[Line]]]:
    """Title, bytes, and the same bytes line by line, of everything there is."""
    head = frame.encode_header(16, frame.REPLY | ERROR, 0x01020304, 5, 6)
    yield "frame header", head, list(_fields(frame.HEADER, HEADER_NAMES, head))
    for title, data in BATCHES.items():
        yield f"batch {title}", data, list(_batch(data))
    stamps = slices.encode_slice(SLICE, 0x01020304)
    yield "slice", stamps, list(_slice(stamps))
    ranges = slices.encode_ranges(RANGES)
    yield "ranges", ranges, list(_ranges(ranges))
    for example in EXAMPLES:
        data = b"".join(buffers(example))
        yield example.name, data, list(_frame(example, data))


HEADER_NAMES = ("length", "correlation", "fields_length", "verb", "flags", "reserved")
BATCH_NAMES = (
    *("length", "crc32", "version", "flags", "count", "columns"),
    *("epoch", "producer_id", "sequence", "inflated"),
)


def _fields(layout: Struct, names: tuple[str, ...], data: bytes) -> Iterator[Line]:
    """One line for each field of a fixed layout."""
    at = 0
    codes = layout.format.removeprefix("<").replace("16s", "s")
    for name, value, code in zip(names, layout.unpack_from(data), codes, strict=True):
        size = 16 if code == "s" else Struct("<" + code).size
        yield data[at : at + size], name if code == "s" else f"{name} {value}"
        at += size


def _chunks(data: bytes, comment: str) -> Iterator[Line]:
    for at in range(0, len(data), BYTES_IN_A_LINE):
        yield data[at : at + BYTES_IN_A_LINE], "" if at else comment


def _batch(data: bytes) -> Iterator[Line]:
    view = batch.BatchView(data)
    yield from _fields(batch.HEADER, BATCH_NAMES, data)
    for i, column in enumerate(view.column_table):
        at = batch.HEADER_BYTES + i * batch.COLUMN_BYTES
        comment = f"column {batch.Kind(column.kind).name}, width {column.width}, {column.length} bytes"
        yield data[at : at + batch.COLUMN_BYTES], comment
    yield data[view.ends_at : view.ends_at + 4 * view.count], f"ends {view.ends()}"
    for column in view.column_table:
        yield from _chunks(data[column.at : column.at + column.length], batch.Kind(column.kind).name)
    yield from _chunks(data[view.bodies_at :], "bodies")


def _slice(data: bytes) -> Iterator[Line]:
    yield from _fields(slices.SLICE, slices.Slice._fields, data)
    yield data[slices.SLICE.size : slices.SLICE_BYTES], "crc32"


def _ranges(data: bytes) -> Iterator[Line]:
    for at in range(0, len(data), slices.RANGE_BYTES):
        yield from _fields(slices.RANGE, slices.Range._fields, data[at:])


def _frame(example: Example, data: bytes) -> Iterator[Line]:
    length, _, fields_length, verb, flags, _ = frame.HEADER.unpack_from(data)
    comment = f"length {length}, fields {fields_length}, verb {verb} {example.verb.name}, flags {flags}"
    yield data[: frame.HEADER_BYTES], comment
    fields, payload = data[frame.HEADER_BYTES :][:fields_length], data[frame.HEADER_BYTES + fields_length :]
    values = schema.unpack(fields)
    names = Failure._fields if example.is_error else type(example.message)._fields
    yield fields[:1], f"array of {len(values)}"
    at = 1
    for name, value in zip(names, values, strict=False):
        packed = msgpack.packb(value)
        yield from _chunks(fields[at : at + len(packed)], f"{name}: {value!r}")
        at += len(packed)
    assert at == len(fields), "the msgpack of the fields is not the shortest"
    yield from _payload(example, payload)


def _payload(example: Example, payload: bytes) -> Iterator[Line]:
    message = example.message
    if getattr(message, "slices", 0):
        yield from _slice(payload)
        yield from _batch(payload[slices.SLICE_BYTES :])
    elif type(message).__name__ in ("Checkpoint", "Reply"):
        yield from _ranges(payload[: slices.RANGE_BYTES])
        rest = payload[slices.RANGE_BYTES :]
        yield from _batch(rest) if rest in BATCHES.values() else _chunks(rest, "checkpoint")
    elif type(message).__name__ == "Confirm":
        for at in range(0, len(payload), slices.EXCEPTION_BYTES):
            yield from _fields(slices.EXCEPTION, slices.Exceptional._fields, payload[at:])
    elif payload in BATCHES.values():
        yield from _batch(payload)
    elif type(message).__name__ in ("Ack", "Nack", "Extend", "Settled"):
        yield from _ranges(payload)
    else:
        yield from _chunks(payload, "payload")


def render() -> Iterator[str]:
    """The golden file of the present formats, line by line."""
    yield "# Golden bytes of the wire, version 1. Released bytes are never changed; see golden.py."
    for title, data, lines in pieces():
        assert b"".join(piece for piece, _ in lines) == data, f"{title}: the lines are not the bytes"
        yield f"\n== {title}"
        for piece, comment in lines:
            yield f"{piece.hex(' '):<{COMMENT_AT}}; {comment}".rstrip(" ;")


if __name__ == "__main__":
    print(*render(), sep="\n")
