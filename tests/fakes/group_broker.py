"""A topic in memory with a group of one member, who is told what the test wants."""

import asyncio
from collections.abc import Iterable
from typing import Any

from tests.fakes.client_wire import turns
from tests.fakes.topic_broker import Broker, document

from penstock.errors import Stale
from penstock.topic_consumer import TopicConsumer
from penstock_protocol.messages.groups import Heartbeat, Join, Leave
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.session import Done
from penstock_protocol.messages.topics import Commit


class Group(Broker):
    """A broker with one group, whose only member is told what the test wants it to be."""

    def __init__(self, partitions: int = 2, given: Iterable[int] | None = None) -> None:
        super().__init__(partitions)
        self.given = list(range(partitions) if given is None else given)
        self.generation = self._since = 1
        self.stale: Stale | None = None
        """What the next HEARTBEAT or COMMIT is answered, until it joins again."""
        self.wire.answers |= {Join: self._join, Heartbeat: self._heartbeat, Leave: lambda _: Done()}
        self.wire.answers[Commit] = self._commit_or_stale

    def member(self, **options: Any) -> TopicConsumer[Any]:
        return self.topic().consumer("readers", **options)

    def tell(self, *given: int) -> None:
        """A new assignment."""
        self.given = list(given)
        self.generation += 1
        self.wire.answer(Heartbeat)

    def lose(self, *given: int, detail: Any = None) -> None:
        """The membership is over; `given` is what joining again brings."""
        self.stale = Stale("no member any more", detail=detail)
        self.given = list(given)
        self.generation += 1
        self.wire.answer(Heartbeat)

    @property
    def done(self) -> int:
        """The last generation that the member says it has carried out."""
        return max((beat.done for beat in self.wire.of(Heartbeat)), default=0)

    async def carried_out(self) -> None:
        """Come back when the newest assignment is carried out."""
        async with asyncio.timeout(5):
            while self.done != self.generation:
                await turns(1)

    def claims(self) -> Any:
        """What the last JOIN said it had in hand."""
        payload = self.wire.last(Join).message.payload
        return unpack_document(payload) if payload else {}

    def _told(self) -> Any:
        told = {"generation": self.generation, "heartbeat_ms": 3_000, "session_ms": 45_000}
        return document({**told, "partitions": {"lines": self.given} if self.given else {}})

    def _join(self, _: Join) -> Any:
        self.stale, self._since = None, self.generation
        return self._told()

    def _heartbeat(self, beat: Heartbeat) -> Any:
        if self.stale is not None:
            return self.stale
        return None if beat.seen == self.generation else self._told()

    def _commit_or_stale(self, commit: Commit) -> Any:
        assert commit.member == bytes(16)
        if self.stale is not None or commit.generation < self._since:
            return self.stale or Stale("an old generation")
        return self._commit(commit)


def filled(partitions: int = 2, given: Iterable[int] | None = None) -> Group:
    group = Group(partitions, given)
    for partition in range(partitions):
        group.append(*[b"%d" % i for i in range(20)], partition=partition)
    return group
