"""From where to where the partitions of a consumer are read: what `start=` and `until=` mean."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from penstock.errors import Invalid
from penstock.values import TopicPartition, instant_of, ms_at

if TYPE_CHECKING:
    from penstock.connection import Wire
    from penstock.topic import Topic

Start: TypeAlias = Literal["earliest", "latest"] | datetime
"""A place in a partition: its start, its end, or the first record appended at or after an instant."""
Until: TypeAlias = Literal["now"] | datetime
"""Where reading ends, exclusive: the end when it began, or the first record appended at or after an
instant."""


class Span:
    """What one consumer reads of a partition. Raises `Invalid` for what can never be."""

    def __init__(self, start: Start | int, until: "Until | Mapping[TopicPartition, int] | None") -> None:
        self._start: Start | int = start
        self._until = until
        self._begun: datetime | None = None
        if isinstance(start, datetime):
            ms_at(start)
        elif isinstance(start, int):
            if start < 0:
                raise Invalid(f"start={start} is no offset", hint="the first offset is 0")
        elif start not in ("earliest", "latest"):
            raise Invalid(f"{start!r} is no place in a partition", hint="earliest, latest or a datetime")
        if until is None:
            return
        if isinstance(until, datetime):
            ms_at(until)
            if isinstance(start, datetime) and until <= start:
                raise Invalid(f"until={until} is not after start={start}", hint="give a later instant")
        elif isinstance(until, str) and until != "now":
            raise Invalid(f"until={until!r} is no end", hint='"now", a datetime, or offsets by partition')

    @property
    def is_bounded(self) -> bool:
        """Reading ends somewhere."""
        return self._until is not None

    async def begin(self, wire: "Wire") -> None:
        """Reading begins now, by the broker's clock; what it has confirmed by now lies before. Raises
        `Invalid` for an end that lies in the future."""
        if not isinstance(self._until, datetime | str):
            return
        self._begun = instant_of(await wire.broker_time() + 1)
        if isinstance(self._until, datetime) and self._until > self._begun:
            raise Invalid(f"until={self._until} lies in the future", hint='give an instant before, or "now"')

    async def check(self, topic_of: "Callable[[str], Topic[Any]]") -> None:
        """Raises `Invalid` for an end in a partition that there is not, and `NotFound`."""
        if self._until is None or isinstance(self._until, datetime | str):
            return
        topics = {place.topic for place in self._until}
        counts = {topic: await topic_of(topic).count() for topic in sorted(topics)}
        for place in self._until:
            if place.partition >= counts[place.topic]:
                hint = f"it has {counts[place.topic]}, the first is 0"
                raise Invalid(f"until={place.partition}: {place.topic!r} has no such partition", hint=hint)

    async def start(self, topic: "Topic[Any]", partition: int) -> int:
        """Where to begin without a committed offset."""
        if isinstance(self._start, int):
            return self._start
        return await topic.offset(partition, self._start)

    async def until(self, topic: "Topic[Any]", partition: int, *, at_begin: bool) -> int | None:
        """Where to end; None: never. `at_begin`: it is asked at once when reading begins; a partition that is
        received later ends where it would have ended then."""
        if self._until is None:
            return None
        if isinstance(self._until, datetime):
            return await topic.offset(partition, self._until)
        named = None if self._until == "now" else _named(self._until, TopicPartition(topic.name, partition))
        if named is not None:
            return named
        at: Start = "latest" if at_begin or self._begun is None else self._begun
        return await topic.offset(partition, at)


def _named(until: Mapping[TopicPartition, int] | str, place: TopicPartition) -> int | None:
    return None if isinstance(until, str) else until.get(place)
