"""What the demonstration works on: text files, taken line by line, and accounts of where the lines went.

A line that a message cannot hold is cut into pieces of 1 MiB; each travels like a line.
"""

import subprocess
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from struct import Struct

from penstock_protocol.limits import MESSAGE_BYTES_MAX_DEFAULT as LINE_BYTES_MAX

CHUNK_LINES = 500
CHUNK_BYTES = 1 << 20
STAMP = Struct("<QQ")  # offset, bytes of the key


class Unusable(Exception):
    """There is no text to work on; why, in one line."""


class Text:
    """One file. `lines`, `words` and `size` in bytes are counted once; `cut`: how many of them go on where
    another piece of their line was cut off. Raises `Unusable` for what is not a readable file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = repr(str(path))[1:-1]
        self.key = bytes(path)
        self.lines = self.words = self.size = self.cut = 0
        try:
            if not path.is_file():
                raise Unusable(
                    f"{self.name} is no file" if path.exists() else f"there is no file {self.name}"
                )
            self._count()
        except OSError as error:
            raise Unusable(f"{self.name} cannot be read: {error.strerror}") from None

    def _count(self) -> None:
        last = b"\n"
        for line in pieces(self.path):
            self.lines += 1
            self.size += len(line)
            self.words += len(line.split())
            self.cut += last[-1:] != b"\n"
            last = line

    def chunks(self) -> Iterator[list[bytes]]:
        """Its lines, some at a time."""
        chunk: list[bytes] = []
        size = 0
        for line in pieces(self.path):
            chunk.append(line)
            size += len(line)
            if len(chunk) == CHUNK_LINES or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk


def pieces(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its end; put together they are the file."""
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX):
            yield line


def texts(files: Sequence[str], scratch: Path) -> list[Text]:
    """The files named, else what git tracks here and its log, which is written to `scratch`."""
    if files:
        return [Text(Path(file)) for file in files]
    log = scratch / "git-log.txt"
    log.write_bytes(_git("log", "--stat"))
    tracked = _git("ls-files", "-z").decode("utf-8", "surrogateescape").split("\0")
    return [Text(path) for path in (log, *map(Path, tracked)) if path.is_file()]


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise Unusable("this is no git repository with a log; name files to work on") from None


class Account:
    """Lines by partition, in order: how many, and a digest of every offset, key and line."""

    def __init__(self, partitions: int) -> None:
        self.lines = [0] * partitions
        self._digests = [blake2b(digest_size=8) for _ in range(partitions)]

    def take(self, partition: int, offset: int, key: bytes, line: bytes) -> None:
        """One more line."""
        self.lines[partition] += 1
        self._digests[partition].update(STAMP.pack(offset, len(key)) + key + line)

    def digest(self, partition: int) -> str:
        """Two accounts with the same one have seen the same lines in the same order."""
        return self._digests[partition].hexdigest()
