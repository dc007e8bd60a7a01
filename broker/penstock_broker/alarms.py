"""When time will next bring something about, for everything that has a deadline: objects of the node, and
within a queue its delayed messages and who waits there."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

HEAP_MIN = 64
"""Entries that are not worth to be looked through for those that are stale."""


K = TypeVar("K", bound=Hashable)


class Alarms(Generic[K]):
    """One deadline per key, by whatever clock its owner goes. Setting another replaces it; stale heap entries
    are skipped."""

    def __init__(self) -> None:
        self._when: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        """(when, order of setting, key)."""
        self._order = 0

    def set(self, key: K, when: int | None) -> None:
        """Wake `key` at `when` (ms), or not at all."""
        if when is None:
            self._when.pop(key, None)
        elif self._when.get(key) != when:
            self._when[key] = when
            self._order += 1
            heapq.heappush(self._heap, (when, self._order, key))
            if len(self._heap) > 2 * len(self._when) + HEAP_MIN:
                self._heap = list(
                    {each[2]: each for each in self._heap if self._when.get(each[2]) == each[0]}.values()
                )
                heapq.heapify(self._heap)

    def get(self, key: K) -> int | None:
        """When `key` will be woken."""
        return self._when.get(key)

    def due(self, now: int) -> Iterator[K]:
        """Keys whose time has come; each must be set again to be woken again."""
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            if self._when.get(key) == when:
                del self._when[key]
                yield key

    def next(self) -> int | None:
        """The earliest deadline."""
        while self._heap and self._when.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
