"""Neighbours taken together: offsets that follow one another, values that are the same."""

from collections.abc import Iterable


def neighbours(offsets: Iterable[int]) -> Iterable[tuple[int, int]]:
    """(first, messages) of offsets that follow one another; they are sorted."""
    first = end = -1
    for offset in offsets:
        if offset != end:
            if end > first:
                yield first, end - first
            first = offset
        end = offset + 1
    if end > first:
        yield first, end - first


def runs(values: Iterable[int], first: int) -> Iterable[tuple[int, int, int]]:
    """(value, first offset, messages) of neighbours with the same value, but for 0."""
    begin, before = first, 0
    offset = first
    for value in values:
        if value != before:
            if before:
                yield before, begin, offset - begin
            begin, before = offset, value
        offset += 1
    if before:
        yield before, begin, offset - begin
