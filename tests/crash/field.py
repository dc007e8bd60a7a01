"""What all who take part in one era share: names, the ledger, where the broker is, when to stop.

An era has a queue, its dead-letter queue, both once more for messages that are more than plain, a topic, both
over that topic, and a history that is judged by itself.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from random import Random

import penstock
from tests.crash.ledger import Ledger
from tests.integration.raw import RawClient
from tests.sim.history import payload

PARTITIONS = 2
BACKLOG_MAX = 1_500
"""Messages that nobody has seen, beyond which the producers rest."""
LEASE_SECONDS = 3.0
MAX_ATTEMPTS, MAX_DELIVERIES = 3, 30
RETRY = penstock.Backoff(initial=0.1, factor=2, max=0.4, jitter=0.2)
BACKOFF_SECONDS = 0.4 * 1.2
SIZES = (60, 60, 200, 200, 200, 1_000, 1_000, 4_000)
LARGE = 300_000
BATCH_MAX = 60
"""One body in five hundred: its entry is a block in a file of its own."""


class Field:
    """See above. `up` is set while the broker serves, `idle` when the producers shall stop, `over` when all
    shall."""

    def __init__(self, address: tuple[str, int], era: int, random: Random) -> None:
        self.address = address
        self.jobs, self.dead, self.topic = f"jobs-{era}", f"jobs-{era}.dead", f"events-{era}"
        self.special, self.special_dead = f"jobs-{era}.special", f"jobs-{era}.special.dead"
        self.records, self.records_dead = f"jobs-{era}.records", f"jobs-{era}.records.dead"
        self.random = random
        self.ledger = Ledger()
        self.recorder = self.ledger.recorder
        self.up = asyncio.Event()
        self.idle = asyncio.Event()
        self.over = asyncio.Event()
        self._made = self._large_from = 0
        self._stops: set[Callable[[], None]] = set()

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Inside, `end` calls `stop`; at once if it is over already."""
        self._stops.add(stop)
        if self.over.is_set():
            stop()
        try:
            yield
        finally:
            self._stops.discard(stop)

    def end(self) -> None:
        """It is over: everybody finishes what they have in hand."""
        self.over.set()
        for stop in self._stops:
            stop()

    def connect(self) -> penstock.Client:
        """A client, which goes on by itself when the broker dies."""
        host, port = self.address
        return penstock.connect(f"penstock://{host}:{port}", connect_timeout=30.0, timeout=60.0)

    def connect_raw(self) -> RawClient:
        """A connection without any cleverness. Raises `OSError` while the broker is down."""
        return RawClient(self.address)

    def log(self, partition: int) -> str:
        """What a partition of the topic is called in the history."""
        return f"{self.topic}/{partition}"

    def body(self, value: str) -> bytes:
        """A body that only this value can have, of some size."""
        self._made += 1
        if self._made >= self._large_from and self.random.random() < 1 / 500:
            self._large_from = self._made + BATCH_MAX  # a batch of more than two would be too large
            return payload(value, LARGE)
        return payload(value, self.random.choice(SIZES))

    async def room(self) -> None:
        """Wait until there is something left to produce for, and a broker to take it."""
        await self.up.wait()
        await self.ledger.until(lambda: self.ledger.backlog < BACKLOG_MAX or self.idle.is_set(), 60.0)


def values(process: str) -> Callable[[int], list[str]]:
    """So many new values of a process at a call."""
    new = (f"{process}-{number}" for number in count())
    return lambda length: list(islice(new, length))


def is_poison(value: str) -> bool:
    """Every attempt at such a message fails."""
    return int(value.rpartition("-")[2]) % 20 == 0
