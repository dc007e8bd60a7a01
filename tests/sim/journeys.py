"""The way of every message through queues with features: where it was enqueued, everywhere it was delivered
since, and whether anything may have ended it that nobody is told of.

Tokens of hand-outs grow over all queues and lives of the broker: they say what came after what. Copies of
settled messages are not the message; a message that may have been copied is said nothing of.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from tests.sim.evidence import Append, Delivery, Queue, Settle, World
from tests.sim.history import Op

FINISHING = ("ack", "reply")


class Stay(NamedTuple):
    """One message at one offset of one queue, with its hand-outs in their order."""

    queue: Queue
    offset: int
    deliveries: list[Delivery]

    @property
    def leased(self) -> list[Delivery]:
        """Those under a lease."""
        return [delivery for delivery in self.deliveries if not delivery.once]

    @property
    def first(self) -> int:
        """Token of the first one."""
        return min((delivery.token for delivery in self.leased), default=0)

    @property
    def last(self) -> int:
        """Token of the last one."""
        return max((delivery.token for delivery in self.leased), default=0)

    def settles(self, *fs: str) -> list[Settle]:
        """What was done with it, or may have been."""
        return [settle for settle in self.queue.settles.get(self.offset, ()) if settle.op.f in fs]


class Journey:
    """One value."""

    def __init__(self, append: Append, home: Queue) -> None:
        self.append = append
        self.home = home
        """Where it was enqueued."""
        self.stays: list[Stay] = []
        self.mixed = False
        """Some of its stays may be those of the same record by way of another queue over the topic."""

    @property
    def value(self) -> str:
        """What it says."""
        return self.append.value

    def at_home(self, offset: int) -> bool:
        """That is where in its home it was enqueued, not where it came back to."""
        return self.append.offset == offset or (self.append.offset is None and not self.home.moved_in())

    @property
    def ordered(self) -> list[Stay]:
        """Its stays with leases, by their first hand-out."""
        return sorted((stay for stay in self.stays if stay.leased), key=lambda stay: stay.first)


class Journeys:
    """All of a history."""

    name = "messages"

    def __init__(self, world: World) -> None:
        self.world = world
        self.queues = [queue for queue in world.queues.values() if queue.special is not None]
        self.by_value: dict[str, list[Journey]] = defaultdict(list)
        """One each, but of a record one for every queue over its topic."""
        for queue in self.queues:
            for append in queue.appends:
                self.by_value[append.value].append(Journey(append, queue))
        self._reach: dict[str, list[Queue]] = {}
        for queue in self.queues:
            self._visit(queue)

    def _visit(self, queue: Queue) -> None:
        stays: dict[int, list[Delivery]] = defaultdict(list)
        for delivery in (*(each for found in queue.handouts for each in found), *queue.once):
            if not delivery.replayed:
                stays[delivery.offset].append(delivery)
        for offset, deliveries in stays.items():
            found = self.of(deliveries[0].value)
            if len(found) > 1:
                found = [journey for journey in found if queue in self.reach(journey.home)]
            for journey in found:
                journey.stays.append(Stay(queue, offset, deliveries))
                journey.mixed |= len(found) > 1

    def __iter__(self) -> Iterator[Journey]:
        return (journey for journeys in self.by_value.values() for journey in journeys)

    def of(self, value: str | None) -> list[Journey]:
        """Those of one value."""
        return self.by_value.get(value or "", [])

    # where messages may go

    def reach(self, queue: Queue) -> list[Queue]:
        """Queues that a message which is there may come to, that one included."""
        found = self._reach.get(queue.name)
        if found is None:
            found = self._reach[queue.name] = [queue]
            for each in found:
                found += [other for other in self._next(each) if other not in found]
        return found

    def _next(self, queue: Queue) -> Iterator[Queue]:
        if queue.dead_letters is not None:
            yield queue.dead_letters
        for op in self.moves(queue):
            if op.asked["to"] is not None:
                yield self.world.queue(op.asked["to"])
            else:
                yield from self._origins(queue, op)

    def _origins(self, queue: Queue, op: Op) -> list[Queue]:
        """Where a redrive from a dead-letter queue goes: names are looked up when it is done."""
        sources = sorted(queue.sources, key=lambda each: each.settings["time"])
        before = [each for each in sources if each.settings["time"] <= op.start]
        during = [each for each in sources if op.start < each.settings["time"] <= op.end]
        names = {each.name.partition("#")[0] for each in sources}
        latest = [[each for each in before if each.name.partition("#")[0] == name] for name in names]
        return [lives[-1] for lives in latest if lives] + during

    def moves(self, queue: Queue) -> list[Op]:
        """Transfers out of a queue."""
        return [op for op in self.world.transfers if op.asked["queue"] == queue.name]

    @cached_property
    def _copied(self) -> set[str]:
        return {op.asked["queue"] for op in self.world.transfers if op.asked["state"] == "settled"}

    def maybe_copied(self, journey: Journey) -> bool:
        """Somebody may have had it delivered anew after it was settled."""
        return journey.mixed or any(queue.name in self._copied for queue in self.reach(journey.home))

    def maybe_moved(self, journey: Journey) -> bool:
        """It may have gone to another queue without dying."""
        ops = [op for queue in self.reach(journey.home) for op in self.moves(queue)]
        return any(op.asked["to"] is not None for op in ops)

    # how messages end

    def finished(self, journey: Journey) -> bool:
        """Somebody acked it or got it for good, or may have."""
        settles = [settle for stay in journey.stays for settle in stay.settles(*FINISHING)]
        once = any(delivery.once for stay in journey.stays for delivery in stay.deliveries)
        return once or any(self._counts(settle) for settle in settles)

    def _counts(self, settle: Settle) -> bool:
        """An unknown reply was given only if the answer is somewhere."""
        if settle.sure or settle.op.f != "reply":
            return True
        answers = [answer for value in settle.op.asked["values"] for answer in self.of(value)]
        return any(answer.stays or self.excused(answer) for answer in answers)

    def excused(self, journey: Journey) -> bool:
        """It may have ended without anybody being told."""
        append = journey.append
        queues = self.reach(journey.home)
        return (
            append.twin is not None
            or not append.op.possible
            or not all(queue.drained for queue in queues)
            or any(queue.maybe_purged(append) for queue in queues)
            or any(queue.name in self._losing for queue in queues)
            or ("ttl" in append.traits and (journey.home.special or {}).get("on_expiry") == "drop")
            or self._cancelled(journey)
            or self._replaced(journey)
            or self._not_there(journey)
        )

    def _not_there(self, journey: Journey) -> bool:
        """Of a queue over a topic: produced before its start, or given up by retention."""
        append, home = journey.append, journey.home
        offsets = {stay.offset for stay in journey.stays if stay.queue is home} | {append.offset}
        before = (home.special or {}).get("source_start") == "latest"
        return (before and append.op.start < home.settings["time"]) or any(
            offset is not None and home.trimmed(offset) for offset in offsets
        )

    @cached_property
    def _losing(self) -> set[str]:
        """Queues in which messages may end that nobody hears of."""
        return {queue.name for queue in self.world.queues.values() if self._loses(queue)}

    def _loses(self, queue: Queue) -> bool:
        settings = queue.special or {}
        expires = settings.get("ttl") is not None and settings["on_expiry"] == "drop"
        unheard = any(op.outcome == "unknown" and op.asked.get("once") for op in queue.ops["receive"])
        lost = self.world.crashes or self.world.disconnects
        pushed = bool(settings.get("once")) and bool(lost)
        return expires or settings.get("overflow") == "drop_oldest" or unheard or pushed

    def _cancelled(self, journey: Journey) -> bool:
        offsets = {(stay.queue.name, stay.offset) for stay in journey.stays}
        offsets.add((journey.home.name, journey.append.offset if journey.append.offset is not None else -1))
        return any(
            op.asked["at"] is None
            for queue in self.reach(journey.home)
            for op in queue.ops["reschedule"]
            if op.possible and (queue.name, op.asked["offset"]) in offsets
        )

    def _replaced(self, journey: Journey) -> bool:
        append, key = journey.append, journey.append.traits.get("job")
        return key is not None and any(
            other.traits.get("conflict") == "replace" and other.op.possible and other.op.end > append.op.start
            for other in journey.home.appends
            if other.traits.get("job") == key and other is not append
        )
