"""Who speaks the bare protocol: a connection serves for a few requests, and nothing is ever repeated. This
work is done in a thread."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

import msgpack

from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.messages.queues import Ack, Enqueue, Nack, Outcome, Receive
from penstock_protocol.slices import (
    REDELIVERED,
    Range,
    Slice,
    decode_exceptions,
    decode_ranges,
    decode_slices,
    encode_ranges,
)
from tests.crash.field import Field, values
from tests.crash.ledger import asked
from tests.integration.raw import RawClient
from tests.sim.features import Traits, encoded
from tests.sim.history import LANE, Record, value_of


class Bare(ABC):
    """One of them; what it does with a connection is `work`."""

    def __init__(self, field: Field, process: str) -> None:
        self.field = field
        self.random = field.random
        self.new = values(process)
        self.recorder = field.recorder(process)

    @abstractmethod
    def work(self, client: RawClient) -> None:
        """Until enough was done, or something went wrong."""

    def run(self) -> None:
        """One connection."""
        try:
            with self.field.connect_raw() as client:
                self.work(client)
        except OSError:
            return  # nobody listens, or nobody greets any more

    async def send(self) -> None:
        """One connection after another, as long as there is something to produce for."""
        while not self.field.idle.is_set():
            await self.field.room()
            await asyncio.to_thread(self.run)

    async def take(self) -> None:
        """The same until all is over."""
        while not self.field.over.is_set():
            await self.field.up.wait()
            await asyncio.to_thread(self.run)

    def enqueue(
        self, client: RawClient, queue: str, some: list[str], traits: list[Traits] | None = None
    ) -> bool:
        """One batch; whether it was confirmed."""
        fields: Record = {"queue": queue, "values": some} | ({"traits": traits} if traits else {})
        batch = encoded([self.field.body(value) for value in some], traits or ())
        with asked(self.recorder, "enqueue", **fields) as answer:
            confirm = client.ask(Enqueue(queue, bytes(batch)))
            answer["first"] = confirm.first
            if traits:
                answer["exceptions"] = [list(each) for each in decode_exceptions(confirm.payload)]
        return "first" in answer

    def receive(self, client: RawClient, queue: str, most: int, wait: float) -> list[Record]:
        """Messages as the history has them."""
        messages: list[Record] = []
        with asked(self.recorder, "receive", queue=queue, wait=wait) as answer:
            delivery = client.ask(Receive(queue, most, round(wait * 1000)))
            for stamps, batch in decode_slices(memoryview(delivery.payload), delivery.slices):
                messages += in_slice(stamps, batch)
            answer["messages"] = messages
        return messages

    def settle(
        self, client: RawClient, queue: str, verb: str, found: list[Record], delay: int | None = 0
    ) -> None:
        """Ack, or nack with a delay (ms; None: the queue's)."""
        if not found:
            return
        pairs = [[each["offset"], each["token"]] for each in found]
        payload = encode_ranges(Range(token, offset % LANE, offset // LANE, 1) for offset, token in pairs)
        fields: Record = {"queue": queue, "messages": pairs}
        request: Any = Ack(queue, payload)
        if verb == "nack":
            fields["delay"] = None if delay is None else delay / 1000
            request = Nack(queue, Outcome.RETRY, delay, "poison", payload)
        with asked(self.recorder, verb, **fields) as answer:
            stale = decode_ranges(memoryview(client.ask(request).payload))
            answer["stale"] = [[place(each, i), each.token] for each in stale for i in range(each.messages)]


def place(stamps: Slice | Range, i: int) -> int:
    """The offset of a message of it in the history."""
    return stamps.partition * LANE + stamps.first + i


def in_slice(stamps: Slice, batch: memoryview) -> list[Record]:
    """The messages of one slice as the history has them."""
    view = BatchView(batch)
    bodies, ends = view.bodies(), view.ends()
    messages = [
        {
            "value": value_of(bytes(bodies[start:end])),
            "offset": place(stamps, i),
            "token": stamps.token,
            "attempt": stamps.attempt,
            "delivery": stamps.delivery,
            "redelivered": bool(stamps.flags & REDELIVERED),
            "lease": stamps.lease / 1000,
            "time": stamps.time / 1000,
        }
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
    for message, cell in zip(messages, view.cells(Kind.HISTORY) or (), strict=False):
        if cell:
            message["history"] = msgpack.unpackb(cell)
    return messages
