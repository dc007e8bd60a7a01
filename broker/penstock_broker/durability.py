"""Durability modes: how long a sync may wait. A mode is text where people see it, and ms everywhere else.

    fsync            0        a confirm waits until it is on stable storage
    interval:50ms    50       it is in the page cache; a sync begins at most that much later
    os               OS_MS    it is in the page cache; the kernel writes it back when it likes

The smaller number is the stricter mode, so what touches several objects goes by the minimum of theirs. Each
mode has one spelling.
"""

import re

FSYNC = 0
OS_MS = 1 << 62
"""Longer than any life."""
INTERVAL_MS_MAX = 60_000
ALLOWED = "fsync, interval:50ms (from 1ms to 60000ms) or os"

INTERVAL = re.compile(r"interval:([1-9][0-9]{0,4})ms")


def parse(text: object) -> int:
    """How long a sync may wait, in ms. Raises `ValueError` that says what is allowed."""
    if text == "fsync":
        return FSYNC
    if text == "os":
        return OS_MS
    found = INTERVAL.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) > INTERVAL_MS_MAX:
        raise ValueError(ALLOWED)
    return int(found[1])


def is_mode(text: object) -> bool:
    """`parse` takes it."""
    try:
        parse(text)
    except ValueError:
        return False
    return True


def name(within: int) -> str:
    """The mode as text; the inverse of `parse`."""
    if within == FSYNC:
        return "fsync"
    return "os" if within == OS_MS else f"interval:{within}ms"
