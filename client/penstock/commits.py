"""Storing how far a consumer is: on demand, and now and then.

Commits of one consumer follow one another, so that an older offset never replaces a newer one. A member's
commit that comes to a broker which does not know the member any more is repeated once it has joined again, if
it still has the partitions.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from penstock import checks
from penstock.errors import Error, Invalid, Stale
from penstock.events import CommitFailed
from penstock.record import Record
from penstock.values import TopicPartition

if TYPE_CHECKING:
    from penstock.connection import Wire
    from penstock.group import Group
    from penstock.membership import Membership
    from penstock.reading import Reader

log = logging.getLogger("penstock")

AUTO_COMMIT_SECONDS = 5.0
AUTO_COMMIT_RECORDS = 1_000


class Commits:
    """The commits of one consumer. `auto`: finished records are committed now and then. `on_due` is called
    before that, to bring what is finished up to date."""

    def __init__(
        self,
        wire: "Wire",
        group: "Group | None",
        readers: Mapping[TopicPartition, "Reader[Any]"],
        on_due: Callable[[], None],
        *,
        auto: bool,
    ) -> None:
        self.auto = auto
        self.membership: Membership | None = None
        self.uncommitted = 0
        """Records finished since the last automatic commit."""
        self._wire = wire
        self._group = group
        self._readers = readers
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._storing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    def finished(
        self, readers: "Iterable[Reader[Any]] | None" = None, *, again: bool = False
    ) -> dict[TopicPartition, int]:
        """What finished records leave to store; `again`: also what is stored already. Raises `Stale` if they
        are of a partition that was lost."""
        found = {
            reader.place: reader.finished
            for reader in (self._readers.values() if readers is None else readers)
            if again or reader.finished != reader.committed
        }
        for place in found:
            if self._readers[place].lost:
                raise lost(place)
        return found

    async def store(
        self,
        offsets: Mapping[TopicPartition, int],
        metadata: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Commit. Raises `Stale` for partitions that are somebody else's, and what a request raises."""
        if self._group is None:
            raise Invalid("this consumer reads for no group", hint="to commit, name a group instead of None")
        if metadata is not None:
            checks.metadata(metadata)
        async with self._lock:
            topics: dict[str, dict[TopicPartition, int]] = {}
            for place, offset in offsets.items():
                topics.setdefault(place.topic, {})[place] = offset
            for some in topics.values():
                await self._store(self._group, some, metadata, timeout)

    async def _store(
        self,
        group: "Group",
        offsets: Mapping[TopicPartition, int],
        metadata: str | None,
        timeout: float | None,
    ) -> None:
        """Offsets of one topic."""
        readers = [self._still_here(place) for place in offsets]
        try:
            await self._send(group, offsets, metadata, timeout)
        except Stale:
            rejoined = self.membership is not None and await self.membership.has_rejoined()
            if not rejoined or any(self._readers.get(r.place) is not r or r.lost for r in readers):
                raise
            await self._send(group, offsets, metadata, timeout)
        for reader in readers:
            reader.committed = offsets[reader.place]

    def _still_here(self, place: TopicPartition) -> "Reader[Any]":
        reader = self._readers.get(place)
        if reader is None or reader.lost:
            raise lost(place)
        return reader

    async def _send(
        self,
        group: "Group",
        offsets: Mapping[TopicPartition, int],
        metadata: str | None,
        timeout: float | None,
    ) -> None:
        (topic,) = {place.topic for place in offsets}
        member = self.membership
        await group.store(
            topic,
            {place.partition: offset for place, offset in offsets.items()},
            metadata,
            member=None if member is None else member.id,
            generation=0 if member is None else member.generation,
            timeout=timeout,
        )

    # Now and then

    @property
    def left(self) -> int:
        """How many records may be finished before the next automatic commit is due. While one is on its way
        the next is not: a loop that never waits would wait for it record by record."""
        return AUTO_COMMIT_RECORDS if self._is_storing else max(AUTO_COMMIT_RECORDS - self.uncommitted, 1)

    @property
    def _is_storing(self) -> bool:
        return self._storing is not None and not self._storing.done()

    def sometimes(self) -> None:
        """Records may have been finished: see to it that they are stored, soon or now."""
        if not self.auto or self._group is None:
            return
        if self.uncommitted >= AUTO_COMMIT_RECORDS and not self._is_storing:
            self._store_now()
        elif self._timer is None:
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(AUTO_COMMIT_SECONDS, self._store_now)

    def _store_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_storing:
            self._arm()
            return
        self._on_due()
        self.uncommitted = 0
        self._storing = asyncio.ensure_future(self.store_finished(self._readers.values()))

    async def store_finished(self, readers: "Iterable[Reader[Any]]") -> None:
        """Store what is finished of these; that it failed is an event."""
        try:
            await self.store(self.finished([reader for reader in readers if not reader.lost]))
        except Error as error:
            assert self._group is not None
            topics = ", ".join(sorted({place.topic for place in self._readers}))
            log.warning("committing %s for group %r failed: %s", topics, self._group.name, error)
            self._wire.emit(CommitFailed(self._group.name, topics, error))

    async def close(self) -> None:
        """Store nothing more now and then."""
        if self._timer is not None:
            self._timer.cancel()
        if self._storing is not None:
            await asyncio.wait([self._storing])


def place_of(upto: object) -> TopicPartition:
    """The partition of a record up to which is committed. Raises `Invalid` for what is no record."""
    if not isinstance(upto, Record):
        raise Invalid(f"upto={upto!r} is no record", hint="pass a record, or None for all that is finished")
    return TopicPartition(upto.topic, upto.partition)


def lost(place: TopicPartition) -> Stale:
    """The error of who commits on a partition that it has no more."""
    return Stale(
        f"{place.topic}/{place.partition} is not assigned to this consumer any more",
        hint="what was not committed is read again by whoever has it now; commit in on_revoked, or earlier",
    )
