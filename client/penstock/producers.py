"""Producers with a name, of one client: which id each has, and when it needs another one.

All handles of a client that name the same producer share it. It is opened when it is first produced with, and
from then on every earlier instance is fenced. Once this one is, it stays so.

A batch whose outcome is not known ends the use of an id, as that of any producer (see lanes.py). But the id
of a name is that of all its addresses. So nothing new is sent anywhere under it until whatever may have been
appended has an outcome; then the name is opened again, which succeeds only if nobody else has done so.
"""

import asyncio
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from penstock.connection import Wire
from penstock.errors import Error, Stale
from penstock.lanes import Address, Batch, Lane
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import OpenProducer


class Producer:
    """One name. `id`: 0 before it is opened, and while it needs another one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = 0
        self.was_opened = False
        self.refusal: Stale | None = None
        """It is fenced."""
        self.lanes: list[Lane] = []
        self.opening: asyncio.Task[None] | None = None

    def give_up(self) -> int:
        """The id has come to its end in one lane, and so in all of them."""
        self.id = 0
        for lane in self.lanes:
            lane.barred = True
        return 0

    @property
    def in_doubt(self) -> bool:
        """A batch under the id may still be appended."""
        return any(batch.in_doubt for lane in self.lanes for batch in lane.batches())


class Producers:
    """Those of one client. `wake`: look what a lane can send; `end`: a batch has its outcome."""

    def __init__(self, wire: Wire, wake: Callable[[Lane], None], end: Callable[[Batch, Error], None]) -> None:
        self._wire = wire
        self._wake = wake
        self._end = end
        self._named: dict[str, Producer] = {}

    async def ready(self, name: str, timeout: float | None) -> None:
        """Return when records can be produced under that name. Raises `Stale` once it is fenced."""
        producer = self._named.get(name)
        if producer is None:
            producer = self._named[name] = Producer(name)
        if producer.refusal is not None:
            raise copy(producer.refusal)
        if not producer.was_opened:
            await asyncio.shield(self._opening(producer, timeout))
        elif not producer.id:
            self.look(producer)

    def lane(self, place: Address) -> Lane:
        """The lane of an address under a name, which is ready."""
        producer = self._named[place.producer]
        lane = Lane(place, producer.id, producer.give_up)
        lane.barred = not producer.id
        producer.lanes.append(lane)
        return lane

    def ended(self, lane: Lane, outcome: object) -> None:
        """A batch of a lane has its outcome: the name may be fenced, or free for another id."""
        producer = self._named[lane.address.producer]
        if isinstance(outcome, Stale):
            producer.refusal = producer.refusal or outcome
        if not producer.id:
            asyncio.get_running_loop().call_soon(self.look, producer)

    def is_fenced(self, lane: Lane) -> bool:
        """Another instance has the name."""
        return self._named[lane.address.producer].refusal is not None

    def look(self, producer: Producer) -> None:
        """Open it again if it needs that, and nothing of it is in doubt."""
        if not producer.id and producer.refusal is None and not producer.in_doubt and not self._wire.closed:
            self._opening(producer, None)

    def _opening(self, producer: Producer, timeout: float | None) -> "asyncio.Task[None]":
        if producer.opening is None:
            producer.opening = asyncio.ensure_future(self._open(producer, timeout))
            producer.opening.add_done_callback(partial(self._opened, producer))
        return producer.opening

    async def _open(self, producer: Producer, timeout: float | None) -> None:
        request = OpenProducer(producer.name, producer.was_opened)
        reply: Any = await self._wire.request(request, timeout=timeout)
        producer.id = unpack_document(reply.payload)["producer_id"]
        producer.was_opened = True
        for lane in producer.lanes:
            lane.begin(producer.id)
            self._wake(lane)

    def _opened(self, producer: Producer, task: "asyncio.Task[None]") -> None:
        producer.opening = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Stale):
            producer.refusal = error
            for lane in producer.lanes:
                for batch in lane.batches():
                    lane.remove(batch)
                    self._end(batch, copy(error))
