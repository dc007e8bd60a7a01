"""Plays a script: asks a broker for one change after another, and keeps the history of what it said.

    create QUEUE [max_messages mode] topic TOPIC [partitions mode] checkpoint     wait SECONDS
    alter QUEUE max_messages         enqueue QUEUE 3x100 …        archive         stop
    delete QUEUE or TOPIC            produce TOPIC/N 3x100 …      kill STEPS operation …
    ack, nack, bury, expire QUEUE n  commit GROUP TOPIC/N offset  cut STEPS operation …
    purge QUEUE

3x100 is a batch of three messages of 100 bytes; several batches are sent at once. `kill` and `cut` let the
operation run so many steps, then end the process, or the machine with whatever its disk keeps.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random
from typing import Any

from tests.fakes.clock import ManualClock
from tests.fakes.disk import Disk
from tests.model.bench import batch, got
from tests.storage_faults.expected import QUEUE, History, Partition, Place, Queue, State, difference, match
from tests.storage_faults.life import PRODUCER_ID, Cut, Life
from tests.storage_faults.observed import Unreadable, observed

from penstock_broker import durability
from penstock_broker.durability import FSYNC
from penstock_broker.storage.files import StorageError
from penstock_protocol.errors import Busy, Corrupt, Refused, SequenceGap
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import Range, encode_ranges

ARCHIVED_AFTER_SECONDS = 61
LEASE_MS = 1_000
TRIES = 40


class Violation(Exception):
    """The broker broke the contract."""


class Play:
    """One script on one disk. `calm` is False where calls may fail: then a change may be refused for it.
    `watched` is what becomes of the disk that a power cut leaves."""

    def __init__(
        self,
        disk: Disk,
        seed: str,
        *,
        calm: bool = True,
        watched: Callable[[Disk], Disk] = lambda disk: disk,
    ) -> None:
        self.disk = disk
        self.clock = ManualClock()
        self.random = Random(seed)
        self.history = History()
        self.calm = calm
        self.operation = "start"
        self._unburied: list[tuple[str, int]] = []
        """Dead letters that could not be read: they wait, and leave when they can be."""
        self._made = 0
        self._watched = watched

    def begin(self) -> None:
        """The first life."""
        self.life = Life(self.disk, self.clock, self.random, self.random)

    def run(self, script: str) -> None:
        """Every operation, one behind the other."""
        for number, line in enumerate(script.split(";"), 1):
            self.operation = f"{number} {line.strip()}"
            self.perform(line.split())
        self.life.thaw()
        self.life.idle()

    def perform(self, words: list[str]) -> None:
        """One operation, until all it brings about is done."""
        name, *args = words
        getattr(self, f"do_{name}")(*args)

    # ---- What exists

    def do_create(self, name: str, max_messages: str = "1000", mode: str = "fsync") -> None:
        after = self.history.last.copy()
        after.queues[name] = Queue(int(max_messages))
        after.within[name] = durability.parse(mode)
        settings = {"max_messages": int(max_messages), "durability": mode}
        self._change(after, q.CreateQueue(name, settings, "check"))

    def do_alter(self, name: str, max_messages: str) -> None:
        after = self.history.last.copy()
        after.queues[name].max_messages = int(max_messages)
        self._change(after, q.AlterQueue(name, {"max_messages": int(max_messages)}))

    def do_topic(self, name: str, partitions: str = "1", mode: str = "fsync") -> None:
        after = self.history.last.copy()
        after.topics[name] = [Partition() for _ in range(int(partitions))]
        after.within[name] = durability.parse(mode)
        settings = {"partitions": int(partitions), "durability": mode}
        self._change(after, t.CreateTopic(name, settings, "check"))

    def do_delete(self, name: str) -> None:
        after = self.history.last.copy()
        is_queue = name in after.queues
        after.remove(name)
        self._change(after, q.DeleteQueue(name) if is_queue else t.DeleteTopic(name))

    # ---- Publishing

    def do_enqueue(self, name: str, *batches: str) -> None:
        self._publish((name, QUEUE), lambda payload: q.Enqueue(name, payload), batches)

    def do_produce(self, target: str, *batches: str) -> None:
        name, number = _partition(target)
        self._publish((name, number), lambda payload: t.Produce(name, number, None, payload), batches)

    def _publish(self, place: Place, request: Callable[[Any], Any], batches: Iterable[str]) -> None:
        """Batches sent at once; what is refused for the moment is sent again."""
        left = [self._bodies(text) for text in batches]
        for _ in range(TRIES):
            left = self._publish_once(place, request, left)
            if not left:
                return
            self.life.idle()
            self.life.thaw()
            self.clock.advance(100)
        assert not self.calm, f"{place} takes nothing"

    def _publish_once(
        self, place: Place, request: Callable[[Any], Any], batches: list[list[bytes]]
    ) -> list[list[bytes]]:
        refused: list[list[bytes]] = []
        answered: list[object] = []

        def reply(message: Any, number: int, first: int, bodies: list[bytes]) -> None:
            answered.append(message)
            if isinstance(message, Refused):
                if not refused:
                    self.history.refused(number)
                refused.append(bodies)
                check(not self.calm or isinstance(message, Busy | SequenceGap), f"refused: {message!r}")
            else:
                within = self.history.last.within.get(place[0], FSYNC)
                self.history.confirmed(number, within, self.clock.now().mono)
                given = message.first, message.duplicate, message.durability
                wanted = first, False, durability.name(within)
                check(given == wanted, f"confirmed as {given} instead of {wanted}")

        for bodies in batches:
            after = self.history.last.copy()
            sequence = len(after.batches.get(place, ()))
            first = after.publish(place, bodies)
            number = self.history.asked(after)
            self.life.send(
                request(batch(*bodies, producer_id=PRODUCER_ID, sequence=sequence)),
                lambda message, args=(number, first, bodies): reply(message, *args),
            )
        self.life.run_until(lambda: len(answered) == len(batches))
        return refused

    def _bodies(self, text: str) -> list[bytes]:
        """Bodies that no other is like, from first byte to last."""
        count, size = map(int, text.split("x"))
        bodies = []
        for _ in range(count):
            self._made += 1
            word = b"<%d>" % self._made
            bodies.append((word * (size // len(word) + 1))[: max(size, len(word))])
        return bodies

    # ---- Settling

    def do_ack(self, name: str, messages: str) -> None:
        ranges, offsets = self._receive(name, int(messages))
        if ranges:
            after = self.history.last.copy()
            after.queues[name].settle(offsets)
            self._change(after, q.Ack(name, _payload(ranges)), name)

    def do_nack(self, name: str, messages: str) -> None:
        ranges, offsets = self._receive(name, int(messages))
        if ranges:
            request = q.Nack(name, q.Outcome.RETRY, 0, None, _payload(ranges))
            self._change(self._failed(name, offsets), request, name)

    def do_bury(self, name: str, messages: str) -> None:
        ranges, offsets = self._receive(name, int(messages))
        if not ranges:
            return
        after = self.history.last.copy()
        dead = after.queues.setdefault(f"{name}.dead", Queue(1_000_000))
        if dead.max_messages is not None and len(dead.messages) + len(offsets) <= dead.max_messages:
            dead.append(after.queues[name].settle(offsets))
        request = q.Nack(name, q.Outcome.DEAD_LETTER, None, None, _payload(ranges))
        self._change(after, request, name, f"{name}.dead", certain=self.calm)
        if not self.calm:
            self.look(self.history.behind_kill)
            self._unburied += [(name, at) for at in offsets if at in self.history.last.queues[name].messages]

    def do_expire(self, name: str, messages: str) -> None:
        _, offsets = self._receive(name, int(messages), LEASE_MS)
        if offsets:
            self.history.asked(self._failed(name, offsets))
            self.clock.advance(LEASE_MS + 1)
            self.life.idle()

    def do_purge(self, name: str) -> None:
        after = self.history.last.copy()
        queue = after.queues[name]
        queue.settle(list(queue.messages))
        self._change(after, q.Purge(name), name)

    def _failed(self, name: str, offsets: list[int]) -> State:
        after = self.history.last.copy()
        messages = after.queues[name].messages
        for offset in offsets:
            messages[offset] = messages[offset]._replace(attempt=messages[offset].attempt + 1)
        return after

    def _receive(
        self, name: str, messages: int, lease_ms: int | None = None
    ) -> tuple[list[Range], list[int]]:
        """Lease messages: what settles them, and their offsets. Each is as the history has it."""
        (reply,) = self.life.ask(q.Receive(name, messages, 0, lease_ms))
        if isinstance(reply, Refused):
            check(not self.calm, f"receive: {reply!r}")
            return [], []
        ranges, offsets = [], []
        wanted = self.history.last.queues[name].messages
        for stamps, bodies in got(reply):
            ranges.append(Range(stamps.token, stamps.first, 0, stamps.messages))
            for offset, body in enumerate(bodies, stamps.first):
                offsets.append(offset)
                known = wanted.get(offset)
                check(
                    known == (body, stamps.attempt), f"{name} delivers {offset}: {body[:20]!r}, has {known}"
                )
        check(not self.calm or len(offsets) == messages, f"{name} gives {offsets}, asked for {messages}")
        return ranges, offsets

    # ---- Offsets

    def do_commit(self, group: str, target: str, offset: str) -> None:
        name, number = _partition(target)
        after = self.history.last.copy()
        after.offsets[group, name, number] = int(offset)
        is_new = all(key[0] != group for key in self.history.last.offsets)
        request = t.Commit(group, name, ((number, int(offset), ""),))
        self._change(after, request, *([] if is_new else [name]))

    # ---- Time, and the ends of lives

    def do_wait(self, seconds: str) -> None:
        self.clock.advance(int(seconds) * 1_000)
        self.life.idle()
        if not self.life.stalled:
            self.history.quiet(self.clock.now().mono)

    def do_archive(self) -> None:
        self.do_wait(str(ARCHIVED_AFTER_SECONDS))

    def do_checkpoint(self) -> None:
        self.life.core.engine.checkpoint_now()
        self.life.idle()

    def do_stop(self) -> None:
        self.end()
        self.restart(self.disk, self.history.behind_kill)

    def end(self) -> None:
        """The life ends in order."""
        self.life.core.stop(self.clock.now())
        self.life.run_until(lambda: self.life.core.stopped)

    def do_kill(self, steps: str, *operation: str) -> None:
        self._interrupted(int(steps), operation)
        self.restart(self.disk, self.history.behind_kill)

    def do_cut(self, steps: str, *operation: str) -> None:
        self._interrupted(int(steps), operation)
        self.history.machine_died()
        self.restart(self._watched(self.disk.crashed(self.random)), self.history.behind_cut)

    def _interrupted(self, steps: int, operation: tuple[str, ...]) -> None:
        self.life.steps_left = steps
        with suppress(Cut):
            self.perform(list(operation))

    def restart(self, disk: Disk, allowed: list[State]) -> None:
        """The next life, on that disk, shows one of those states."""
        self.life.files.close()
        self.disk = disk
        try:
            self.begin()
        except (OSError, StorageError):
            if self.calm:
                raise
            self.begin()
        self.look(allowed)

    def look(self, allowed: list[State]) -> None:
        """What is there is one of those states, and from now on what must be."""
        if self._unburied:
            allowed = [self._buried(), *allowed]
        try:
            found = judged(self.life, allowed)
        except (Corrupt, Unreadable):
            if self.calm:
                raise
            self.life.files.close()
            self.begin()  # what a start could not read, the next one can
            found = judged(self.life, allowed)
        self.history.restarted(found)

    def _buried(self) -> State:
        """What is there when dead letters that could not be read have left."""
        after = self.history.last.copy()
        for name, offset in self._unburied:
            if offset in after.queues[name].messages:
                dead = after.queues.setdefault(f"{name}.dead", Queue(1_000_000))
                dead.append(after.queues[name].settle([offset]))
        return after

    # ---- Asking

    def _change(self, after: State, request: Any, *concerned: str, certain: bool = True) -> None:
        """Ask for a change that is not a publish. It is as durable as the strictest of what it concerns;
        `certain`: a confirm says that it came about."""
        number = self.history.asked(after)
        within = min((after.within.get(name, FSYNC) for name in concerned), default=FSYNC)

        def reply(message: object) -> None:
            if isinstance(message, Refused):
                check(not self.calm, f"{type(request).__name__} is refused: {message!r}")
                self.history.refused(number)
            elif certain:
                self.history.confirmed(number, within, self.clock.now().mono)

        self.life.send(request, reply)
        self.life.idle()


def judged(life: Life, allowed: list[State]) -> State:
    """What the broker shows, with what the history knows of it beyond that. Raises `Violation`."""
    found = observed(life)
    state = match(found, allowed)
    if state is None:
        raise Violation(difference(found, allowed))
    return state


def check(holds: bool, otherwise: str) -> None:
    """Raises `Violation` saying `otherwise`."""
    if not holds:
        raise Violation(otherwise)


def _partition(target: str) -> tuple[str, int]:
    name, _, number = target.partition("/")
    return name, int(number or 0)


def _payload(ranges: list[Range]) -> memoryview:
    return memoryview(encode_ranges(ranges))
