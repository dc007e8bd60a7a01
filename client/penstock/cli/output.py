r"""What goes to stdout: tables, JSON lines, and lines after a format like `%p %o %k %v\n`.

Data only: what is said about it goes to stderr. Bytes leave as they came; only JSON has to say whether they
are text (`body`) or not (`body_base64`).
"""

import json
import re
from argparse import ArgumentTypeError
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from penstock.cli import pipes

V = TypeVar("V")


class Output:
    """Stdout. `json`: as lines of JSON instead of text."""

    def __init__(self, *, json: bool, fd: int = pipes.STDOUT) -> None:
        self.json = json
        self._fd = fd

    async def write(self, data: bytes) -> None:
        """Raw bytes; written and flushed on return. Raises `BrokenPipeError`."""
        await pipes.write(self._fd, data)

    async def rows(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table under a head."""
        await self.write(table(head, [list(row) for row in rows]).encode())

    async def objects(self, values: Iterable[Mapping[str, Any]]) -> None:
        """One line of JSON for each, a thousand at a time."""
        lines = map(json_line, values)
        while some := b"".join(islice(lines, 1_000)):
            await self.write(some)

    def while_read(self) -> AbstractAsyncContextManager[None]:
        """A block that ends with `BrokenPipeError` as soon as nobody reads stdout any more."""
        return pipes.while_read(self._fd)


# Tables


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, numbers to the right, `-` for None."""
    right = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(head))]
    lines = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "".join(f"{_aligned(line, widths, right)}\n" for line in lines)


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _aligned(line: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cells = [
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(line, widths, right, strict=True)
    ]
    return "  ".join(cells).rstrip()


# JSON


def json_line(value: Mapping[str, Any]) -> bytes:
    """One object, with its line end."""
    return json.dumps(value, ensure_ascii=False, default=_plain).encode() + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return instant_text(value)
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    return str(value)


def instant_text(when: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def bytes_as(name: str, data: bytes | None) -> dict[str, str | None]:
    """`{name: text}`, or `{name_base64: …}` for bytes that are not UTF-8."""
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data).decode()}


# Formats


def formatter(text: str, fields: Mapping[str, Callable[[V], bytes]]) -> Callable[[V], bytes]:
    """A function that puts a value into `text`, where `%x` stands for field x and `%%` for a percent sign.

    Raises `ArgumentTypeError` for a field that does not exist.
    """
    known = {**fields, "%": lambda _: b"%"}
    pieces: list[Callable[[V], bytes]] = []
    for at, part in enumerate(re.split("%(.?)", text, flags=re.DOTALL)):
        if not at % 2:
            pieces.append(partial(_literal, part.encode("utf-8", "surrogateescape")))
        elif part in known:
            pieces.append(known[part])
        else:
            names = " ".join(f"%{letter}" for letter in known)
            raise ArgumentTypeError(f"%{part} means nothing here: known are {names}")
    return lambda value: b"".join([piece(value) for piece in pieces])


def _literal(text: bytes, _: object) -> bytes:
    return text
