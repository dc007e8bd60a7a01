"""What one client published and was told, and what the broker has of it: a topic of one partition, a queue.

Over bare connections: nothing is repeated, and nothing is waited for that the broker does not do.
"""

import time
from collections.abc import Callable
from itertools import count
from typing import Any

from penstock_protocol.batch import BatchBuilder
from penstock_protocol.errors import Busy
from penstock_protocol.messages.queues import Ack, CreateQueue, Enqueue, Receive
from penstock_protocol.messages.topics import Commit, CreateTopic, Fetch, Offsets, Produce
from penstock_protocol.slices import Range, decode_slices, encode_ranges
from tests.crash.bare import in_slice
from tests.integration.raw import RawClient
from tests.sim.history import Record, payload

BATCH, BODY_BYTES = 10, 1_000
FETCH_MAX, FETCH_BYTES = 1_000, 1 << 20
TOPIC, QUEUE, GROUP = "records", "messages", "readers"

Values = dict[int, str | None]
"""Offset → value; None for a body that is not as it was sent."""


class Books:
    """`produced` and `enqueued`: what was confirmed, by offset; `taken`: what was acked, with a receipt."""

    def __init__(self) -> None:
        self.produced: Values = {}
        self.produced_at: dict[int, float] = {}
        """Offset → monotonic time before the first byte was sent."""
        self.enqueued: Values = {}
        self.taken: Values = {}
        self._numbers = count()

    def open(self, client: RawClient) -> None:
        """Create topic and queue, or leave those there are."""
        client.ask(CreateTopic(TOPIC, {}, "keep"))
        client.ask(CreateQueue(QUEUE, {}, "keep"))

    def produce(self, client: RawClient, size: int = BODY_BYTES) -> None:
        """A batch of records; the error reply is raised."""
        values, began = self._new(), time.monotonic()
        first = client.ask(Produce(TOPIC, 0, None, _batch(values, size))).first
        self.produced |= enumerate(values, first)
        self.produced_at |= dict.fromkeys(range(first, first + BATCH), began)

    def enqueue(self, client: RawClient, size: int = BODY_BYTES) -> None:
        """A batch of messages; the error reply is raised."""
        values = self._new()
        first = client.ask(Enqueue(QUEUE, _batch(values, size))).first
        self.enqueued |= enumerate(values, first)

    def take(self, client: RawClient, most: int = 100) -> int:
        """Receive messages and ack them; how many."""
        messages = _messages(client.ask(Receive(QUEUE, most, 0)))
        if messages:
            ranges = [Range(each["token"], each["offset"], 0, 1) for each in messages]
            stale = client.ask(Ack(QUEUE, encode_ranges(ranges))).payload
            assert not stale, "every lease was new"
        self.taken |= {each["offset"]: each["value"] for each in messages}
        return len(messages)

    def commit(self, client: RawClient, offset: int) -> None:
        """Commit an offset, and see that it is what is committed."""
        client.ask(Commit(GROUP, TOPIC, ((0, offset, ""),)))
        assert client.ask(Offsets(GROUP, TOPIC)).payload

    def read(self, client: RawClient) -> Values:
        """All records of the topic."""
        found: Values = {}
        while some := _messages(client.ask(Fetch(TOPIC, 0, len(found), FETCH_MAX, FETCH_BYTES, 0))):
            found |= {each["offset"]: each["value"] for each in some}
        return found

    def _new(self) -> list[str]:
        return [f"v-{next(self._numbers)}" for _ in range(BATCH)]


def patiently(act: Callable[[], None]) -> None:
    """Do it as often as the broker says that it is too busy."""
    while True:
        try:
            act()
        except Busy:
            continue
        return


def _batch(values: list[str], size: int) -> bytes:
    builder = BatchBuilder()
    builder.extend([payload(value, size) for value in values])
    return builder.encode()


def _messages(reply: Any) -> list[Record]:
    slices = decode_slices(memoryview(reply.payload), reply.slices)
    return [message for stamps, batch in slices for message in in_slice(stamps, batch)]
