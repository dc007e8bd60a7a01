"""A broker on a bench: requests are handled at once, jobs run when the test says so."""

from collections import defaultdict
from random import Random
from typing import Any, NamedTuple

from tests.fakes.clock import ManualClock
from tests.fakes.memory_files import MemoryFiles

from penstock_broker.core import Core
from penstock_broker.outputs import Close, Send
from penstock_broker.queues.queue import Queue
from penstock_broker.session import Connection
from penstock_broker.settings import CoreSettings
from penstock_broker.storage.files import Job, StorageError
from penstock_protocol import verbs
from penstock_protocol.batch import BatchBuilder, BatchView
from penstock_protocol.errors import Busy
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.slices import Range, Slice, decode_slices, encode_ranges

SETTINGS = CoreSettings(
    journal_budget_bytes=256 << 10, journal_file_bytes_min=16 << 10, journal_file_bytes_max=16 << 10
)
PATIENCE_SECONDS = 10
TRIES = 10


class Got(NamedTuple):
    """One slice of a delivery with its bodies."""

    stamps: Slice
    bodies: list[bytes]

    @property
    def range(self) -> Range:
        """What settles all of it."""
        return Range(self.stamps.token, self.stamps.first, 0, self.stamps.messages)


class Bench:
    """One life of a broker."""

    def __init__(
        self,
        files: MemoryFiles | None = None,
        clock: ManualClock | None = None,
        settings: CoreSettings = SETTINGS,
    ) -> None:
        self.files = files or MemoryFiles()
        self.clock = clock or ManualClock()
        self.core = Core(self.files, settings, Random(2), self.clock.now())
        self.jobs: list[Job] = []
        self.replies: dict[tuple[Connection, int], Any] = {}
        self.parts: dict[tuple[Connection, int], list[Any]] = defaultdict(list)
        """Replies that were not the last."""
        self.pushed: list[Any] = []
        self.closed: list[Connection] = []
        self._correlation = 0

    def connect(self, session: bytes = b"s" * 16, producer_id: int = 0) -> Connection:
        """A connection that said hello."""
        connection = self.core.connected(object())
        self.call(connection, s.Hello(s.MAGIC, 1, 1, session, producer_id))
        return connection

    def ask(self, connection: Connection, request: Any) -> int:
        """Have a request handled, and no more; its correlation id."""
        self._correlation += 1
        verb = verbs.BY_REQUEST[type(request)]
        self.core.handle(connection, verb, self._correlation, request, self.clock.now())
        return self._correlation

    def turn(self) -> None:
        """One turn of the loop; no job runs."""
        self.core.tick(self.clock.now())
        for output in self.core.drain(self.clock.now()):
            if isinstance(output, Send):
                message = _copied(output.message)
                asked = output.connection, output.correlation
                if not output.is_last:
                    assert asked not in self.replies, "there was a last one"
                    self.parts[asked].append(message)
                elif output.correlation:
                    self.replies[asked] = message
                else:
                    self.pushed.append(message)
            elif isinstance(output, Close):
                self.closed.append(output.connection)
            else:
                self.jobs.append(output)

    def run_jobs(self) -> None:
        """Run what waits to be run, in order."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            result: object
            try:
                result = self.files.run(job)
            except (OSError, StorageError) as error:
                result = error
            self.core.done(job, result, self.clock.now())

    def settle(self) -> None:
        """Turns and jobs until neither brings anything more; where only time brings it, time passes."""
        self.turn()
        seconds_left = PATIENCE_SECONDS
        while self.jobs or not self.core.engine.journal.idle or self._is_due:
            if not self.jobs and not self._is_due:
                assert seconds_left, "the journal cannot go on"
                seconds_left -= 1
                self.clock.advance(1_000)
            self.run_jobs()
            self.turn()

    @property
    def _is_due(self) -> bool:
        deadline = self.core.deadline
        return deadline is not None and deadline <= self.clock.now().mono

    def call(self, connection: Connection, request: Any) -> Any:
        """Have a request answered."""
        correlation = self.ask(connection, request)
        self.settle()
        return self.replies.pop((connection, correlation), None)

    # shorthand

    def queue(self, name: str) -> Queue:
        """The machine."""
        return self.core.registry.queues[name]

    def enqueue(self, connection: Connection, name: str, *bodies: bytes) -> Any:
        """Enqueue one batch."""
        return self.until_taken(connection, q.Enqueue(name, batch(*bodies)))

    def until_taken(self, connection: Connection, request: Any) -> Any:
        """Have a publish answered; as a client does, it is sent again where the broker is only busy."""
        reply: Any = Busy("not asked yet")
        for _ in range(TRIES):
            if not isinstance(reply, Busy):
                break
            reply = self.call(connection, request)
        return reply

    def receive(self, connection: Connection, name: str, messages: int = 100) -> list[Got]:
        """What a RECEIVE gives now."""
        return got(self.call(connection, q.Receive(name, messages, 0)))

    def ack(self, connection: Connection, name: str, *ranges: Range) -> Any:
        """Settle ranges."""
        return self.call(connection, q.Ack(name, memoryview(encode_ranges(ranges))))


def batch(*bodies: bytes, producer_id: int = 0, sequence: int = 0) -> memoryview:
    """A batch of these bodies."""
    builder = BatchBuilder()
    builder.extend(bodies)
    return memoryview(builder.encode(producer_id, sequence))


def got(delivery: Any) -> list[Got]:
    """The slices of a delivery."""
    out = []
    for stamps, data in decode_slices(memoryview(delivery.payload), delivery.slices):
        view = BatchView(data)
        starts = [0, *view.ends()]
        bodies = [bytes(view.bodies()[a:b]) for a, b in zip(starts, view.ends(), strict=False)]
        out.append(Got(stamps, bodies))
    return out


def _copied(message: Any) -> Any:
    """The message with its payload as bytes of its own, so that nothing pins the broker's files."""
    payload = getattr(message, "payload", None)
    return message._replace(payload=b"".join(payload)) if isinstance(payload, tuple) else message
