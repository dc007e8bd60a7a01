"""Answers on their way out: a reply that waits for durability, and the reading that fills it with bytes.

An answer is released when the position it depends on is durable. Only then are bytes read and do leases
begin to run. Bytes that are not in memory are loaded first; the answer waits for them, nothing else does.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from penstock_broker.clock import Now
from penstock_broker.filtering import Filter
from penstock_broker.session import Connection
from penstock_broker.storage.files import Load
from penstock_broker.storage.log import Log
from penstock_broker.storage.reads import Cold, Cut, Loaded, Reads, Views, crc_of, shortened
from penstock_protocol.batch import BatchView
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Corrupt, Error
from penstock_protocol.slices import Slice, encode_slice
from penstock_protocol.verbs import Verb


class Call(NamedTuple):
    """Who asked for what, and when."""

    connection: Connection
    verb: Verb
    correlation: int
    now: Now


class Run(NamedTuple):
    """Consecutive messages of a log to be sent, with the stamps they share. `lease`: ms."""

    first: int
    messages: int
    token: int = 0
    lease: int = 0
    attempt: int = 1
    delivery: int = 0
    flags: int = 0
    noted: Callable[[BatchView, int], Buffer | None] | None = None
    """Adds what is noted of a message, which is alone in its run: (its batch, append time) → the copy."""


UNBOUNDED = 1 << 62


class Reading:
    """The bytes an answer carries: runs of one log, put into a message by `finish` (slices, payload, where
    to go on behind them). It ends early where it has `messages_max` messages or `size_max` bytes.

    `finish` must not know its reading: in a circle they would keep what was loaded until one is searched for.
    """

    __slots__ = (
        *("finish", "loaded", "loading", "log", "lost", "messages_max"),
        *("chosen", "partition", "queue", "runs", "settle", "size_max", "started"),
    )

    def __init__(
        self,
        log: Log,
        partition: int,
        runs: list[Run],
        finish: Callable[[int, tuple[Buffer, ...], int], Any],
        started: Callable[[Now], bool] | None = None,
        lost: Callable[[], None] | None = None,
        settle: Callable[[Any, Now], None] | None = None,
        *,
        messages_max: int = UNBOUNDED,
        size_max: int = UNBOUNDED,
        queue: Any = None,
        chosen: Filter | None = None,
    ) -> None:
        self.log = log
        self.partition = partition
        self.runs = runs
        self.finish = finish
        self.started = started
        """Called when the answer leaves; False: it is not wanted any more."""
        self.lost = lost
        """Called instead when it cannot leave."""
        self.settle = settle
        """Called with the message instead of sending it: its messages are settled first, it is sent after."""
        self.messages_max = messages_max
        self.size_max = size_max
        self.queue = queue
        """Whose messages they are, if somebody gets them."""
        self.chosen = chosen
        """Which of the messages are wanted; None: all."""
        self.loaded: Loaded = {}
        self.loading = 0


class Answer:
    """A reply (or a push, with correlation 0) that waits for its position."""

    __slots__ = ("call", "message", "reading", "spent")

    def __init__(self, call: Call, message: Any, reading: Reading | None = None, spent: int = 0) -> None:
        self.call = call
        self.message = message
        self.reading = reading
        self.spent = spent
        """Publish credit that comes back with it, bytes."""


def cold_extents(reading: Reading, reads: Reads) -> list[Load]:
    """Loads without which the reading would have to wait for the disk."""
    cold = set()
    for run in reading.runs:
        cold |= reads.missing(reading.log, run.first, run.messages, reading.loaded)
    return [Load(*extent[:3]) for extent in sorted(cold)]


def materialize(reading: Reading, reads: Reads) -> Any:
    """The message with its bytes. Raises `Corrupt` if the first bytes already are, or any under a lease,
    which would run on undelivered; `Cold` where an index was dropped since `cold_extents` saw it."""
    heads: list[bytes] = []
    buffers: list[Buffer] = []
    end = reading.runs[0].first
    try:
        for run, cut, upto in _cuts(reading, reads):
            end = upto
            if cut is None:
                continue
            if run.noted is not None:
                cut = _with_notes(cut, run.noted)
            heads.append(encode_slice(_stamps(run, cut, reading.partition), cut.crc))
            buffers.append(cut.data)
    except Corrupt:
        passed = reading.chosen is not None and end > reading.runs[0].first
        if not (heads or passed) or reading.lost is not None:
            raise
    return reading.finish(len(heads), (b"".join(heads), *buffers) if heads else (), end)


def _cuts(reading: Reading, reads: Reads) -> Iterator[tuple[Run, Cut | None, int]]:
    """What goes into the message, and the offset to go on at; None where there is nothing up to there."""
    messages, size = reading.messages_max, reading.size_max
    chosen = reading.chosen
    if chosen is not None:
        chosen.begin()
    views: Views = {}
    for run in reading.runs:
        for cut in reads.cuts(reading.log, run.first, run.messages, reading.loaded, views):
            fitting: Cut | None
            if chosen is None:
                fitting = cut if cut.messages <= messages else shortened(cut, messages)
                end = fitting.end
            else:
                fitting, end = chosen.pick(cut, messages)
            yield run, fitting, end
            if fitting is not None:
                messages -= fitting.messages
                size -= len(fitting.data)
            if messages <= 0 or size <= 0 or (chosen is not None and chosen.tired):
                return
        yield run, None, run.first + run.messages


def _with_notes(cut: Cut, noted: Callable[[BatchView, int], Buffer | None]) -> Cut:
    data = noted(BatchView(cut.data, verify=False), cut.time)
    return cut if data is None else cut._replace(data=data, crc=crc_of(data))


def _stamps(run: Run, cut: Cut, partition: int) -> Slice:
    return Slice(
        run.token,
        cut.first,
        cut.origin_first,
        cut.time,
        cut.origin_log,
        run.lease,
        partition,
        cut.messages,
        run.attempt,
        run.delivery,
        run.flags,
        len(cut.data),
    )


__all__ = ["Answer", "Call", "Cold", "Error", "Reading", "Run", "cold_extents", "materialize"]
