"""Reading entries of the journal again while the broker runs, for those who ask what became of something.

The newest files are read, oldest first, a bounded part of them, a piece at a time: each piece is a Load, and
is looked at in a turn of its own. A file that was recycled meanwhile, or is damaged, is passed over.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from penstock_broker.storage.blocks import decode_block, decode_block_header, padded
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.entries import StoredEntry
from penstock_broker.storage.files import PAGE_BYTES, Load

LOOK_BACK_BYTES = 64 << 20
"""Of the journal; at least its newest file is read."""
PIECE_BYTES = 128 << 10
"""At a time; a larger block is read whole."""

See = Callable[[StoredEntry, memoryview], None]
"""An entry, and its bytes."""


class _File(NamedTuple):
    name: str
    number: int
    salt: int
    end: int
    """Bytes of it that are written."""


class LookBack:
    """One look back. `see` gets every entry with a part for one of `targets`; then `done` is told since when
    (wall ms) nothing was passed over, None if nothing could be read."""

    def __init__(
        self,
        engine: Engine[Any],
        targets: frozenset[bytes],
        see: See,
        done: Callable[[int | None], None],
    ) -> None:
        self._engine = engine
        self._targets = targets
        self._see = see
        self._done = done
        self._files = self._newest()
        self._file: _File | None = None
        self._at = 0
        self._piece = PIECE_BYTES
        self._since: int | None = None
        self._sequence = 0
        """Of the block to be looked at next."""

    def _newest(self) -> Iterator[_File]:
        journal, left = self._engine.journal, LOOK_BACK_BYTES
        found: list[_File] = []
        for file in reversed(journal.files):
            end = min(file.used, PAGE_BYTES + journal.written - file.start)
            if found and left < end:
                break
            found.append(_File(file.name, file.number, file.salt, end))
            left -= end
        return reversed(found)

    def go_on(self) -> None:
        """Read the next piece, or end."""
        file = self._file
        if file is None or self._at >= file.end:
            file = self._file = next(self._files, None)
            self._at, self._piece = PAGE_BYTES, PIECE_BYTES
        if file is None:
            self._done(self._since)
        elif self._at >= file.end:
            self.go_on()
        else:
            self._engine.load(Load(file.name, self._at, min(self._piece, file.end - self._at)), self._got)

    def _got(self, data: object) -> None:
        file = self._file
        assert file is not None
        read = self._look_at(memoryview(data), file) if isinstance(data, bytes) else None
        if read is None:  # recycled, damaged, or not to be read: what stands behind may be another life's
            self._since, self._at = None, file.end
        else:
            self._at += read
        self.go_on()

    def _look_at(self, view: memoryview, file: _File) -> int | None:
        """Look at whole blocks; the bytes that they take. None: no block of this file stands there."""
        at = 0
        while at < len(view):
            header = decode_block_header(view, at)
            if header is None or (header.file, header.salt) != (file.number, file.salt):
                return None
            if at + header.length > len(view):
                if self._piece >= header.length:
                    return at if at else None
                self._piece = padded(header.length)
                return at
            block = decode_block(view, at, header)
            if block.bad is not None:
                return None
            self._since = header.time if self._since is None else self._since
            again = header.sequence < self._sequence  # a start writes the last blocks once more
            self._sequence = max(self._sequence, header.behind)
            for start, entry in () if again else block.entries:
                if any(stored.part.target in self._targets for stored in entry.parts):
                    self._see(entry, block.data[start : start + entry.length])
            at += padded(header.length)
            self._piece = PIECE_BYTES
        return at
