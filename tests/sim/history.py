"""Histories: what clients asked and were told, as one JSON object per line; `checker.py` judges them.

An operation is an `invoke` record and at most one ending with the same `op`: `ok` (done), `refused`
(definite: no effect, now or later) or `unknown`. Without an ending it is unknown: it may take effect
once, at any later time, or never.

    {"op":"p1-3", "type":"invoke", "f":"enqueue", "process":"p1", "time":1.25, "queue":"jobs", "values":["a"]}
    {"op":"p1-3", "type":"ok", "time":1.31, "first":12}

A note is a record of type `note` without `op`. `time` is in seconds of one monotonic clock that all
processes share; a process may have several operations under way. Every record is written before (invoke)
or after (ending) the call it tells of, so real time lies inside the interval.

A value is a text that names one publish and is never used twice; `payload` makes a body of it and
`value_of` reads it back, None if the bytes are not those that were sent. `queue` and `log` name one
sequence of offsets: a partition of a topic is "name/partition". A deleted and re-created name needs
another one here. A queue over a topic has an offset that says the partition, too: the number of the
partition times 2^48, and the offset there.

    f            invoke                            ok
    enqueue      queue, values                     first
    receive      queue, wait                       messages
    ack          queue, messages                   stale
    release      queue, messages                   stale
    dead_letter  queue, messages                   stale
    nack         queue, messages, delay or null    stale
    extend       queue, messages, lease            stale
    purge        queue
    checkpoint   queue, messages (one), checkpoint, lease stale
    reply        queue, messages (one), to, values     stale
    reschedule   queue, offset, at or null (cancelled) found
    transfer     queue, to or null (where they died),  messages (how many)
                 state; dry, if nothing is to be done;
                 may have rate (messages a second)
    schedule     queue, schedule, every (what it       first (when it runs first)
                 enqueues says its name)
    stats        queue (nobody else is busy)       ready, delayed, in_flight, waiting, settled, total
                                                   (all ever enqueued); may have: acked, dead_lettered,
                                                   expired, purged, duplicate, moved (all ever)
    produce      log, values                       first
    fetch        log, offset                       records, end; may have start (what is kept begins there)
    select       log, offset, where (its filter);  records, start, end, next (where to go on)
                 may have group, assignment
    poll         log, group, assignment            records (in an assignment each goes on from the last)
    end          log                               end (the offset to be written next)
    commit       log, group, offset, generation    (0: explicit partitions)
    committed    log, group                        offset or null
    generation   group; may have log               generation (in which the process was told that it is a
                                                   member, or may read that partition)

    open         name (of a producer)              producer (its id from now on), epoch (of its name's
                                                   openings, until it is deleted)
    unname       name (deleted)

    note         says
    settings     queue and max_attempts, max_deliveries, dead_letter, lease, backoff (the longest delay
                 of the retry curve, jitter included); comes before the first use of the queue. `special`, if
                 the queue has features: delay, ttl, dedup_window, on_expiry, job_scope, priority_ageing,
                 overflow, fair, group_concurrency, group_failure; once, if messages may be settled as they
                 are pushed; rate and group_rate (a second); source (its topic) and source_start
    opened       queue: no rate of it holds anything back any more
    runs         schedule and runs: how often it ran in all; it is deleted now
    deliver      queue, messages, process, since (the latest time at which the broker had surely not sent
                 them; may be absent): pushed messages
    disconnect   process: its connection is lost or closed, or it stops taking: its pushed messages may be
                 given to others
    noticed      since: the broker has heard of a disconnect at that time; until now it may have handed out
                 messages to that process
    blocked      process and since: from then until now it read nothing from its connection
    crash        the broker died; all leases are void
    started      the broker serves (may be absent)
    clock        jump: the broker's wall clock was set by so many seconds
    trimmed      log and start: retention may have given up what lies before that offset
    drained      queue or log: no faults since; all that was there was received and acked, or read

`messages` of a delivery are objects: value, offset, token, attempt, delivery, redelivered, lease;
`messages` and `stale` of a settle are [offset, token] pairs; `records` are [offset, value] pairs. Durations
are seconds; max_attempts, max_deliveries and dead_letter may be null.

`enqueue` and `produce` may have producer: the id whose stream of publishes they belong to. A record may have
traits: key, and headers.

Of queues with features, more is told. `enqueue` may have traits, an object per value: delay, at, ttl,
priority, group, dedup, job, conflict; its ok may have exceptions: [number of the value, 1 duplicate or 2
conflict, offset that it is one of]. `receive` may have once: settled as it is delivered. A message may have
time (of its append) and at (when it was handed out), both by the broker's wall clock; handed (when it was
handed out, by the clock of the history); replayed; once (it has no lease, its token is 0); checkpoint;
history (queue, offset, first_at, last_at, reason, attempts).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

Record = dict[str, Any]
DIGEST_BYTES = 8
LANE = 1 << 48
"""What the number of a partition counts in an offset of a queue over a topic."""
NEVER = float("inf")


class Op(NamedTuple):
    """One operation. `end`: when its effect was surely over; NEVER for an unknown one."""

    f: str
    process: str
    start: float
    end: float
    outcome: str
    asked: Record
    answer: Record

    @property
    def ok(self) -> bool:
        """It was done."""
        return self.outcome == "ok"

    @property
    def possible(self) -> bool:
        """It was done or may have been."""
        return self.outcome != "refused"


class Recorder:
    """Writes the records of one process; `write` takes each as it happens."""

    def __init__(self, process: str, time: Callable[[], float], write: Callable[[Record], object]) -> None:
        self.process = process
        self._time = time
        self._write = write
        self._count = 0

    def invoke(self, f: str, **asked: Any) -> str:
        """An operation begins; the name to end it by."""
        self._count += 1
        op = f"{self.process}-{self._count}"
        start = {"op": op, "type": "invoke", "f": f, "process": self.process, "time": self._time()}
        self._write({**start, **asked})
        return op

    def ok(self, op: str, **answer: Any) -> None:
        """It was done."""
        self._write({"op": op, "type": "ok", "time": self._time(), **answer})

    def refused(self, op: str, error: str) -> None:
        """It was definitely not done; `error` says why."""
        self._write({"op": op, "type": "refused", "time": self._time(), "error": error})

    def unknown(self, op: str, error: str) -> None:
        """Nobody knows."""
        self._write({"op": op, "type": "unknown", "time": self._time(), "error": error})

    def note(self, f: str, **fields: Any) -> None:
        """Something that is not an operation of a client."""
        self._write({"type": "note", "f": f, "process": self.process, "time": self._time(), **fields})


def line_of(record: Record) -> str:
    """A record as a line of a file."""
    return json.dumps(record, separators=(",", ":")) + "\n"


def load(paths: Iterable[Path]) -> list[Record]:
    """The records of several files in the order of time. A last line without its end is the trace of a
    killed process and left out; any other malformed line is an error."""
    records = []
    for path in paths:
        *lines, _torn = path.read_text().split("\n")
        records += [json.loads(line) for line in lines]
    return sorted(records, key=lambda record: record["time"])


def operations(records: Iterable[Record]) -> Iterator[Op]:
    """Each operation with its ending."""
    begun: dict[str, Record] = {}
    ended: dict[str, Record] = {}
    for record in records:
        if record["type"] != "note":
            into = begun if record["type"] == "invoke" else ended
            assert record["op"] not in into, f"two {record['type']} records of {record['op']}"
            into[record["op"]] = record
    assert ended.keys() <= begun.keys(), f"never begun: {sorted(ended.keys() - begun.keys())}"
    for op, asked in begun.items():
        answer = ended.get(op, {})
        outcome = answer.get("type", "unknown")
        end = NEVER if outcome == "unknown" else answer["time"]
        yield Op(asked["f"], asked["process"], asked["time"], end, outcome, asked, answer)


def payload(value: str, size: int) -> bytes:
    """A body of about `size` bytes that only this value can have."""
    head = value.encode() + b"\n"
    filler = Random(value).randbytes(max(0, size - len(head) - DIGEST_BYTES))
    return head + filler + blake2b(head + filler, digest_size=DIGEST_BYTES).digest()


def value_of(body: bytes) -> str | None:
    """The value a body was made of; None if a byte of it is wrong."""
    content, digest = body[:-DIGEST_BYTES], body[-DIGEST_BYTES:]
    if blake2b(content, digest_size=DIGEST_BYTES).digest() != digest:
        return None
    return content.partition(b"\n")[0].decode()
