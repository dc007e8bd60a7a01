"""Retention at work: topics are looked at in turn, and what is too old or too much of them is given up.

A round is made once a second, in slices: other work comes in between however many topics there are. It only
appends parts; what of the disk becomes free by that is the storage's affair.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.retention import by_age, by_size
from penstock_broker.topics.partition import Partition
from penstock_broker.topics.topic import Topic

EVERY_MS = 1_000
PAUSE_MS = 1
"""Between slices of a round."""
SLICE_PLACES = 256
"""Partitions looked at and places given up in one slice: well under 1 ms."""


class Topics(Protocol):
    """What there is."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """By name."""
        ...

    @property
    def corrupt(self) -> Collection[bytes]:
        """Machines that hold something else than their state."""
        ...


class Journal(Protocol):
    """Where entries go."""

    def append(self, parts: Sequence[Part], *, wall: int) -> int:
        """One entry, applied at once."""
        ...


class Retention:
    """Of one node."""

    def __init__(self, topics: Topics, journal: Journal, touch: Callable[[Partition], None]) -> None:
        self._topics = topics
        self._journal = journal
        self._touch = touch
        """Tells who reads a partition that some of it is gone."""
        self._round: Iterator[int] | None = None

    def step(self, wall: int) -> int:
        """A slice of a round; ms until the next."""
        if self._round is None:
            self._round = self._look(wall)
        work = 0
        for done in self._round:
            work += done
            if work >= SLICE_PLACES:
                return PAUSE_MS
        self._round = None
        return EVERY_MS

    def _look(self, wall: int) -> Iterator[int]:
        """One round; yields how many partitions were looked at, or places given up, since the last time."""
        for name in list(self._topics.topics):
            topic = self._topics.topics.get(name)
            yield 1
            if topic is None or self._is_corrupt(topic):
                continue
            for partition in topic.partitions:
                yield 1
                yield from self._give_up_aged(partition, wall)
            yield from self._give_up_surplus(topic.partitions, wall)

    def _is_corrupt(self, topic: Topic) -> bool:
        return bool(self._topics.corrupt) and any(p.uuid in self._topics.corrupt for p in topic.partitions)

    def _give_up_aged(self, partition: Partition, wall: int) -> Iterator[int]:
        while (age := partition.policy.age_max) is not None:
            start = by_age(islice(partition.log.places(), SLICE_PLACES), wall - age)
            if start is None:
                return
            self._trim({partition: start}, wall)
            yield SLICE_PLACES

    def _give_up_surplus(self, partitions: Sequence[Partition], wall: int) -> Iterator[int]:
        while (limit := partitions[0].policy.size_max) is not None:
            surplus = sum(partition.log.size_bytes for partition in partitions) - limit
            if surplus <= 0:
                return
            starts = by_size([p.log.places() for p in partitions], surplus, SLICE_PLACES)
            if not starts:
                return
            self._trim({partitions[number]: start for number, start in starts.items()}, wall)
            yield SLICE_PLACES + len(partitions)

    def _trim(self, starts: Mapping[Partition, int], wall: int) -> None:
        before = [(p, p.log.start, p.log.size_bytes) for p in starts]
        self._journal.append([Part(p.uuid, Kind.TRIMMED, start) for p, start in starts.items()], wall=wall)
        for partition, start, size in before:
            partition.records_dropped += partition.log.start - start
            partition.bytes_dropped += size - partition.log.size_bytes
            self._touch(partition)
