"""A history sorted by what it is about: each queue, partition and group with all that was asked and told.

No judgement here; the rules ask these classes for facts. What an operation may have done counts as
possible, what it surely did as sure.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.sim.history import LANE, NEVER, Op, Record, operations

ENDING = ("ack", "dead_letter", "nack", "release", "reply")
"""Settles that end a lease."""


class Delivery(NamedTuple):
    """One message handed out; the broker sent it between `start` and `end`."""

    value: str | None
    offset: int
    token: int
    attempt: int
    delivery: int
    redelivered: bool
    lease: float
    start: float
    end: float
    process: str
    pushed: bool
    time: float = -NEVER
    """When it was appended there, by the broker's wall clock; so are the times below."""
    at: float | None = None
    """When it was handed out."""
    handed: float | None = None
    """The same, by the clock of the history."""
    replayed: bool = False
    once: bool = False
    checkpoint: str | None = None
    history: Record | None = None


class Settle(NamedTuple):
    """One message of a settling operation that was done (`sure`) or may have been."""

    op: Op
    offset: int
    token: int
    sure: bool


class Append(NamedTuple):
    """One value of an enqueue or produce; its offset if confirmed. `twin`: what it was said to be a
    duplicate of, or in conflict with, so that it is never delivered."""

    op: Op
    value: str
    offset: int | None
    traits: Mapping[str, Any] = MappingProxyType({})
    twin: int | None = None

    @property
    def sure(self) -> bool:
        """It was confirmed as a message of its own."""
        return self.op.ok and self.twin is None


def peak_before(known: Iterable[tuple[float, float]]) -> Callable[[float], float]:
    """Of (time, number) pairs: the largest number of those before a time; -NEVER without any."""
    ordered = sorted(known)
    times = [time for time, _ in ordered]
    peaks = [-NEVER, *accumulate((number for _, number in ordered), max)]
    return lambda time: peaks[bisect_left(times, time)]


class Place:
    """What a history says about one sequence of offsets."""

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.world = world
        self.drained = False
        self.ops: dict[str, list[Op]] = defaultdict(list)
        """By what was asked, in the order of their starts."""
        self.appends: list[Append] = []
        self.seen: list[tuple[int, str | None]] = []
        """(offset, value) of everything delivered or read."""

    def add(self, op: Op) -> None:
        """Take an operation on this place."""
        self.ops[op.f].append(op)
        self.append(op, op.answer["first"] if op.ok and "first" in op.answer else None)

    def append(self, op: Op, first: int | None) -> None:
        """Take the values of a publish, from offset `first` on if that is known."""
        values = op.asked.get("values", ())
        traits = op.asked.get("traits") or [{}] * len(values)
        twins = {number: offset for number, _, offset in op.answer.get("exceptions", ())}
        for i, value in enumerate(values):
            offset = None if first is None else first + i
            self.appends.append(Append(op, value, offset, traits[i], twins.get(i)))

    @cached_property
    def confirmed(self) -> dict[str, int]:
        """Value → offset, of those that can be delivered."""
        return {a.value: a.offset for a in self.appends if a.offset is not None and a.twin is None}

    @cached_property
    def attempted(self) -> dict[str, Append]:
        """Values that somebody asked to have here."""
        return {append.value: append for append in self.appends}

    @cached_property
    def pairs(self) -> set[tuple[int, str]]:
        """Every (offset, value) that was confirmed or seen."""
        seen = {(offset, value) for offset, value in self.seen if value is not None}
        return seen | {(offset, value) for value, offset in self.confirmed.items()}


