"""Being a member of a consumer group: joining, signs of life, leaving. What the member may read is told to
its holder, which carries it out and says so by `done`.

One HEARTBEAT is open at a time; the broker answers when there is something new, or when the next one is due.
Whoever is no member any more joins again with what it has in hand. None of that waits for the application, as
long as the event loop runs.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from penstock import retry
from penstock.errors import Disconnected, Error, Stale, Timeout
from penstock.values import TopicPartition
from penstock_protocol.messages.groups import Heartbeat, Join, Leave
from penstock_protocol.messages.schema import pack_document, unpack_document

if TYPE_CHECKING:
    from penstock.client import Client

log = logging.getLogger("penstock")

AGAIN = (Timeout, Disconnected, *retry.AGAIN)
"""What ends a request and not the membership. The request has waited before."""
LEAVE_SECONDS_MAX = 5.0


class Holder(Protocol):
    """Who reads what a member may read."""

    def told(self, places: frozenset[TopicPartition], *, rejoined: bool) -> None:
        """What may be read from now on. `rejoined`: since it was no member for a while."""
        ...

    def claims(self) -> Iterable[TopicPartition]:
        """What it has in hand, now that the membership is lost; it hands out nothing until it is told."""
        ...

    def failed(self, error: Exception) -> None:
        """There will be no membership any more."""
        ...


class Membership:
    """One member. `generation`: of the newest assignment it was told; commits carry it."""

    def __init__(
        self,
        client: "Client",
        group: str,
        topics: tuple[str, ...],
        holder: Holder,
        *,
        assignor: str,
        instance: str | None,
    ) -> None:
        self.group = group
        self.id = client.new_id()
        self.generation = 0
        self._wire = client.wire
        self._timeout = client.timeout
        self._topics = topics
        self._holder = holder
        self._assignor = assignor
        self._instance = instance
        self._done = 0
        self._joins = 0
        self._seen = 0
        """What the next HEARTBEAT says: 0 asks for the assignment whether it is new or not."""
        self._heartbeat_seconds = 0.0
        self._task: asyncio.Task[None] | None = None
        self._beating: asyncio.Future[Any] | None = None
        self._asking: list[asyncio.Future[None]] = []

    # Life

    async def join(self) -> None:
        """Become a member. Raises what the broker refuses it for."""
        await self._join({})
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """Give no more signs of life."""
        if self._task is not None:
            self._task.cancel()
        self._hasten()

    async def leave(self) -> None:
        """Give everything up, so that others have it at once. If that fails, the broker finds out."""
        self.stop()
        try:  # first: who is cancelled in here has left
            await self._wire.request(
                Leave(self.group, self.id), timeout=min(self._timeout, LEAVE_SECONDS_MAX)
            )
        except Error as error:
            log.debug("leaving group %r: %s", self.group, error)
        if self._task is not None:
            await asyncio.wait([self._task])

    def leave_now(self) -> None:
        """As `leave`, without waiting for the answer."""
        self.stop()
        self._wire.post(Leave(self.group, self.id), lambda reply: None)

    # What the holder says and asks

    def done(self, generation: int) -> None:
        """The assignment of that generation is carried out."""
        self._done = generation
        self._hasten()

    async def has_rejoined(self) -> bool:
        """Find out from the broker whether this is still a member; True if it was not, and is again."""
        joins = self._joins
        if self._task is not None and not self._task.done():
            asking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._asking.append(asking)
            self._seen = 0
            self._hasten()
            await asking
        return self._joins != joins

    def _hasten(self) -> None:
        """Ask anew at once; the broker answers the older HEARTBEAT when it sees the newer one."""
        if self._beating is not None:
            self._beating.cancel()

    # The task

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._beat()
                except AGAIN as error:
                    log.debug("group %r: %s", self.group, error)
                except Stale as error:
                    if error.detail.get("fenced"):
                        raise
                    await self._join_again(error)
        except Exception as error:
            self._holder.failed(error)
        finally:
            self._answer()

    async def _beat(self) -> None:
        """One sign of life, and what it brings."""
        request = Heartbeat(self.group, self.id, self._seen, self._done)
        timeout = self._heartbeat_seconds + self._timeout
        self._beating = asyncio.ensure_future(self._wire.request(request, timeout=timeout))
        try:
            await asyncio.wait([self._beating])
        finally:
            beating, self._beating = self._beating, None
            beating.cancel()
        if not beating.cancelled():
            self._told(beating.result(), rejoined=False)

    async def _join(self, claims: Mapping[str, list[int]]) -> None:
        payload = pack_document(dict(claims)) if claims else b""
        join = Join(self.group, self.id, self._topics, self._assignor, self._instance, payload)
        reply = await self._wire.request(join)
        self._joins += 1
        self._told(reply, rejoined=self._joins > 1)

    async def _join_again(self, why: Stale) -> None:
        claims: dict[str, list[int]] = {}
        for topic, partition in self._holder.claims():
            claims.setdefault(topic, []).append(partition)
        log.warning("no member of group %r any more, joining again: %s", self.group, why.message)
        while True:
            try:
                await self._join(claims)
            except AGAIN as error:
                log.debug("joining group %r: %s", self.group, error)
            else:
                return

    def _told(self, reply: Any, *, rejoined: bool) -> None:
        told: dict[str, Any] = unpack_document(reply.payload)
        self._heartbeat_seconds = told["heartbeat_ms"] / 1000
        self.generation = self._seen = told["generation"]
        if told["partitions"] is not None:
            places = (TopicPartition(topic, n) for topic, ns in told["partitions"].items() for n in ns)
            self._holder.told(frozenset(places), rejoined=rejoined)
        self._answer()

    def _answer(self) -> None:
        asking, self._asking = self._asking, []
        for each in asking:
            if not each.done():
                each.set_result(None)
