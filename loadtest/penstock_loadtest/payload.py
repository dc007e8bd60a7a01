"""What the bodies of a load test say, so that each can be told from all others wherever it turns up.

    u32 run   u32 lane   u64 sequence   u64 stamp   u64 mark   filler …   u64 mark

`run` is one run of the harness, `lane` numbers producer and queue (or key), `sequence` counts from 0 in its
lane, `stamp` is the instant (ns, CLOCK_MONOTONIC, the same in all processes of a machine) when the message
was to be published. `mark` is a hash of these four; it stands at both ends, so a body that was cut, shifted
or mixed is not taken for whole. A batch is made and read in one vectorised pass: a loop in Python over
its messages would cost more than the broker.
"""

import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

HEAD = struct.Struct("<IIQQQ")
TAIL = struct.Struct("<Q")
SIZE_MIN = HEAD.size + TAIL.size
LANE_FACTOR = 0x9E3779B97F4A7C15
SEQUENCE_FACTOR = 0xC2B2AE3D27D4EB4F
RUN_FACTOR = 0x165667B19E3779F9
WORD = (1 << 64) - 1

Array = np.ndarray[Any, np.dtype[Any]]


def layout(size: int) -> np.dtype[Any]:
    """The fields of a body of `size` bytes."""
    return np.dtype(
        {
            "names": ["run", "lane", "sequence", "stamp", "mark", "tail"],
            "formats": ["<u4", "<u4", "<u8", "<u8", "<u8", "<u8"],
            "offsets": [0, 4, 8, 16, 24, size - TAIL.size],
            "itemsize": size,
        }
    )


class Maker:
    """Makes bodies of `size` bytes, at least `SIZE_MIN`, up to `batch` at once."""

    def __init__(self, run: int, size: int, batch: int) -> None:
        self._run = run
        self._run_mark = run * RUN_FACTOR & WORD
        self._filler = os.urandom(size - SIZE_MIN)
        one = HEAD.pack(run, 0, 0, 0, 0) + self._filler + TAIL.pack(0)
        self._bodies = np.frombuffer(bytearray(one * batch), layout(size))
        self._whole = self._bodies.view(f"V{size}")
        self._counted = np.arange(batch, dtype=np.uint64)

    def make(self, lane: int, first: int, count: int, stamp: int) -> list[bytes]:
        """Bodies `first` … `first + count` of a lane."""
        return [self._one(lane, first, stamp)] if count == 1 else self._many(lane, first, count, stamp)

    def _one(self, lane: int, sequence: int, stamp: int) -> bytes:
        mark = lane * LANE_FACTOR & WORD ^ sequence * SEQUENCE_FACTOR & WORD ^ self._run_mark ^ stamp
        return HEAD.pack(self._run, lane, sequence, stamp, mark) + self._filler + TAIL.pack(mark)

    def _many(self, lane: int, first: int, count: int, stamp: int) -> list[bytes]:
        bodies = self._bodies[:count]
        sequences = self._counted[:count] + np.uint64(first)
        same = np.uint64((lane * LANE_FACTOR & WORD) ^ self._run_mark ^ stamp)
        marks = sequences * np.uint64(SEQUENCE_FACTOR) ^ same
        bodies["lane"], bodies["sequence"], bodies["stamp"] = lane, sequences, stamp
        bodies["mark"] = bodies["tail"] = marks
        made: list[bytes] = self._whole[:count].tolist()
        return made


class Read(NamedTuple):
    """Bodies as columns; those that are not whole, or of another run, are counted in `corrupt` alone."""

    lanes: Array
    sequences: Array
    stamps: Array
    corrupt: int
    kept: Array | None
    """Which of the bodies are in the columns; None: all."""


def read(run: int, size: int, bodies: Sequence[bytes | memoryview], count: int) -> Read:
    """`count` bodies, of which each buffer holds one or more, one behind the other."""
    if any(len(body) % size for body in bodies):
        bodies = [body for body in bodies if len(body) % size == 0]
    data = b"".join(bodies)
    wrong = count - len(data) // size
    columns = np.frombuffer(data, layout(size))
    lanes, sequences, stamps = columns["lane"], columns["sequence"], columns["stamp"]
    marks = lanes.astype(np.uint64) * np.uint64(LANE_FACTOR) ^ sequences * np.uint64(SEQUENCE_FACTOR)
    marks ^= stamps ^ np.uint64(run * RUN_FACTOR & WORD)
    good = (columns["mark"] == marks) & (columns["tail"] == marks) & (columns["run"] == run)
    if good.all() and not wrong:
        return Read(lanes, sequences, stamps, 0, None)
    corrupt = wrong + int(len(good) - good.sum())
    return Read(lanes[good], sequences[good], stamps[good], corrupt, good)
