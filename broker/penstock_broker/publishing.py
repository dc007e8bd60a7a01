"""A batch enters a log: who sent it may, it is new, it is allowed, there is room; then it is one entry."""

from typing import TYPE_CHECKING

from penstock_broker import durability
from penstock_broker.answers import Answer, Call
from penstock_broker.clock import Now
from penstock_broker.producers import Outcome
from penstock_broker.queues import judging, traits
from penstock_broker.queues.admission import admit, oldest
from penstock_broker.queues.outcomes import PLAIN, Admission, Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.storage import entries
from penstock_broker.storage.compaction import has_keys
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.topics.partition import Partition
from penstock_protocol.batch import BatchView
from penstock_protocol.errors import Busy, Closing, Conflict, Invalid, QueueFull, Stale
from penstock_protocol.limits import INT_MAX
from penstock_protocol.messages.queues import Confirm

if TYPE_CHECKING:
    from penstock_broker.core import Core
    from penstock_broker.session import Connection


class Publishing:
    """The publishes of one node."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.unconfirmed = 0
        """Bytes of publishes that are not confirmed yet, all connections."""
        self.payload_bytes = 0

    def publish(
        self,
        call: Call,
        target: Queue | Partition,
        number: int,
        payload: memoryview,
        expected_offset: int | None = None,
    ) -> None:
        """Append a batch to a log: dedup, then limits, then the journal; confirmed when it is durable in the
        log's mode."""
        core = self._core
        batch = BatchView(payload)
        connection = call.connection
        log, within = target.log, target.within
        mode = durability.name(within)
        flags, detail = 0, b""
        if batch.producer_id:
            known = self._known(connection, target, batch)
            if known is not None:
                first, messages, time, exceptions = known
                again = Confirm(number, first, messages, True, mode, batch.length, time, log.uuid, exceptions)
                core.answer(call, again, target.changed_at, within)
                return
            flags, detail = entries.PRODUCER_FLAG, entries.PRODUCER.pack(batch.producer_id, batch.sequence)
        if core.stopping:
            raise Closing("the broker is stopping", retry_after=1.0)
        batch.check(core.settings.message_bytes_max)
        if expected_offset is not None and expected_offset != log.end:
            raise _unexpected(target, number, expected_offset)
        self._check_credit(connection, batch.length)
        admission = self.admit(target, batch, call.now)
        first = log.end
        flags, detail = flags | admission.flags, detail + admission.detail
        part = Part(target.uuid, Kind.APPEND, first, batch.count, flags, detail, 0)
        engine = core.engine
        position = engine.append(
            [part, *admission.settles],
            [Body(batch.view, batch.crc)],
            wall=call.now.wall,
            publish=True,
            within=within,
        )
        connection.published += batch.length
        self.unconfirmed += batch.length
        self.payload_bytes += batch.length
        confirm = Confirm(
            number,
            first,
            batch.count,
            False,
            mode,
            batch.length,
            engine.journal.time,
            log.uuid,
            admission.exceptions,
        )
        engine.wait(position, Answer(call, confirm, None, batch.length), within)
        core.deliveries.touch(target)

    def _known(self, connection: "Connection", target: Queue | Partition, batch: BatchView) -> Outcome | None:
        """The outcome of a batch that is here already. Raises what its producer or its number is refused
        with; a producer that is fenced is still told of what it did before."""
        self._core.presence.check_producer(connection, batch.producer_id)
        if not self._core.registry.named.fences(batch.producer_id):
            return target.producers.check(batch.producer_id, batch.sequence)
        expected = target.producers.expected(batch.producer_id)
        known = (
            target.producers.check(batch.producer_id, batch.sequence) if batch.sequence < expected else None
        )
        if known is None:
            raise Stale(
                "another instance has taken over this producer, or its name was deleted",
                hint="stop this instance; to take the name back, open it again",
                detail={"expected": expected},
            )
        return known

    def spent(self, connection: "Connection", size: int) -> None:
        """A publish of that many bytes has its outcome."""
        connection.published -= size
        self.unconfirmed -= size

    def _check_credit(self, connection: "Connection", size: int) -> None:
        settings = self._core.settings
        if connection.published and connection.published + size > settings.credit_bytes:
            raise Busy("the publish is beyond the connection's credit", retry_after=0.01)
        if self.unconfirmed and self.unconfirmed + size > settings.publish_pool_bytes:
            raise Busy("the node's pool of unconfirmed publishes is used up", retry_after=0.01)

    def admit(
        self, target: Queue | Partition, batch: BatchView, now: Now, run: str | None = None
    ) -> Admission:
        """What belongs into the same entry. Raises what the batch is refused with. `run`: of a schedule."""
        if isinstance(target, Partition):
            if batch.column_table and traits.has_traits(batch):
                raise Invalid(
                    "a topic keeps records: no delay, ttl, priority, message group, dedup id or job key",
                    hint="publish it to a queue",
                )
            if target.compacts and not has_keys(batch):
                raise Invalid(
                    f"topic {target.topic!r} is compacted to the last record of a key: one has no key",
                    hint='give every record a key, or alter the topic to cleanup="delete"',
                )
            target.check_room(batch.count, batch.length)
            return PLAIN
        if target.borrowed:
            raise Invalid(
                f"queue {target.name!r} has the records of topic {target.policy.source!r}",
                hint="produce to the topic",
            )
        if batch.codec:
            raise Invalid(
                "a queue takes no compressed batch", hint="compress each body, or produce to a topic"
            )
        target.used_at = now.mono
        if not batch.column_table and target.takes_plainly:
            target.check_room(batch.count, batch.length)
            return PLAIN
        admission = admit(target, batch, now.wall, run)
        messages = max(0, batch.count - len(admission.gone))
        if target.policy.overflow != "reject":
            return self._make_room(target, messages, batch.length, admission, now)
        target.check_room(messages, batch.length)
        return admission

    def _make_room(self, queue: Queue, more: int, size: int, admission: Admission, now: Now) -> Admission:
        """The oldest messages go for so many more. Raises `QueueFull` if that does not help."""
        drops = queue.policy.overflow == "drop_oldest"
        dead = None if drops else self._core.registry.queues.get(queue.policy.dead_letter or "")
        runs = oldest(queue, more, size, admission.gone, INT_MAX if dead is None else dead.room[0])
        if not runs:
            return admission
        messages = sum(count for _, count in runs)
        if drops:
            queue.counters["dropped"] += messages
            return admission._replace(settles=(*admission.settles, queue.settle_part(runs, Settled.PURGED)))
        if dead is not None and messages > dead.room[0]:
            raise QueueFull(f"queue {queue.name!r} is full, and so is its dead-letter queue {dead.name!r}")
        queue.seize(runs)
        self._core.burial.bury(queue, judging.dead(queue, runs, "overflow"), now)
        return admission


def _unexpected(target: Queue | Partition, number: int, expected: int) -> Conflict:
    """The log ends elsewhere than the producer thought: somebody was there meanwhile, or never so far."""
    assert isinstance(target, Partition), "only PRODUCE expects an offset"
    end = target.log.end
    return Conflict(
        f"partition {number} of {target.topic!r} ends at {end}, not at {expected}",
        hint=f"read what is there up to {end}, decide anew, and expect {end}",
        detail={"partition": number, "expected": expected, "end": end},
    )
