"""The core: every decision of the broker, in plain functions that run to completion.

    handle(request) → plan → append → apply       done(job) → W moves on       tick → what time brings
                                  drain → [Send | Close | Job]

Nothing here awaits, reads a clock or touches a file, so nothing needs a lock and all of it runs in a
simulator. An output leaves only when what it says is durable in its mode.
"""

from collections.abc import Hashable
from random import Random
from typing import Any
from uuid import UUID

from penstock_broker import durability
from penstock_broker.alarms import Alarms
from penstock_broker.answers import Answer, Call, Cold, Reading, cold_extents, materialize
from penstock_broker.burial import Burial
from penstock_broker.catalogue import part_for
from penstock_broker.clock import Now
from penstock_broker.deliveries import DELIVER, Deliveries
from penstock_broker.durability import OS_MS
from penstock_broker.facts import NodeFacts
from penstock_broker.groups.coordinator import Coordinator, Member
from penstock_broker.handlers import HANDLERS
from penstock_broker.lifetimes import Lifetimes
from penstock_broker.membership import Membership
from penstock_broker.observing import observe
from penstock_broker.outputs import Output, Send
from penstock_broker.presence import Presence
from penstock_broker.publishing import Publishing
from penstock_broker.queues.leases import Tokens
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.schedules import Schedule
from penstock_broker.registry import Registry
from penstock_broker.session import Connection, Session
from penstock_broker.settings import CoreSettings
from penstock_broker.shutdown import Shutdown
from penstock_broker.storage.engine import Engine, EngineSettings
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.files import Extent, Files, Job, Load
from penstock_broker.storage.node import NODE
from penstock_broker.timetable import Timetable
from penstock_broker.topics.partition import Partition
from penstock_broker.topics.retention import Retention
from penstock_broker.topics.topic import Topic
from penstock_protocol.errors import (
    Busy,
    Closing,
    Corrupt,
    DiskFull,
    Error,
    Invalid,
    NotFound,
    Refused,
    SequenceGap,
    Unauthenticated,
)
from penstock_protocol.limits import MIB
from penstock_protocol.messages.queues import Deliver, Enqueue
from penstock_protocol.messages.session import Document, Hello
from penstock_protocol.messages.topics import Produce
from penstock_protocol.verbs import Verb

SPACE_ALARM = "space"
AGAIN_ALARM = "again"
RETENTION_ALARM = "retention"
GROUPS_ALARM = "groups"
GROUPS_EVERY_MS = 60_000
"""Between two looks for groups that nobody uses any more."""
BURST_BYTES_MAX = 2 * MIB
"""Payload for one connection in one turn; the rest waits until its socket has taken that."""


DOCUMENTS_BYTES_MAX = 4 * MIB
"""Descriptions and listings for one connection that were not sent yet."""


