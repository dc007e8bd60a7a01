"""Which batches of which producers a log holds already: retries cannot duplicate; and which producers with a
name are who they were.

Sequences count batches per (producer id, log). The last 32 outcomes are remembered with the log's state,
so they survive a restart exactly as the messages do. Looked up before any other check.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from random import Random
from struct import Struct
from typing import NamedTuple

from penstock_protocol.errors import SequenceGap, Stale
from penstock_protocol.limits import PRODUCER_ID_NAMED_MIN, SEQUENCES_IN_FLIGHT_MAX

NUMBER_BITS = 42
EPOCH_BITS = 20
EPOCH_MAX = 2**EPOCH_BITS - 1
PRODUCERS_MAX = 1_000
"""Per log; the one that was silent longest is forgotten, and must begin anew with another id."""
SNAPSHOT = Struct("<QII")  # producer_id, next sequence, outcomes
OUTCOME = Struct("<QIQ")  # first, messages, time
HAS_EXCEPTIONS = 1 << 31  # in the number of messages: exceptions follow the outcomes, each with a u32 length


class Outcome(NamedTuple):
    """Where a batch was appended, and when (ms). `exceptions`: those of its messages that were not new, as
    its confirm names them."""

    first: int
    messages: int
    time: int
    exceptions: bytes = b""


class Opened(NamedTuple):
    """A producer with a name: the number that is its own for ever, and how often it was opened. Its id is
    both: an earlier opening is another id, whose sequences do not count for this one."""

    number: int
    epoch: int

    @property
    def id(self) -> int:
        """What stands in its batches: bit 62, 42 bits of number, 20 of epoch."""
        return PRODUCER_ID_NAMED_MIN | self.number << EPOCH_BITS | self.epoch

    def next(self, new_number: Callable[[], int]) -> "Opened":
        """The next opening; under another number when epochs are used up."""
        return Opened(self.number, self.epoch + 1) if self.epoch < EPOCH_MAX else Opened(new_number(), 1)


class Named:
    """Who may produce under which name: the latest opening of each. Every earlier one is fenced, for good."""

    def __init__(self) -> None:
        self._opened: dict[str, Opened] = {}
        self._names: dict[int, str] = {}
        """By id."""

    def __len__(self) -> int:
        return len(self._opened)

    def get(self, name: str) -> Opened | None:
        """The latest opening under that name."""
        return self._opened.get(name)

    def set(self, name: str, opened: Opened) -> None:
        """It was opened."""
        self.remove(name)
        self._opened[name] = opened
        self._names[opened.id] = name

    def remove(self, name: str) -> None:
        """Nobody has the name."""
        before = self._opened.pop(name, None)
        if before is not None:
            del self._names[before.id]

    def new_number(self, random: Random) -> int:
        """One that no producer has. By chance, not by count: numbers of deleted ones do not come back."""
        taken = {opened.number for opened in self._opened.values()}
        while (number := random.getrandbits(NUMBER_BITS)) in taken:
            pass
        return number

    def fences(self, producer_id: int) -> bool:
        """The id is of a producer with a name, and not of its latest opening."""
        return producer_id >= PRODUCER_ID_NAMED_MIN and producer_id not in self._names


class Producers:
    """The producers of one log."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[int, deque[Outcome]]] = OrderedDict()
        """Producer id → next sequence, outcomes of the ones before it; longest silent first."""

    def check(self, producer_id: int, sequence: int) -> Outcome | None:
        """The outcome of a batch that is here already; None if it is the next one.

        Raises `SequenceGap` if one before it is missing and `Stale` if it is older than what is
        remembered.
        """
        known = self._known.get(producer_id)
        if known is None:
            if sequence:
                raise SequenceGap(f"batch {sequence} of an unknown producer", detail={"expected": 0})
            return None
        expected, outcomes = known
        if sequence > expected:
            raise SequenceGap(f"batch {sequence} came before batch {expected}", detail={"expected": expected})
        if sequence == expected:
            return None
        back = expected - sequence
        if back > len(outcomes):
            raise Stale(
                f"batch {sequence} is older than the last {SEQUENCES_IN_FLIGHT_MAX} of its producer",
                hint="use a new producer id",
            )
        return outcomes[-back]

    def expected(self, producer_id: int) -> int:
        """The sequence of its next batch; 0 if it is not known."""
        return self._known[producer_id][0] if producer_id in self._known else 0

    def appended(self, producer_id: int, sequence: int, outcome: Outcome) -> None:
        """The batch was appended."""
        known = self._known.get(producer_id)
        outcomes: deque[Outcome] = deque(maxlen=SEQUENCES_IN_FLIGHT_MAX) if known is None else known[1]
        outcomes.append(outcome)
        self._known[producer_id] = sequence + 1, outcomes
        self._known.move_to_end(producer_id)
        if len(self._known) > PRODUCERS_MAX:
            self._known.popitem(last=False)

    def snapshot(self) -> bytes:
        """Everything, as bytes."""
        out = [len(self._known).to_bytes(4, "little")]
        for producer_id, (expected, outcomes) in self._known.items():
            out.append(SNAPSHOT.pack(producer_id, expected, len(outcomes)))
            for first, messages, time, exceptions in outcomes:
                out.append(OUTCOME.pack(first, messages | (HAS_EXCEPTIONS if exceptions else 0), time))
            for exceptions in (outcome.exceptions for outcome in outcomes if outcome.exceptions):
                out += [len(exceptions).to_bytes(4, "little"), exceptions]
        return b"".join(out)

    def restore(self, data: memoryview) -> int:
        """The inverse of `snapshot`; how many bytes were used."""
        at = 4
        for _ in range(int.from_bytes(data[:4], "little")):
            producer_id, expected, count = SNAPSHOT.unpack_from(data, at)
            at += SNAPSHOT.size
            end = at + count * OUTCOME.size
            outcomes: deque[Outcome] = deque(maxlen=SEQUENCES_IN_FLIGHT_MAX)
            for first, messages, time in OUTCOME.iter_unpack(data[at:end]):
                exceptions = b""
                if messages & HAS_EXCEPTIONS:
                    size = int.from_bytes(data[end : end + 4], "little")
                    exceptions = bytes(data[end + 4 : end + 4 + size])
                    end += 4 + size
                outcomes.append(Outcome(first, messages & ~HAS_EXCEPTIONS, time, exceptions))
            self._known[producer_id] = expected, outcomes
            at = end
        return at