class Log(Place):
    """A partition of a topic."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name, world)
        self.start = 0
        """What lies before may be gone."""

    def add(self, op: Op) -> None:
        """Take an operation on this partition."""
        super().add(op)
        self.seen += [(offset, value) for offset, value in op.answer.get("records", ())]

    @cached_property
    def end_known(self) -> Callable[[float], float]:
        """The least end that the partition must have had before a time."""
        known: list[tuple[float, float]] = [(-NEVER, 0)]
        for op in (op for ops in self.ops.values() for op in ops if op.ok):
            known += [(op.end, offset + 1) for offset, _ in op.answer.get("records", ())]
            if op.f == "produce":
                known.append((op.end, op.answer["first"] + len(op.asked["values"])))
            elif "end" in op.answer:
                known.append((op.end, op.answer["end"]))
        return peak_before(known)

    @cached_property
    def start_known(self) -> Callable[[float], float]:
        """What somebody had been told by a time: nothing below that offset is kept."""
        return peak_before((op.end, op.answer["start"]) for op in self.ops["fetch"] if "start" in op.answer)

    @cached_property
    def end_possible(self) -> float:
        """No offset can lie beyond this."""
        return self.end_known(NEVER) + sum(a.offset is None and a.op.possible for a in self.appends)


class Queue(Place):
    """A queue."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name, world)
        self.settings: Record = {}
        self.deliveries: dict[int, list[Delivery]] = defaultdict(list)
        self.settles: dict[int, list[Settle]] = defaultdict(list)
        self.once: list[Delivery] = []
        """What was settled as it was delivered; it had no lease."""
        self.opened = NEVER
        """From then on no rate holds anything back."""
        self.lanes: dict[int, Log] = {}
        """The partitions that a queue over a topic is over."""

    @cached_property
    def special(self) -> Record | None:
        """The settings of a queue with features; None: it is a plain one. Where dead letters of such a
        queue go, too, is none."""
        return self.settings.get("special") or next((s.special for s in self.sources if s.special), None)

    def add(self, op: Op) -> None:
        """Take an operation on this queue."""
        if op.f == "reply":
            self.ops[op.f].append(op)
            answered = op._replace(outcome="refused") if op.answer.get("stale") else op
            self.world.queue(op.asked["to"]).append(answered, None)
        else:
            super().add(op)
        if op.f == "receive":
            self.deliver(op.answer.get("messages", ()), op.process, op.start, op.end)
        elif "messages" in op.asked and op.possible:
            stale = {tuple(pair) for pair in op.answer.get("stale", ())}
            for offset, token in op.asked["messages"]:
                if (offset, token) not in stale:
                    self.settles[offset].append(Settle(op, offset, token, op.ok))

    def deliver(
        self, messages: Iterable[Record], process: str, start: float, end: float, *, pushed: bool = False
    ) -> None:
        """Take what a process received, or what was pushed to it."""
        for message in messages:
            delivery = Delivery(**message, start=start, end=end, process=process, pushed=pushed)
            if delivery.once:
                self.once.append(delivery)
            else:
                self.deliveries[delivery.offset].append(delivery)
            self.seen.append((delivery.offset, delivery.value))

    def read(self, log: Log) -> None:
        """What was produced to that partition is a message here."""
        number = int(log.name.rpartition("/")[2])
        self.lanes[number] = log
        for append in log.appends:
            offset = None if append.offset is None else number * LANE + append.offset
            self.appends.append(append._replace(offset=offset))

    def trimmed(self, offset: int) -> bool:
        """Retention may have taken the record."""
        number, there = divmod(offset, LANE)
        return number in self.lanes and there < self.lanes[number].start

    @cached_property
    def handouts(self) -> list[list[Delivery]]:
        """The deliveries of each message in the order of their hand-outs."""
        return [sorted(found, key=lambda delivery: delivery.token) for found in self.deliveries.values()]

    @cached_property
    def by_value(self) -> dict[str | None, list[Delivery]]:
        """The same by value."""
        found = defaultdict(list)
        for deliveries in self.handouts:
            for delivery in deliveries:
                found[delivery.value].append(delivery)
        return dict(found)

    @property
    def dead_letters(self) -> "Queue | None":
        """The queue that dead letters go to."""
        name = self.settings.get("dead_letter")
        return self.world.queues[name] if name else None

    @property
    def sources(self) -> list["Queue"]:
        """The queues whose dead letters come here."""
        return [queue for queue in self.world.queues.values() if queue.dead_letters is self]

    @cached_property
    def own(self) -> dict[str, Append]:
        """Values that somebody asked to have here."""
        return {append.value: append for append in self.appends}

    @cached_property
    def attempted(self) -> dict[str, Append]:
        """Values that somebody asked to have here, or where messages come from."""
        if self.special is not None:
            return self.world.special_appends
        found = {append.value: append for append in self.appends}
        for source in self.sources:
            found |= source.attempted
        return found

    def of_lease(self, delivery: Delivery, *fs: str) -> list[Settle]:
        """What was done, or may have been, under one lease."""
        settles = self.settles.get(delivery.offset, ())
        return [settle for settle in settles if settle.token == delivery.token and settle.op.f in fs]

    def maybe_purged(self, append: Append) -> bool:
        """A purge came late enough to have taken it."""
        return any(op.possible and op.end > append.op.start for op in self.ops["purge"])

    def exhausted(self, delivery: Delivery) -> bool:
        """After this hand-out the next failure, or the next hand-out, is one too many."""
        attempts, deliveries = (self.settings.get(name) for name in ("max_attempts", "max_deliveries"))
        return delivery.attempt >= (attempts or NEVER) or delivery.delivery >= (deliveries or NEVER)

    def moved_in(self) -> bool:
        """Messages may have come here from another queue, or come back."""
        names = {None, self.name, *(source.name for source in self.sources)}
        moves = self.world.transfers
        return any(op.asked["to"] in names or op.asked["queue"] == self.name for op in moves)

    def rescheduled(self, offset: int) -> list[Op]:
        """What may have changed when that message is ready."""
        return [op for op in self.ops["reschedule"] if op.possible and op.asked["offset"] == offset]

    @cached_property
    def all_seen(self) -> bool:
        """Nothing was handed out that the history does not show."""
        lost = self.world.crashes or self.world.disconnects
        return not lost and all(op.ok for op in self.ops["receive"])

    def enqueued_at(self, delivery: Delivery) -> float:
        """When a message can have been there at the earliest."""
        append = self.attempted.get(delivery.value or "")
        return append.op.start if append is not None else -NEVER

    def voided(self, delivery: Delivery, until: float) -> bool:
        """Its lease may have ended without a settle and without running out."""
        world = self.world
        lost_at = world.disconnects.get(delivery.process, []) if delivery.pushed else []
        return fell(lost_at, delivery.start, until) or fell(world.crashes, delivery.start, until)


