"""Who works with a queue that has features: messages with delays, message groups, priorities and dedup ids, a
few batches per connection, over the bare protocol.

What is early or goes before another the broker decides by its own clock, which nobody sees from outside: that
is for the simulator. Here it shows whether any of it is lost, doubled or turned round.
"""

import asyncio
from random import Random
from typing import Any

import msgpack

import penstock
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.messages.queues import Ack, Enqueue, Nack, Outcome, Receive
from penstock_protocol.slices import (
    Range,
    Slice,
    decode_exceptions,
    decode_ranges,
    decode_slices,
    encode_ranges,
)
from tests.crash.consumers import RARELY, in_slice
from tests.crash.field import (
    BACKOFF_SECONDS,
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    MAX_DELIVERIES,
    RETRY,
    Field,
    is_poison,
    values,
)
from tests.crash.ledger import asked
from tests.integration.raw import RawClient
from tests.sim.features import Traits, encoded
from tests.sim.history import Record, Recorder

GROUPS, IDS = 100, 500
BATCH_MAX, BATCHES_PER_CONNECTION, RECEIVES_PER_CONNECTION = 8, 6, 6
RECEIVE_MAX = 60
WAIT_SECONDS = 0.3
DEDUP_WINDOW_SECONDS = 300.0
SPECIAL: Record = {
    "delay": 0.0,
    "ttl": None,
    "on_expiry": "drop",
    "dedup_window": DEDUP_WINDOW_SECONDS,
    "job_scope": "done",
    "priority_ageing": None,
    "overflow": "reject",
    "fair": False,
    "group_concurrency": None,
    "group_failure": "block",
}


async def create(client: penstock.Client, field: Field, recorder: Recorder) -> None:
    """The queue, and what the history is told of it."""
    limits = {"max_attempts": MAX_ATTEMPTS, "max_deliveries": MAX_DELIVERIES}
    await client.create_queue(
        field.special,
        visibility_timeout=LEASE_SECONDS,
        retry=RETRY,
        dedup_window=DEDUP_WINDOW_SECONDS,
        **limits,
    )
    recorder.note(
        "settings",
        queue=field.special,
        dead_letter=field.special_dead,
        lease=LEASE_SECONDS,
        backoff=BACKOFF_SECONDS,
        special=SPECIAL,
        **limits,
    )


async def publish(field: Field, process: str) -> None:
    """A new connection for every few batches."""
    sender = Sender(field, process)
    while not field.idle.is_set():
        await field.room()
        await asyncio.to_thread(sender.run)


class Sender:
    """Works in a thread."""

    def __init__(self, field: Field, process: str) -> None:
        self._field = field
        self._random = field.random
        self._new = values(process)
        self._recorder = field.recorder(process)

    def run(self) -> None:
        """One connection, until it has sent enough or something went wrong."""
        try:
            with self._field.connect_raw() as client:
                for _ in range(self._random.randint(1, BATCHES_PER_CONNECTION)):
                    if not self._enqueue(client):
                        break
        except OSError:
            return  # nobody listens, or nobody greets any more

    def _enqueue(self, client: RawClient) -> bool:
        some = self._new(self._random.randint(1, BATCH_MAX))
        traits = [traits_of(self._random) for _ in some]
        batch = encoded([self._field.body(value) for value in some], traits)
        fields: Record = {"queue": self._field.special, "values": some, "traits": traits}
        with asked(self._recorder, "enqueue", **fields) as answer:
            confirm = client.ask(Enqueue(self._field.special, bytes(batch)))
            answer["first"] = confirm.first
            answer["exceptions"] = [list(each) for each in decode_exceptions(confirm.payload)]
        return "first" in answer


def traits_of(random: Random) -> Traits:
    """Some of them, each now and then."""
    traits: Traits = {}
    if random.random() < 0.3:
        traits["delay"] = random.choice((0.02, 0.2, 1.0))
    if random.random() < 0.5:
        traits["group"] = f"g{random.randrange(GROUPS)}"
    if random.random() < 0.3:
        traits["priority"] = random.choice((1, 9))
    if random.random() < 0.3:
        traits["dedup"] = f"d{random.randrange(IDS)}"
    return traits


async def receive(field: Field, process: str) -> None:
    """A new connection for every few receives; sometimes it is lost before anything is settled."""
    taker = Taker(field, process)
    while not field.over.is_set():
        await field.up.wait()
        await asyncio.to_thread(taker.run)


def in_slice_beyond(stamps: Slice, batch: memoryview) -> list[Record]:
    """The messages of one slice, with what else is told of them."""
    messages = [{**each, "time": stamps.time / 1000} for each in in_slice(stamps, batch)]
    for message, cell in zip(messages, BatchView(batch).cells(Kind.HISTORY) or (), strict=False):
        if cell:
            message["history"] = msgpack.unpackb(cell)
    return messages


class Taker:
    """Works in a thread."""

    def __init__(self, field: Field, process: str) -> None:
        self._field = field
        self._random = field.random
        self._recorder = field.recorder(process)

    def run(self) -> None:
        """One connection."""
        try:
            with self._field.connect_raw() as client:
                for _ in range(RECEIVES_PER_CONNECTION):
                    self._take(client, self._field.special, WAIT_SECONDS)
                self._take(client, self._field.special_dead, 0)
        except OSError:
            return  # nobody listens, or nobody greets any more

    def _take(self, client: RawClient, queue: str, wait: float) -> None:
        messages: list[Record] = []
        with asked(self._recorder, "receive", queue=queue, wait=wait) as answer:
            delivery = client.ask(Receive(queue, RECEIVE_MAX, round(wait * 1000)))
            for stamps, batch in decode_slices(memoryview(delivery.payload), delivery.slices):
                messages += in_slice_beyond(stamps, batch)
            answer["messages"] = messages
        poison = [each for each in messages if queue == self._field.special and is_poison(each["value"])]
        good = [each for each in messages if each not in poison]
        if self._random.random() > RARELY:
            self._settle(client, queue, "ack", good)
            self._settle(client, queue, "nack", poison)

    def _settle(self, client: RawClient, queue: str, verb: str, found: list[Record]) -> None:
        if not found:
            return
        pairs = [[each["offset"], each["token"]] for each in found]
        payload = encode_ranges(Range(token, offset, 0, 1) for offset, token in pairs)
        fields: Record = {"queue": queue, "messages": pairs}
        request: Any = Ack(queue, payload)
        if verb == "nack":
            fields["delay"] = 0.0
            request = Nack(queue, Outcome.RETRY, 0, "poison", payload)
        with asked(self._recorder, verb, **fields) as answer:
            ranges = decode_ranges(memoryview(client.ask(request).payload))
            answer["stale"] = [[each.first + i, each.token] for each in ranges for i in range(each.messages)]
