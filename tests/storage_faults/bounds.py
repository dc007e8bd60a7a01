"""Bounds of the broker, made so small that what takes many megabytes happens within a few messages: segments
of a log's own, indexes in them, evacuation, snapshots over several turns.
"""

from contextlib import AbstractContextManager
from typing import Any

from tests.fakes.bounds import bounds_set

from penstock_broker.storage import archive, archiver, evacuation, saver

SMALL: tuple[tuple[Any, str, int], ...] = (
    (archive, "OWN_BYTES_MIN", 1_500),
    (archive, "SEGMENT_BYTES", 12_000),
    (archive, "BLOCK_BYTES_TARGET", 700),
    (archiver, "EVACUATE_EVERY_MS", 1_000),
    (evacuation, "SEGMENT_BYTES_MIN", 1_000),
    (saver, "MACHINES_PER_TURN", 2),
)


def small() -> AbstractContextManager[None]:
    """The bounds are small for a while."""
    return bounds_set(SMALL)