class Group(NamedTuple):
    """Offsets of one consumer group on one partition. `joins`: who was told in which generation that it may
    read it; `polls`: what the group's members read of it."""

    name: str
    log: Log
    commits: list[Op]
    reads: list[Op]
    joins: list[Op]
    polls: list[Op]


class Producer(NamedTuple):
    """A name to produce under: who opened it and who deleted it; and by the id of an opening what was
    published under it, each with the place it went to."""

    name: str
    opens: list[Op]
    deletes: list[Op]
    published: Mapping[int, list[tuple[Place, Op]]]


class World:
    """The whole history."""

    def __init__(self, records: Iterable[Record]) -> None:
        records = sorted(records, key=lambda record: record["time"])
        self.queues: dict[str, Queue] = {}
        self.logs: dict[str, Log] = {}
        self.crashes: list[float] = []
        self.disconnects: dict[str, list[float]] = defaultdict(list)
        self.blocks: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """A process read nothing from its connection."""
        self.losses: list[tuple[float, float]] = []
        """Somebody's connection was lost, and the broker had not heard of it."""
        self.jumps: list[tuple[float, float]] = []
        self.groups: list[Group] = []
        self.producers: list[Producer] = []
        self.transfers: list[Op] = []
        """Those that may have moved or copied something."""
        self.schedules: dict[str, Op] = {}
        """What its messages say → how a schedule was created."""
        self.births: list[float] = []
        """When the broker began to serve, life by life, as far as is known."""
        self.runs: dict[str, int] = {}
        """How often a schedule ran in all, as the broker says."""
        for record in records:
            if record["type"] == "note":
                self._note(record)
        ops = sorted(operations(records), key=lambda op: op.start)
        for op in ops:
            if op.f == "transfer" and op.possible and not op.asked.get("dry"):
                self.transfers.append(op)
            if op.f == "schedule":
                self.schedules[op.asked["schedule"]] = op
            if "queue" in op.asked:
                self.queue(op.asked["queue"]).add(op)
            elif "log" in op.asked:
                self.log(op.asked["log"]).add(op)
        for log in self.logs.values():
            for queue in self.queues.values():
                if (queue.settings.get("special") or {}).get("source") == log.name.rpartition("/")[0]:
                    queue.read(log)
        self._sort_groups([op for op in ops if "group" in op.asked])
        self._sort_producers([op for op in ops if op.f in ("open", "unname")])

    def queue(self, name: str) -> Queue:
        """The queue of that name."""
        return self.queues.setdefault(name, Queue(name, self))

    def log(self, name: str) -> Log:
        """The partition of that name."""
        return self.logs.setdefault(name, Log(name, self))

    @cached_property
    def special_appends(self) -> dict[str, Append]:
        """All values of queues with features, wherever they were published."""
        specials = [queue for queue in self.queues.values() if queue.special is not None]
        found = {append.value: append for queue in specials for append in queue.appends}
        scheduled = {name: Append(op, name, None) for name, op in self.schedules.items()}
        return found | scheduled

    def stood(self, since: float) -> bool:
        """The broker's time may have stood still for a while: its clock had been set back, so its time was
        that of its journal, and that passes only while it lives."""
        set_back = any(jump < 0 and at <= since for at, jump in self.jumps)
        return set_back and bool(self.crashes) and self.crashes[-1] >= since

    def _note(self, note: Record) -> None:
        time = note["time"]
        match note["f"]:
            case "settings":
                self.queue(note["queue"]).settings = note
                self.queue(note["dead_letter"] or note["queue"])
            case "deliver":
                since = note.get("since", -NEVER)
                self.queue(note["queue"]).deliver(note["messages"], note["process"], since, time, pushed=True)
            case "disconnect":
                self.disconnects[note["process"]].append(time)
                self.losses.append((time, time))
            case "blocked":
                self.blocks[note["process"]].append((note["since"], time))
            case "noticed":
                self.losses.append((note["since"], time))
            case "crash":
                self.crashes.append(time)
            case "started":
                self.births.append(time)
            case "runs":
                self.runs[note["schedule"]] = note["runs"]
            case "clock":
                self.jumps.append((time, note["jump"]))
            case "opened":
                self.queue(note["queue"]).opened = time
            case "trimmed":
                self.log(note["log"]).start = note["start"]
            case "drained":
                place = self.queue(note["queue"]) if "queue" in note else self.log(note["log"])
                place.drained = True
            case unknown:
                raise ValueError(f"no note is called {unknown}")

    def _sort_groups(self, ops: list[Op]) -> None:
        of: dict[tuple[str, str, str], list[Op]] = defaultdict(list)
        for op in ops:
            of[op.asked["group"], op.asked.get("log", ""), op.f].append(op)
        for name, log in sorted({(name, log) for name, log, _ in of if log}):
            joins = of[name, "", "generation"] + of[name, log, "generation"]
            commits, reads, polls = (of[name, log, f] for f in ("commit", "committed", "poll"))
            polls += of[name, log, "select"]
            self.groups.append(Group(f"{name} on {log}", self.log(log), commits, reads, joins, polls))

    def _sort_producers(self, ops: list[Op]) -> None:
        published: dict[int, list[tuple[Place, Op]]] = defaultdict(list)
        for place in (*self.logs.values(), *self.queues.values()):
            for op in (op for f in ("enqueue", "produce") for op in place.ops[f] if "producer" in op.asked):
                published[op.asked["producer"]].append((place, op))
        for name in sorted({op.asked["name"] for op in ops}):
            opens, deletes = (
                [op for op in ops if op.f == f and op.asked["name"] == name] for f in ("open", "unname")
            )
            self.producers.append(Producer(name, opens, deletes, published))


def fell(times: list[float], start: float, end: float) -> bool:
    """One of the sorted `times` lies in the interval."""
    return bisect_right(times, end) > bisect_left(times, start)


def maybe_away(queue: Queue, first: Delivery) -> bool:
    """It may have been handed out to somebody before who never got it."""
    births, end = queue.world.births, first.end
    index = bisect_right(births, end)
    born = births[index - 1] if index else -NEVER
    begin = max(queue.enqueued_at(first), born)
    losses = [loss for loss in queue.world.losses if loss[0] >= born]
    lost = any(since <= end and begin <= until for since, until in losses)
    return lost or fell(queue.world.crashes, begin, end)
