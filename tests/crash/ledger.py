"""The history of an era as it is written, how far it has come, and the endings that calls have.

Everybody in an era shares one ledger and one clock. It counts what the broker has confirmed and settled, so
that a cycle can be asked for progress, and wakes who waits for that.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import penstock
from penstock_protocol.errors import Refused
from tests.sim.history import Record, Recorder

UNSENT = (penstock.Disconnected, penstock.ClientClosed)
"""The call ended before anything went out: as good as a refusal."""
JUMP_SECONDS = 0.0001
"""What the wall clock may gain or lose before it is told."""


class Ledger:
    """Made in the event loop, written to from there and from threads."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.done: Counter[str] = Counter()
        """Messages and records by what was surely done with them: enqueue, produce, ack, …"""
        self.refusals: Counter[str] = Counter()
        """Calls by class of error."""
        self.enqueued: dict[str, float] = {}
        """When somebody was about to enqueue a value."""
        self.seen: set[tuple[str, int]] = set()
        """(queue, offset) of every message that was delivered to somebody."""
        self.succeeded: set[str] = set()
        """Processes that got what they asked for since somebody cleared this."""
        self._open: dict[str, Record] = {}
        self._ahead = time.time() - time.monotonic()
        self._lock = Lock()
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()

    @property
    def confirmed(self) -> int:
        """Messages and records that were confirmed."""
        return self.done["enqueue"] + self.done["produce"]

    @property
    def settled(self) -> int:
        """Messages whose settle or failure was receipted."""
        return self.done["ack"] + self.done["nack"] + self.done["dead_letter"]

    @property
    def backlog(self) -> int:
        """Messages that were confirmed and never delivered, as far as anybody knows; records are messages,
        too, of the queue over the topic."""
        return self.confirmed - len(self.seen)

    def recorder(self, process: str) -> Recorder:
        """For one process."""
        return Recorder(process, time.monotonic, self.write)

    def write(self, record: Record) -> None:
        """Take a record as it happens."""
        with self._lock:
            self._watch_clock(record["time"])
            self.records.append(record)
            if record["type"] == "invoke":
                self._begun(record)
            elif record["type"] == "note":
                self._delivered(record, record)
            else:
                self._ended(self._open.pop(record["op"]), record)
        self._loop.call_soon_threadsafe(self._moved.set)

    def _watch_clock(self, now: float) -> None:
        """The broker's delays go by the wall clock, which somebody may set while this runs."""
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        jump = wall - after - self._ahead
        if after - before < JUMP_SECONDS / 2 < JUMP_SECONDS < abs(jump):
            self._ahead += jump
            self.records.append({"type": "note", "f": "clock", "process": "run", "time": now, "jump": jump})

    def _begun(self, record: Record) -> None:
        self._open[record["op"]] = record
        if record["f"] == "enqueue":
            self.enqueued |= dict.fromkeys(record["values"], record["time"])

    def _ended(self, asked: Record, answer: Record) -> None:
        if answer["type"] == "refused":
            self.refusals[answer["error"].partition(":")[0]] += 1
        elif answer["type"] == "ok":
            self.succeeded.add(asked["process"])
            self._delivered(asked, answer)
            messages = asked.get("values") or asked.get("messages") or ()
            without = len(answer.get("stale", ())) + len(answer.get("exceptions", ()))
            self.done[asked["f"]] += len(messages) - without

    def _delivered(self, asked: Record, answer: Record) -> None:
        if asked["f"] in ("receive", "deliver"):
            self.seen |= {(asked["queue"], message["offset"]) for message in answer["messages"]}

    @contextmanager
    def refusing(self, kind: type[Refused]) -> Iterator[None]:
        """What the block does may be refused so; it is over then."""
        try:
            yield
        except kind:
            self.refusals[kind.__name__] += 1

    async def until(self, is_reached: Callable[[], bool], seconds: float) -> bool:
        """Wait for something that only comes about with the history; False when the time is up."""
        try:
            async with asyncio.timeout(seconds):
                while not is_reached():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True


@contextmanager
def asked(recorder: Recorder, f: str, **fields: object) -> Iterator[Record]:
    """One operation. What the block puts into the record is its answer; an error that the contract knows is
    its ending, and goes no further."""
    op = recorder.invoke(f, **fields)
    messages = fields.get("messages")
    answer: Record = {} if messages is None else {"stale": []}
    try:
        yield answer
    except penstock.Stale as error:
        if isinstance(messages, list) and len(messages) == 1:
            recorder.ok(op, stale=messages)
        else:  # nobody says which of them
            recorder.unknown(op, said(error))
    except (Refused, *UNSENT) as error:
        recorder.refused(op, said(error))
    except (penstock.Error, OSError) as error:
        recorder.unknown(op, said(error))
    else:
        recorder.ok(op, **answer)


def said(error: Exception) -> str:
    """The class of an error and its text."""
    return f"{type(error).__name__}: {error}"
