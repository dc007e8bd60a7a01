"""Durability modes: how long a sync may wait. A mode is text where people see it, and ms everywhere else.

    fsync            0        a confirm waits until it is on stable storage
    interval:50ms    50       it is in the page cache; a sync begins at most that much later
    os               OS_MS    it is in the page cache; the kernel writes it back when it likes

The smaller number is the stricter mode, so what touches several objects goes by the minimum of theirs.
"""

import re

FSYNC = 0
OS_MS = 1 << 62
"""Longer than any life."""
INTERVAL_MS_MAX = 60_000
ALLOWED = "fsync, interval:50ms (from 1ms to 60s) or os"

UNITS = {"ms": 1, "s": 1_000}
INTERVAL = re.compile(r"interval:([0-9]{1,9})(ms|s)")


def parse(text: object) -> int:
    """How long a sync may wait, in ms. Raises `ValueError` that says what is allowed."""
    if text == "fsync":
        return FSYNC
    if text == "os":
        return OS_MS
    found = INTERVAL.fullmatch(text) if isinstance(text, str) else None
    within = int(found[1]) * UNITS[found[2]] if found else 0
    if not 1 <= within <= INTERVAL_MS_MAX:
        raise ValueError(ALLOWED)
    return within


def name(within: int) -> str:
    """The mode as text; the inverse of `parse`, with intervals in ms."""
    if within == FSYNC:
        return "fsync"
    return "os" if within == OS_MS else f"interval:{within}ms"
