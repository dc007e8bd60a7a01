"""Conditions on the key and the headers of records: what a FETCH asks for, and which records of a batch fit.

    {"key": "eu.*", "header:type": "order*", "header:version": 2}      all of them must hold

A text is a pattern: `*` stands for any run of characters, also none, and `\\` takes away the meaning of the
character behind it. So a pattern without a star is the exact value, `eu.*` a prefix. A key that is no text is
matched by a pattern of bytes. Any other value is compared: numbers by what they are worth, nil with a header
that is there and nil. A record without that key or header does not fit.

Pure and bounded: a pattern is its pieces between the stars, found one behind the other, and never again. A
batch is passed over without a look at its records where it has no such column, or a piece is nowhere in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgpack

from penstock_protocol.batch import BatchView, Column, Kind
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import (
    FIELDS_STRING_BYTES_MAX,
    HEADER_KEYS_MAX,
    WHERE_CONDITIONS_MAX,
    WHERE_PATTERN_BYTES_MAX,
    WHERE_STARS_MAX,
)

KEY = "key"
HEADER = "header:"
SHOWN_CHARACTERS = 300
STAR, ESCAPE = b"*"[0], b"\\"[0]
BIN_HEADS = {0xC4: 2, 0xC5: 3, 0xC6: 5}
"""First byte of a msgpack bin → bytes in front of its content."""
STR_HEADS = {0xD9: 2, 0xDA: 3, 0xDB: 5, **dict.fromkeys(range(0xA0, 0xC0), 1)}
"""The same of a msgpack str."""


class Pattern(NamedTuple):
    """The pieces between the stars; a single one is the whole value."""

    pieces: tuple[bytes, ...]

    @property
    def longest(self) -> bytes:
        """What must be somewhere in a value that fits."""
        return max(self.pieces, key=len)

    def fits(self, value: bytes) -> bool:
        """The whole value is such a text."""
        first, *between = self.pieces
        if not between:
            return value == first
        last = between.pop()
        end = len(value) - len(last)
        at = len(first)
        if end < at or not value.startswith(first) or not value.endswith(last):
            return False
        for piece in between:
            at = value.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True


class Condition(NamedTuple):
    """One of them. `kind`: the column it looks at; `name`: of a header. `value` counts without a pattern."""

    kind: Kind
    name: str
    pattern: Pattern | None
    value: object

    def possible(self, cells: bytes) -> bool:
        """What it looks for is somewhere in the cells of a column: text stands there as it is."""
        return self.name.encode() in cells and (self.pattern is None or self.pattern.longest in cells)

    def fits_key(self, cell: bytes) -> bool:
        """The key in a cell fits."""
        head = BIN_HEADS.get(cell[0], 0) or STR_HEADS.get(cell[0], 0)
        return self.pattern is not None and self.pattern.fits(cell[head:])

    def fits_headers(self, headers: Mapping[str, object]) -> bool:
        """One of the headers is its own, and fits."""
        if self.name not in headers:
            return False
        value = headers[self.name]
        if self.pattern is not None:
            return isinstance(value, str) and self.pattern.fits(value.encode())
        return value == self.value and isinstance(value, bool) == isinstance(self.value, bool)


class Found(NamedTuple):
    """What was looked through of a batch. `indexes`: of the records that fit, in order; `upto`: which one to
    go on at; `looked`: how many had to be looked at one by one."""

    indexes: Sequence[int]
    upto: int
    looked: int


class Where:
    """Conditions, checked. Raises `Invalid` for what cannot be asked."""

    __slots__ = ("_conditions",)

    def __init__(self, given: Mapping[str, object]) -> None:
        if len(given) > WHERE_CONDITIONS_MAX:
            raise Invalid(f"{len(given)} conditions; the limit is {WHERE_CONDITIONS_MAX}")
        self._conditions = [_condition(name, value) for name, value in given.items()]

    def find(self, batch: BatchView, most: int) -> Found:
        """The records of a batch that fit; the first `most` at most are looked at one by one."""
        count = batch.count
        columns: dict[Kind, tuple[Column, bytes]] = {}
        for condition in self._conditions:
            kind = condition.kind
            if kind not in columns:
                column = batch.column(kind)
                if column is None:
                    return Found((), count, 0)
                at = column.at + 4 * count
                columns[kind] = column, bytes(batch.view[at : column.at + column.length])
            if not condition.possible(columns[kind][1]):
                return Found((), count, 0)
        if not columns:
            return Found(range(count), count, 0)
        upto = min(count, most)
        indexes: Sequence[int] = range(upto)
        for kind, (column, cells) in columns.items():
            mine = [condition for condition in self._conditions if condition.kind == kind]
            indexes = _fitting(mine, kind, batch.ends_in(column.at), cells, indexes)
        return Found(indexes, upto, upto)


def _fitting(
    conditions: Sequence[Condition], kind: Kind, ends: Sequence[int], cells: bytes, indexes: Sequence[int]
) -> list[int]:
    """Those of the records whose cell fits. Neighbours often have the same one: it is judged once."""
    known: dict[bytes, bool] = {b"": False}
    found = []
    for index in indexes:
        cell = cells[ends[index - 1] if index else 0 : ends[index]]
        fits = known.get(cell)
        if fits is None:
            fits = known[cell] = _fits(conditions, kind, cell)
        if fits:
            found.append(index)
    return found


def _fits(conditions: Sequence[Condition], kind: Kind, cell: bytes) -> bool:
    if kind == Kind.KEY:
        return all(condition.fits_key(cell) for condition in conditions)
    headers = headers_in(cell)
    return headers is not None and all(condition.fits_headers(headers) for condition in conditions)


def headers_in(cell: bytes) -> dict[str, object] | None:
    """The headers in a cell; None if its sender made no map of text of it."""
    try:
        headers = msgpack.unpackb(
            cell,
            strict_map_key=True,
            max_array_len=0,
            max_map_len=HEADER_KEYS_MAX,
            max_str_len=FIELDS_STRING_BYTES_MAX,
            max_bin_len=FIELDS_STRING_BYTES_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None
    return headers if isinstance(headers, dict) else None


def _condition(name: str, value: object) -> Condition:
    shown = name[:SHOWN_CHARACTERS]
    if name == KEY:
        if not isinstance(value, str | bytes):
            raise Invalid(f"key={value!r} is no pattern", hint='write it like "eu.*"')
        return Condition(Kind.KEY, "", _pattern(shown, value), None)
    header = name.removeprefix(HEADER)
    if header == name or len(header.encode()) > WHERE_PATTERN_BYTES_MAX:
        raise Invalid(f"there is no condition {shown!r}", hint='known: "key" and "header:NAME"')
    if isinstance(value, str):
        return Condition(Kind.HEADERS, header, _pattern(shown, value), None)
    if not isinstance(value, bytes | int | float | None):
        raise Invalid(f"{shown} is compared with a {type(value).__name__}", hint="pass a single value")
    if isinstance(value, bytes) and len(value) > WHERE_PATTERN_BYTES_MAX:
        raise Invalid(f"{shown} is compared with {len(value)} bytes; the limit is {WHERE_PATTERN_BYTES_MAX}")
    return Condition(Kind.HEADERS, header, None, value)


def _pattern(shown: str, text: str | bytes) -> Pattern:
    data = text.encode() if isinstance(text, str) else text
    if len(data) > WHERE_PATTERN_BYTES_MAX:
        raise Invalid(f"the pattern of {shown} has {len(data)} bytes; the limit is {WHERE_PATTERN_BYTES_MAX}")
    pieces = tuple(_pieces(shown, data))
    if len(pieces) > WHERE_STARS_MAX + 1:
        raise Invalid(f"the pattern of {shown} has {len(pieces) - 1} stars; the limit is {WHERE_STARS_MAX}")
    return Pattern(pieces)


def _pieces(shown: str, data: bytes) -> Iterator[bytes]:
    piece = bytearray()
    rest = iter(data)
    for each in rest:
        if each == ESCAPE:
            escaped = next(rest, None)
            if escaped is None:
                raise Invalid(f"the pattern of {shown} ends with a lone \\", hint="write \\\\ for one")
            piece.append(escaped)
        elif each == STAR:
            yield bytes(piece)
            piece.clear()
        else:
            piece.append(each)
    yield bytes(piece)
