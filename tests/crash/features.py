"""Who works with queues that have features: messages with delays, message groups, priorities and dedup ids,
and the topic's records as messages; over the bare protocol, a few batches per connection.

What is early or goes before another the broker decides by its own clock, which nobody sees from outside: that
is for the simulator. Here it shows whether any of it is lost, doubled or turned round.
"""

from random import Random

import penstock
from tests.crash.bare import Bare
from tests.crash.consumers import RARELY
from tests.crash.field import (
    BACKOFF_SECONDS,
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    MAX_DELIVERIES,
    RETRY,
    Field,
    is_poison,
)
from tests.integration.raw import RawClient
from tests.sim.features import Traits
from tests.sim.history import Recorder
from tests.sim.story import PLAIN_FEATURES

GROUPS, IDS = 100, 500
BATCH_MAX, BATCHES_PER_CONNECTION, RECEIVES_PER_CONNECTION = 8, 6, 6
RECEIVE_MAX = 60
WAIT_SECONDS = 0.3
DEDUP_WINDOW_SECONDS = 300.0


async def create(client: penstock.Client, field: Field, recorder: Recorder) -> None:
    """The queues, and what the history is told of it."""
    limits = {"max_attempts": MAX_ATTEMPTS, "max_deliveries": MAX_DELIVERIES}
    times = {"visibility_timeout": LEASE_SECONDS, "dedup_window": DEDUP_WINDOW_SECONDS}
    await client.create_queue(field.special, retry=RETRY, **times, **limits)
    await client.create_queue(field.records, retry=RETRY, source=field.topic, **times, **limits)
    over = {"source": field.topic, "source_start": "earliest"}
    for queue, dead, more in (
        (field.special, field.special_dead, {}),
        (field.records, field.records_dead, over),
    ):
        recorder.note(
            "settings",
            queue=queue,
            dead_letter=dead,
            lease=LEASE_SECONDS,
            backoff=BACKOFF_SECONDS,
            special=PLAIN_FEATURES | {"dedup_window": DEDUP_WINDOW_SECONDS} | more,
            **limits,
        )


async def publish(field: Field, process: str) -> None:
    """A new connection for every few batches."""
    await Sender(field, process).send()


class Sender(Bare):
    """To the queue of messages that are more than plain."""

    def work(self, client: RawClient) -> None:
        """A few batches."""
        for _ in range(self.random.randint(1, BATCHES_PER_CONNECTION)):
            some = self.new(self.random.randint(1, BATCH_MAX))
            if not self.enqueue(client, self.field.special, some, [traits_of(self.random) for _ in some]):
                break


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
    await Taker(field, process, field.special, field.special_dead).take()


async def receive_records(field: Field, process: str) -> None:
    """The same of the queue over the topic."""
    await Taker(field, process, field.records, field.records_dead).take()


class Taker(Bare):
    """From a queue and where its dead letters go."""

    def __init__(self, field: Field, process: str, queue: str, dead: str) -> None:
        super().__init__(field, process)
        self._queue, self._dead = queue, dead

    def work(self, client: RawClient) -> None:
        """A few receives."""
        for _ in range(RECEIVES_PER_CONNECTION):
            self._take(client, self._queue, WAIT_SECONDS)
        self._take(client, self._dead, 0)

    def _take(self, client: RawClient, queue: str, wait: float) -> None:
        messages = self.receive(client, queue, RECEIVE_MAX, wait)
        poison = [each for each in messages if queue == self._queue and is_poison(each["value"])]
        if queue == self._dead or self.random.random() > RARELY:  # a dead letter would be away for long
            self.settle(client, queue, "ack", [each for each in messages if each not in poison])
            self.settle(client, queue, "nack", poison)
