"""Carrying out what a member of a group is told to read: giving up, taking on, and saying so.

    told     give up what is not in it       take on what is new           done
             hand out nothing of it          committed offset, or start
             wait for what is in hand        commit that, if it is new
             commit (auto_commit)            on_assigned
             on_revoked                      read

Partitions that stay are not touched. One task does it, one assignment after the other; whatever comes in the
meantime is carried out next. It never waits for the broker to be told: signs of life go on beside it.

After a lost membership there is nothing to wait for: what is not given back is dropped. What is given back
goes on where it was, unless somebody else has got further meanwhile.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock import membership
from penstock.errors import NotFound, OutcomeUnknown, Stale
from penstock.events import PartitionsLost
from penstock.membership import Membership
from penstock.reading import Reader
from penstock.values import TopicPartition

if TYPE_CHECKING:
    from penstock.record_consumer import RecordConsumer

log = logging.getLogger("penstock")

AGAIN = (*membership.AGAIN, OutcomeUnknown)

Callback: TypeAlias = Callable[[Sequence[TopicPartition]], Awaitable[object] | object]


class Handover:
    """The assignments of one consumer, and the task that carries them out."""

    def __init__(
        self,
        consumer: "RecordConsumer[Any, Any]",
        *,
        assignor: str,
        instance: str | None,
        on_assigned: Callback | None,
        on_revoked: Callback | None,
    ) -> None:
        assert consumer.group is not None
        self._consumer = consumer
        self._readers = consumer.readers
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._group = consumer.group
        self._target: frozenset[TopicPartition] = frozenset()
        self._times_told = 0
        self._news = asyncio.Event()
        self._calling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._membership = Membership(
            consumer.client, self._group.name, consumer.topics, self, assignor=assignor, instance=instance
        )
        consumer.commits.membership = self._membership

    # Life

    async def open(self) -> None:
        """Join, and take on what there is at once."""
        await self._membership.join()
        await self._carry_out(at_begin=True)
        self._task = asyncio.ensure_future(self._run())

    async def halt(self) -> None:
        """Carry out nothing more; a callback that runs is let finish."""
        self._consumer.let_go.set()
        async with self._calling:
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """After `halt`: give everything up, and leave."""
        try:
            await self._call(self._on_revoked, self._readers)
        finally:
            self._readers.clear()
            await self._membership.leave()

    def abandon(self) -> None:
        """As `close`, without waiting for anything."""
        if self._task is not None:
            self._task.cancel()
        self._membership.leave_now()

    async def _run(self) -> None:
        try:
            while True:
                await self._news.wait()
                await self._carry_out(at_begin=False)
        except Exception as error:
            self._consumer.fail(error)

    @property
    def expects(self) -> bool:
        """It was told of partitions that it does not read yet."""
        return not self._target <= self._readers.keys()

    # What the membership says

    def told(self, places: frozenset[TopicPartition], *, rejoined: bool) -> None:
        """See `membership.Holder`."""
        self._target = places
        self._times_told += 1
        if rejoined:
            for reader in self._readers.values():
                reader.lost = reader.lost or reader.place not in places
        self._news.set()
        self._consumer.let_go.set()

    def claims(self) -> Iterable[TopicPartition]:
        """See `membership.Holder`."""
        self._consumer.cut()
        for reader in self._readers.values():
            reader.doubtful = True
        return [reader.place for reader in self._readers.values() if not reader.leaving and not reader.lost]

    def failed(self, error: Exception) -> None:
        """See `membership.Holder`."""
        for reader in self._readers.values():
            reader.lost = True
        self._consumer.fail(error)

    # Carrying out

    async def _carry_out(self, *, at_begin: bool) -> None:
        """Until the newest assignment is carried out."""
        carried_out = 0
        while carried_out != self._times_told:
            carried_out, generation = self._times_told, self._membership.generation
            self._news.clear()
            try:
                await self._look_whether_others_read()
                await self._give_up([reader for reader in self._readers.values() if reader.lost])
                leaving = [place for place in self._readers if place not in self._target]
                await self._give_up([self._readers[place] for place in leaving])
                await self._take_on(sorted(self._target - self._readers.keys()), at_begin=at_begin)
            except AGAIN as error:
                log.debug("carrying out an assignment of group %r: %s", self._group.name, error)
                carried_out = 0
            except Stale as error:  # a newer assignment is on its way
                log.debug("an assignment of group %r is out of date: %s", self._group.name, error)
            else:
                if carried_out == self._times_told:
                    self._membership.done(generation)

    async def _look_whether_others_read(self) -> None:
        """After a lost membership: who has got further than this consumer has the last word."""
        doubtful = [reader for reader in self._readers.values() if reader.doubtful and not reader.lost]
        for topic in {reader.place.topic for reader in doubtful}:
            committed = await self._group.offsets(topic)
            for reader in doubtful:
                if reader.place.topic == topic:
                    reader.lost = committed.get(reader.place.partition, 0) > reader.finished
                    reader.doubtful = False
        self._consumer.turn.moved.set()

    async def _give_up(self, readers: list[Reader[Any]]) -> None:
        if not readers:
            return
        for reader in readers:
            reader.leaving = True
            reader.stop()
        self._consumer.withdraw(readers)
        while any(self._consumer.has_in_hand(reader) for reader in readers if not reader.lost):
            self._consumer.let_go.clear()
            await self._consumer.let_go.wait()
        gone = [reader for reader in readers if reader.lost]
        if gone:
            self._say_lost(gone)
        try:
            if self._consumer.commits.auto:
                await self._consumer.commits.store_finished(readers)
            await self._call(self._on_revoked, [reader.place for reader in readers])
        finally:
            for reader in readers:
                self._consumer.remove(reader)

    def _say_lost(self, readers: list[Reader[Any]]) -> None:
        for reader in readers:
            self._consumer.drop(reader, lost=True)
        places = tuple(reader.place for reader in readers)
        log.warning("group %r: lost %s", self._group.name, ", ".join(f"{t}/{n}" for t, n in places))
        self._consumer.client.wire.emit(PartitionsLost(self._group.name, places))

    async def _take_on(self, places: list[TopicPartition], *, at_begin: bool) -> None:
        taken: list[Reader[Any]] = []
        for topic in sorted({place.topic for place in places}):
            numbers = [place.partition for place in places if place.topic == topic]
            try:
                readers, starts = await self._consumer.readers_of(topic, numbers, at_begin=at_begin)
                await self._store_starts(topic, starts)
            except NotFound as error:  # deleted by now, and the next assignment says so
                log.debug("group %r: %s", self._group.name, error)
            else:
                taken += readers
        if not taken:
            return
        for reader in taken:
            self._readers[reader.place] = reader
        await self._call(self._on_assigned, [reader.place for reader in taken])
        for reader in taken:
            self._consumer.add(reader)

    async def _store_starts(self, topic: str, starts: dict[int, int]) -> None:
        """Where the group begins is committed at once: a group that starts at the end and dies before its
        first commit goes on there, and its lag is known."""
        if starts:
            member = self._membership
            await self._group.store(topic, starts, member=member.id, generation=member.generation)

    async def _call(self, callback: Callback | None, places: Collection[TopicPartition]) -> None:
        if callback is None or not places:
            return
        async with self._calling:
            result = callback(tuple(sorted(places)))
            if inspect.isawaitable(result):
                await result
