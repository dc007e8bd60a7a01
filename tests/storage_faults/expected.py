"""What a broker may hold, by the contract: the states after each change it was asked for, from the last
one that it confirmed on.

The journal keeps changes in order, so what a crash leaves is the state after one of them, whole: nothing
confirmed lost, nothing settled back, nothing that was never asked for, no offset moved back, and every
body as it was sent. A naive model: dicts of bodies, copied at every change.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from penstock_broker.durability import FSYNC


class Message(NamedTuple):
    """A message that is not settled. `attempt`: failures + 1."""

    body: bytes
    attempt: int


@dataclass
class Queue:
    """A queue's unsettled messages by offset, and how many are settled."""

    max_messages: int | None
    messages: dict[int, Message] = field(default_factory=dict)
    settled: int = 0

    @property
    def end(self) -> int:
        """The next offset."""
        return self.settled + len(self.messages)

    def append(self, bodies: list[bytes]) -> int:
        """Messages at the end; the offset of the first."""
        first = self.end
        self.messages.update({first + n: Message(body, 1) for n, body in enumerate(bodies)})
        return first

    def settle(self, offsets: list[int]) -> list[bytes]:
        """They are gone; their bodies."""
        self.settled += len(offsets)
        return [self.messages.pop(offset).body for offset in offsets]


@dataclass
class Partition:
    """Records by offset, from `start` to `end`."""

    start: int = 0
    end: int = 0
    records: dict[int, bytes] = field(default_factory=dict)

    def append(self, bodies: list[bytes]) -> int:
        """Records at the end; the offset of the first."""
        first = self.end
        self.records.update({first + n: body for n, body in enumerate(bodies)})
        self.end += len(bodies)
        return first


class Published(NamedTuple):
    """One sequenced batch of the script's producer."""

    first: int
    bodies: tuple[bytes, ...]


Place = tuple[str, int]
"""A queue (partition -1), or a partition of a topic."""
QUEUE = -1


@dataclass
class State:
    """Everything that can be seen of a broker; `batches`, which cannot, by place in order of sequence."""

    queues: dict[str, Queue] = field(default_factory=dict)
    topics: dict[str, list[Partition]] = field(default_factory=dict)
    offsets: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """(group, topic, partition) → committed offset."""
    batches: dict[Place, list[Published]] = field(default_factory=dict, compare=False)
    within: dict[str, int] = field(default_factory=dict, compare=False)
    """ms that a sync of what concerns a queue or topic may wait, where that is not fsync."""

    def copy(self) -> "State":
        """One that can be changed on its own."""
        return State(
            {
                name: Queue(queue.max_messages, dict(queue.messages), queue.settled)
                for name, queue in self.queues.items()
            },
            {
                name: [Partition(each.start, each.end, dict(each.records)) for each in partitions]
                for name, partitions in self.topics.items()
            },
            dict(self.offsets),
            {place: list(batches) for place, batches in self.batches.items()},
            dict(self.within),
        )

    def publish(self, place: Place, bodies: list[bytes]) -> int:
        """A batch at the end of a queue or partition; its first offset."""
        name, number = place
        log = self.queues[name] if number == QUEUE else self.topics[name][number]
        first = log.append(bodies)
        self.batches.setdefault(place, []).append(Published(first, tuple(bodies)))
        return first

    def remove(self, name: str) -> None:
        """A queue or topic is gone, with all that was on it."""
        self.queues.pop(name, None)
        self.topics.pop(name, None)
        self.offsets = {key: offset for key, offset in self.offsets.items() if key[1] != name}
        self.batches = {place: batches for place, batches in self.batches.items() if place[0] != name}
        self.within.pop(name, None)


class History:
    """The changes asked for so far, as the states behind them. A confirm in a weaker mode than fsync says
    that a change outlives the process; that it outlives the machine, time says."""

    def __init__(self) -> None:
        self._states = [State()]
        self._confirmed = 0
        self._durable = 0
        self._due: list[tuple[int, int]] = []
        """(number of a change, mono ms at which its sync begins at the latest)."""

    @property
    def last(self) -> State:
        """What holds if all that was asked for happened."""
        return self._states[-1]

    @property
    def every(self) -> list[State]:
        """All states since the last restart, oldest first."""
        return list(self._states)

    @property
    def behind_kill(self) -> list[State]:
        """What may be there when the process dies now, newest first."""
        return self._states[self._confirmed :][::-1]

    @property
    def behind_cut(self) -> list[State]:
        """What may be there when the machine dies now, newest first."""
        return self._states[self._durable :][::-1]

    def asked(self, after: State) -> int:
        """A change is on its way; its number."""
        self._states.append(after)
        return len(self._states) - 1

    def confirmed(self, number: int, within: int = FSYNC, mono: int = 0) -> None:
        """The broker said that a change is done, so all before it are; its sync may wait `within` ms."""
        self._confirmed = max(self._confirmed, number)
        if within == FSYNC:
            self._durable = max(self._durable, number)
        else:
            self._due.append((number, mono + within))

    def quiet(self, mono: int) -> None:
        """What was due by then is done."""
        self._durable = max([self._durable, *(number for number, due in self._due if due <= mono)])
        self._due = [(number, due) for number, due in self._due if due > mono]

    def refused(self, number: int) -> None:
        """The broker said that a change will never be; what was built on it neither."""
        assert number > self._confirmed, "a change was refused behind one that was confirmed on it"
        del self._states[number:]

    def machine_died(self) -> None:
        """From now on only what was durable is sure."""
        self._confirmed = self._durable

    def restarted(self, found: State) -> None:
        """A broker showed this after its start: it does not vanish."""
        self._states = [found]
        self._confirmed = self._durable = 0
        self._due = []


def match(found: State, allowed: list[State]) -> State | None:
    """The allowed state that was found, None if none was."""
    return next((state for state in allowed if state == found), None)


def difference(found: State, allowed: list[State]) -> str:
    """What tells the found state from the newest and the oldest that are allowed, in short."""
    ends = [("newest", allowed[0]), ("oldest", allowed[-1])][: len(allowed)]
    return "; ".join(f"{word} of {len(allowed)} allowed: {_compared(found, state)}" for word, state in ends)


def _compared(found: State, wanted: State) -> str:
    said: list[str] = []
    for what, has, should in zip(("queues", "topics", "offsets"), _parts(found), _parts(wanted), strict=True):
        said += [
            f"{what} {key}: {has.get(key)} instead of {should.get(key)}"
            for key in sorted({*has, *should}, key=str)
            if has.get(key) != should.get(key)
        ]
    return ", ".join(said[:6])


def _parts(state: State) -> tuple[dict[object, object], ...]:
    queues: dict[object, object] = {}
    for name, queue in state.queues.items():
        queues[name] = f"settled {queue.settled}, room for {queue.max_messages}"
        queues.update(
            {(name, at): (*_short(message.body), message.attempt) for at, message in queue.messages.items()}
        )
    topics: dict[object, object] = {}
    for name, partitions in state.topics.items():
        for number, partition in enumerate(partitions):
            topics[name, number] = f"{partition.start} … {partition.end}"
            topics.update({(name, number, at): _short(body) for at, body in partition.records.items()})
    return queues, topics, dict(state.offsets)


def _short(body: bytes) -> tuple[bytes, int]:
    return body[:8], len(body)