class Core:
    """One node, from its data directory to its outputs.

    Opening recovers the directory, synchronously; raises `StorageError` with one clear line.
    """

    def __init__(self, files: Files, settings: CoreSettings, random: Random, now: Now) -> None:
        self.settings = settings
        self._random = random
        tokens = Tokens()
        self.registry = Registry(tokens, random, durability.parse(settings.durability))
        sizes = EngineSettings(
            settings.journal_budget_bytes,
            settings.journal_file_bytes_min,
            settings.journal_file_bytes_max,
            settings.compaction_dirty_ratio,
        )
        self.engine: Engine[Answer] = Engine(
            files, sizes, self.registry, self.registry.node, self.registry.use, random
        )
        self.report = self.engine.open(now.wall)
        tokens.begin(self.engine.journal.boot)
        self._boot(now)
        self._alarms: Alarms[Hashable] = Alarms()
        self.burial = Burial(
            self.registry, self.engine, self.new_uuid, lambda queue: self.deliveries.touch(queue)
        )
        self.deliveries = Deliveries(self.engine, self.burial, self._alarms, self)
        self.presence = Presence(self.deliveries, self._alarms, settings.session_grace_ms)
        self._shutdown = Shutdown(self)
        self._now = Now(now.mono, max(now.wall, self.engine.journal.time))
        self.publishing = Publishing(self)
        self.stale_settles = 0
        self.recovery_seconds = 0.0
        """How long opening took; whoever has a clock says so."""
        self._outputs: list[Output] = []
        self._burst: dict[Connection, int] = {}
        """Payload bytes this turn, per connection."""
        self._deferred: list[Answer] = []
        """Readings for connections that have enough for this turn, or whose bytes are loaded."""
        self._held: set[Connection] = set()
        """Whose they are: what comes behind waits, too, for deliveries keep their order."""
        for queue in self.registry.lanes():
            self.deliveries.arm(queue, self._now)
            if queue.borrowed:
                self.deliveries.touch(queue)  # retention may have gone on after the queue's last word
        self._alarms.set(SPACE_ALARM, now.mono)
        self.lifetimes = Lifetimes(self, now)
        self.membership = Membership(self, self._alarms, self.engine.journal.boot, now)
        self._alarms.set(GROUPS_ALARM, now.mono + GROUPS_EVERY_MS)
        self.timetable = Timetable(self)
        for schedule in self.registry.schedules.values():
            self.arm_schedule(schedule, self._now)
        self._retention = Retention(self.registry, self.engine, self.deliveries.touch)
        self._alarms.set(RETENTION_ALARM, now.mono)
        self.ready = True

    def _boot(self, now: Now) -> None:
        node = self.registry.node
        first = not any(node.id)
        part = Part(
            NODE, Kind.BOOT, self.engine.journal.boot, 0, int(node.clean), self.new_uuid() if first else b""
        )
        self.engine.append([part], wall=now.wall)
        self.engine.flush(now.wall)

    # ---- What the shell calls

    def connected(self, peer: object) -> Connection:
        """A socket was accepted; `peer` is the shell's handle."""
        return self.presence.connected(peer)

    def handle(self, connection: Connection, verb: Verb, correlation: int, message: Any, now: Now) -> None:
        """One message of a peer: a request, or the `Error` that its content amounts to."""
        if connection.closed or connection.parting:
            return
        now = self._at(now)
        correlation = correlation if verb.reply is not None else 0
        call = Call(connection, verb, correlation, now)
        connection.requests += bool(correlation)
        try:
            if isinstance(message, Error):
                raise message
            if correlation and correlation in connection.waits:
                raise Invalid(f"request {correlation} of this connection is still open")
            if connection.requests > self.settings.requests_max:
                raise Busy(
                    f"more than {self.settings.requests_max:,} requests without a reply", retry_after=0.05
                )
            if connection.session is None and not isinstance(message, Hello):
                raise Unauthenticated("the handshake was refused")
            if connection.documents > DOCUMENTS_BYTES_MAX:
                raise Busy("descriptions and listings wait to be sent", retry_after=0.05)
            if self._shutdown.closed and not isinstance(message, Hello):
                raise Closing("the broker is stopping", retry_after=1.0)
            HANDLERS[verb.code](self, call, message)
        except Refused as error:
            self._refuse(call, message, error)
        if connection.session is None:
            self.presence.part(connection, "the handshake was refused")

    def disconnected(self, connection: Connection, now: Now) -> None:
        """The socket is gone."""
        now = self._at(now)
        self.presence.lost(connection, now)

    def blocked(self, connection: Connection, blocked: bool, now: Now) -> None:
        """The socket's write buffer went over its mark, or fell below it again."""
        self._at(now)
        connection.blocked = blocked
        session = connection.session
        if session is not None and not blocked:
            for subscription in session.subscriptions.values():
                self.deliveries.touch(subscription.queue)
            for target, _ in connection.waits.values():
                self.deliveries.touch(target)

    def done(self, job: Job, result: object, now: Now) -> None:
        """The result of a job, or the exception it raised. `StorageFailed`: the broker must stop."""
        self._at(now)
        self.engine.done(job, result)

    def tick(self, now: Now) -> int | None:
        """Do what time has brought about; the mono ms at which it will next."""
        now = self._at(now)
        for key in self._alarms.due(now.mono):
            if isinstance(key, Queue | Partition):
                if self.registry.get(key.uuid) is key:
                    self.deliveries.due(key, now)
            elif isinstance(key, Session):
                self.end(key, now)
            elif isinstance(key, Coordinator | Member):
                self.membership.due(key, now)
            elif isinstance(key, Schedule):
                if not self._shutdown.begun:
                    self.timetable.due(key, now)
                    self.arm_schedule(key, now)
            elif key == SPACE_ALARM:
                self._alarms.set(SPACE_ALARM, self.engine.tick(now.mono, now.wall))
                if not self._shutdown.begun:
                    self.lifetimes.look(now)
            elif key == RETENTION_ALARM and not self._shutdown.begun:
                self._alarms.set(RETENTION_ALARM, now.mono + self._retention.step(now.wall))
            elif key == GROUPS_ALARM and not self._shutdown.begun:
                self._alarms.set(GROUPS_ALARM, now.mono + GROUPS_EVERY_MS)
                self.membership.forget(now)
        return self._alarms.next()

    @property
    def deadline(self) -> int | None:
        """The mono ms at which `tick` is due next, as far as is known now."""
        return self._alarms.next()

    def drain(self, now: Now) -> list[Output]:
        """What is to be sent, closed and run, in order."""
        now = self._at(now)
        self._shutdown.step(now)
        released = self.engine.journal.released
        self._burst.clear()
        self._held.clear()
        released[:0] = self._deferred
        self._deferred.clear()
        if self.membership.stirred:
            self.membership.run(now)
        while True:
            self.deliveries.run(now)
            if not released:
                break
            answers = released[:]
            released.clear()
            for answer in answers:
                self._leave(answer)
        self._outputs += self.presence.closing
        self.presence.closing.clear()
        self._outputs += self.engine.jobs(now.mono, now.wall)
        full = self._deferred and any(
            size > BURST_BYTES_MAX and not c.blocked for c, size in self._burst.items()
        )
        self._alarms.set(AGAIN_ALARM, now.mono if full else self.engine.wake_at)
        outputs, self._outputs = self._outputs, []
        return outputs

    def stop(self, now: Now) -> None:
        """Begin a clean stop: nothing new is accepted, everything known is made durable."""
        now = self._at(now)
        self._shutdown.begin(now)

    @property
    def disk_full(self) -> bool:
        """Publishes are refused for want of space."""
        return self.engine.disk_full

    @property
    def stopped(self) -> bool:
        """The clean stop is complete and durable."""
        return self._shutdown.complete

    @property
    def stopping(self) -> bool:
        """A clean stop has begun."""
        return self._shutdown.begun

    def facts(self, now: Now) -> NodeFacts:
        """What can be observed."""
        return observe(self, self._at(now))

    def _at(self, now: Now) -> Now:
        """The instant, by a wall clock that never runs backwards: where the machine's does, ours goes on at
        the pace of the monotonic one."""
        before = self._now
        paced = before.wall + now.mono - before.mono
        self._now = now if now.wall >= paced else Now(now.mono, paced)
        return self._now

    # ---- What handlers use

    def queue(self, name: str, *, whole: bool = True) -> Queue:
        """The queue of that name; one for dead letters is made when it is first asked for. Raises `NotFound`,
        or `Corrupt` unless a damaged one will do."""
        if name not in self.registry.queues:
            self.burial.make(name, self._now)
        return self.registry.queue(name, whole=whole)

    def end(self, session: Session, now: Now) -> None:
        """A session is over, with what belongs to it."""
        self.presence.end(session, now)
        self.lifetimes.ended(session, now)
        self.membership.ended(session, now)

    def answer(self, call: Call, message: object, position: int | None = None, within: int = OS_MS) -> None:
        """Answer once `position` is durable in its mode; by default everything so far, so that nothing
        undurable is said. A verb without a reply gets none.

        An entry in fsync mode is not written without its sync, so of what is written it is durable. Only what
        may have been appended in a weaker mode than is promised now needs a `within` of its own.
        """
        if call.correlation:
            if isinstance(message, Document):
                call.connection.documents += len(message.payload)
            position = self.engine.journal.end if position is None else position
            self.engine.wait(position, Answer(call, message), within)

    def answer_reading(self, call: Call, reading: Reading) -> None:
        """Answer with bytes of a log, once everything so far is durable in its mode."""
        self.engine.wait(self.engine.journal.end, Answer(call, None, reading), OS_MS)

    def publish(
        self,
        call: Call,
        target: Queue | Partition,
        number: int,
        payload: memoryview,
        expected_offset: int | None = None,
    ) -> None:
        """Append a batch to a log; answered when it is durable."""
        self.publishing.publish(call, target, number, payload, expected_offset)

    def gone(self, gone: Queue | Topic) -> None:
        """A queue or topic was deleted: whoever waits there is told, and no session keeps it."""
        if isinstance(gone, Queue):
            for session in self.presence.sessions.values():
                session.queues.pop(gone, None)
            for lane in gone.lanes:
                self._alarms.set(lane, None)
            self.lifetimes.forget(gone)
            missing = NotFound(f"queue {gone.name!r} was deleted")
            for taker in list(gone.handout):
                gone.handout.remove(taker)
                self._tell(taker, missing)
            return
        missing = NotFound(f"topic {gone.name!r} was deleted")
        for partition in gone.partitions:
            self._alarms.set(partition, None)
            for parked in partition.all_parked():
                parked.call.connection.waits.pop(parked.call.correlation, None)
                self.answer(parked.call, missing)

    def delete_queue(self, queue: Queue, now: Now) -> None:
        """A queue is deleted with its messages, and with the schedules that enqueue into it."""
        item = self.registry.catalogue.get("queue", queue.name)
        assert item is not None
        schedules = [each for each in self.registry.schedules.values() if each.queue == queue.name]
        items = [self.registry.catalogue.items("schedule")[each.name] for each in schedules]
        self.engine.append([part_for(Kind.DELETE, each) for each in (*items, item)], wall=now.wall)
        for schedule in schedules:
            self.disarm(schedule)
        self.gone(queue)

    def arm_schedule(self, schedule: Schedule, now: Now) -> None:
        """Be woken when it runs next."""
        self._alarms.set(schedule, self.timetable.arm(schedule, now))

    def disarm(self, schedule: Schedule) -> None:
        """It does not run any more."""
        self._alarms.set(schedule, None)

    def new_number(self) -> int:
        """A fresh number for a producer with a name."""
        return self.registry.named.new_number(self._random)

    def new_uuid(self) -> bytes:
        """A fresh uuid."""
        return UUID(int=self._random.getrandbits(128), version=4).bytes

    def _refuse(self, call: Call, message: object, error: Refused) -> None:
        if (
            isinstance(message, Enqueue)
            and message.queue in self.registry.queues
            and not isinstance(error, SequenceGap)
        ):
            self.registry.queues[message.queue].refused[type(error).__name__] += 1
        of_the_moment = isinstance(error, Busy | Closing | DiskFull)
        retried = isinstance(message, Enqueue | Produce) and error.retriable
        if of_the_moment or retried or call.connection.session is None:
            self.answer(call, error, 0)
        else:
            self.answer(call, error)

    # ---- Outputs

    def _leave(self, answer: Answer) -> None:
        """What the answer says is durable: read what it carries, and send it."""
        call, reading = answer.call, answer.reading
        connection = call.connection
        if answer.spent:
            self.publishing.spent(connection, answer.spent)
        if connection is None or connection.closed:
            if reading is not None and reading.lost is not None:
                reading.lost()
            return
        if reading is not None and not self._may_go(connection, reading):
            self._hold(answer)
            return
        message = answer.message if reading is None else self._read(answer, reading)
        if message is None:
            return
        is_last = reading is None or not self._waits_on(call)
        if is_last and call.correlation:
            connection.requests -= 1
        if isinstance(message, Document):
            connection.documents -= len(message.payload)
        if call.correlation or call.verb is DELIVER:
            self._outputs.append(Send(connection, call.verb, call.correlation, message, is_last))

    @staticmethod
    def _waits_on(call: Call) -> bool:
        """Whether a request that is answered waits for more; else it waits for nothing any more."""
        waits = call.connection.waits
        waiting = waits.get(call.correlation)
        if waiting is None:
            return False
        if waiting[1] is None:
            del waits[call.correlation]
            return False
        return True

    def _hold(self, answer: Answer) -> None:
        """It goes later, and so does everything behind it on its connection."""
        self._held.add(answer.call.connection)
        self._deferred.append(answer)

    def _may_go(self, connection: Connection, reading: Reading) -> bool:
        """The connection takes more, nothing of its own has to go before, and the bytes are in memory."""
        if connection in self._held or connection.blocked or self._burst.get(connection, 0) > BURST_BYTES_MAX:
            return False
        if not reading.loading and self.registry.get(reading.log.uuid) is not None:
            for load in cold_extents(reading, self.engine.reads):
                self._load(load, reading)
        return not reading.loading

    def _read(self, answer: Answer, reading: Reading) -> Any:
        """The message with its bytes; None if it is not wanted any more, or has to wait after all."""
        if self.registry.get(reading.log.uuid) is None:
            return NotFound("it was deleted") if answer.call.correlation else None
        try:
            message = materialize(reading, self.engine.reads)
        except Cold as cold:
            self._load(Load(*cold.extent[:3]), reading)
            self._hold(answer)
            return None
        except Corrupt as error:
            if reading.lost is not None:
                reading.lost()
            if reading.queue is not None:
                self.deliveries.set_aside(reading.queue, error)
            return error if answer.call.correlation else None
        connection = answer.call.connection
        size = sum(map(len, getattr(message, "payload", ())))
        self._burst[connection] = self._burst.get(connection, 0) + size
        if reading.started is not None and not reading.started(self._now):
            assert reading.lost is not None
            reading.lost()
            return None
        if reading.settle is not None:
            reading.settle(message, self._now)
            return None
        return message

    def _load(self, load: Load, reading: Reading) -> None:
        def got(result: object) -> None:
            reading.loaded[Extent(*load)] = result if isinstance(result, bytes) else b""
            reading.loading -= 1

        reading.loading += 1
        self.engine.load(load, got)

    def _tell(self, taker: Any, missing: NotFound) -> None:
        call = getattr(taker, "call", None)
        if call is not None:
            call.connection.waits.pop(call.correlation, None)
            self.answer(call, missing)
            return
        taker.session.subscriptions.pop(taker.number, None)
        if taker.connection is not None:
            ended = Call(taker.connection, DELIVER, 0, self._now)
            self.engine.wait(self.engine.journal.end, Answer(ended, Deliver(taker.number, 0, b"")), OS_MS)
