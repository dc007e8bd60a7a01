"""One broker on a disk in memory, turned by hand, that can be made to die behind any system call."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.fakes.clock import ManualClock
from tests.fakes.disk import Call, Disk
from tests.fakes.memory_files import MemoryFiles

from penstock_broker.core import Core
from penstock_broker.outputs import Close, Send
from penstock_broker.settings import CoreSettings
from penstock_broker.storage.files import Job, StorageError
from penstock_protocol import verbs
from penstock_protocol.batch import BatchBuilder, BatchView
from penstock_protocol.errors import Busy, Error
from penstock_protocol.messages.queues import Ack, CreateQueue, Enqueue, Peek, Receive
from penstock_protocol.messages.session import MAGIC, Hello
from penstock_protocol.slices import Range, decode_slices, encode_ranges

FILE_BYTES = 16 << 10
"""Three blocks of one page, behind the header."""
SETTINGS = CoreSettings(
    journal_budget_bytes=1 << 20, journal_file_bytes_min=FILE_BYTES, journal_file_bytes_max=FILE_BYTES
)
QUEUE = "jobs"
ARCHIVED_AFTER_MS = 61_000

CrashAt = Callable[[Job, Call], bool]


class PowerCut(BaseException):
    """The machine stops here."""


class FragileFiles(MemoryFiles):
    """Jobs run call by call; behind the call that `crash_at` picks, everything ends. `cold`: nothing is in
    memory, all is loaded."""

    crash_at: CrashAt | None = None
    cold = False

    def peek(self, name: str, offset: int, length: int) -> bytes | None:
        """Bytes, or None if they are cold."""
        return None if self.cold else super().peek(name, offset, length)

    def run(self, job: Job) -> object:
        """Do a job, as far as it comes."""
        steps = self.steps(job)
        while True:
            try:
                call = next(steps)
            except StopIteration as end:
                return end.value
            if self.crash_at is not None and self.crash_at(job, call):
                raise PowerCut


class OneNode:
    """A life of the broker. `confirmed`: bodies whose enqueue was confirmed, in order; `open`: the ones
    whose outcome is not known."""

    def __init__(
        self, disk: Disk | None = None, clock: ManualClock | None = None, crash_at: CrashAt | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.files = FragileFiles(disk)
        self.files.crash_at = crash_at
        self.core = Core(self.files, SETTINGS, Random(1), self.clock.now())
        self.confirmed: list[bytes] = []
        self.open: list[bytes] = []
        self._connection = self.core.connected(object())
        self._correlation = 0
        self._replies: dict[int, Any] = {}
        self.ask(Hello(MAGIC, 1, 1, bytes(16), 0))

    def ask(self, message: Any) -> Any:
        """The reply to a request; an error reply is raised."""
        self._correlation += 1
        verb = verbs.BY_REQUEST[type(message)]
        self.core.handle(self._connection, verb, self._correlation, message, self.clock.now())
        self.turn()
        reply = self._replies.pop(self._correlation)
        if isinstance(reply, Error):
            raise reply
        return reply

    def turn(self) -> None:
        """Let everything happen that is to happen now."""
        outputs: list[Any] = [None]
        while outputs or not self.core.engine.journal.idle or self._is_due:
            self.core.tick(self.clock.now())
            outputs = self.core.drain(self.clock.now())
            for output in outputs:
                if isinstance(output, Send):
                    self._replies[output.correlation] = _copied(output.message)
                elif not isinstance(output, Close):
                    self._do(output)

    @property
    def _is_due(self) -> bool:
        deadline = self.core.deadline
        return deadline is not None and deadline <= self.clock.now().mono

    def _do(self, job: Job) -> None:
        try:
            result = self.files.run(job)
        except (OSError, StorageError) as error:
            result = error
        self.core.done(job, result, self.clock.now())

    # What a test does

    def create_queue(self, durability: str | None = None) -> "OneNode":
        """Make the queue, in that mode or the node's."""
        self.ask(CreateQueue(QUEUE, {"durability": durability}, "check"))
        return self

    def enqueue(self, *bodies: bytes) -> "OneNode":
        """Enqueue each body as a batch, and so a block, of its own."""
        for body in bodies:
            builder = BatchBuilder()
            builder.extend([body])
            self.open.append(body)
            self._publish(Enqueue(QUEUE, memoryview(builder.encode())))
            self.confirmed.append(self.open.pop())
        return self

    def _publish(self, request: Enqueue) -> None:
        """As a client does: it is sent again once, when the file that it needs is ready."""
        try:
            self.ask(request)
        except Busy:
            self.turn()
            self.ask(request)

    def receive(self, messages: int) -> list[Range]:
        """Lease the oldest messages."""
        delivery = self.ask(Receive(QUEUE, messages, 0))
        slices = decode_slices(memoryview(delivery.payload), delivery.slices)
        return [Range(stamps.token, stamps.first, 0, stamps.messages) for stamps, _ in slices]

    def receive_and_ack(self, messages: int) -> "OneNode":
        """Settle the oldest messages."""
        self.settle(self.receive(messages))
        del self.confirmed[:messages]
        return self

    def settle(self, leased: list[Range]) -> None:
        """Ack what was received."""
        self.ask(Ack(QUEUE, memoryview(encode_ranges(leased))))

    def checkpoint(self) -> "OneNode":
        """Write a checkpoint."""
        self.core.engine.checkpoint_now()
        self.turn()
        return self

    def archive(self) -> "OneNode":
        """Let the oldest journal file grow old enough to be archived."""
        self.clock.advance(ARCHIVED_AFTER_MS)
        self.turn()
        return self

    def stop(self) -> None:
        """Stop in order."""
        self.core.stop(self.clock.now())
        self.turn()

    def messages(self) -> list[bytes]:
        """Bodies of what is ready, in order."""
        reply = self.ask(Peek(QUEUE, 10_000, "ready"))
        bodies = []
        for _, batch in decode_slices(memoryview(reply.payload), reply.slices):
            view = BatchView(batch)
            starts = [0, *view.ends()]
            bodies += [bytes(view.bodies()[a:b]) for a, b in zip(starts, view.ends(), strict=False)]
        return bodies

    # What may follow

    def lives_after(self, *, samples: int = 24) -> Iterator["OneNode"]:
        """A life for each thing that a power cut now may leave."""
        for _, disk in self.files.disk.crashes(Random(0), prefixes=12, samples=samples):
            yield OneNode(disk, self.clock)


def behind(kind: str, prefix: str, job: type[Job], nth: int = 1) -> CrashAt:
    """Crash behind the `nth` call of that kind in jobs of that class on files of that name."""
    left = nth

    def crash_at(doing: Job, call: Call) -> bool:
        nonlocal left
        left -= isinstance(doing, job) and call.kind == kind and doing.name.startswith(prefix)
        return not left

    return crash_at


def _copied(message: Any) -> Any:
    """The message with its payload as bytes of its own, so that nothing pins the broker's files."""
    payload = getattr(message, "payload", None)
    return message._replace(payload=b"".join(payload)) if isinstance(payload, tuple) else message
