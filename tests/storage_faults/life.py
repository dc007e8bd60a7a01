"""One life of a broker whose jobs run system call by system call, several at a time, in an order that a
seed picks: so a fault can fall between any two calls, whatever was under way beside.

Nothing here knows how the broker stores anything: requests go in, replies come out, jobs are turned.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from tests.fakes.clock import ManualClock
from tests.fakes.disk import Disk
from tests.fakes.memory_files import MemoryFiles, Steps

from penstock_broker.core import Core
from penstock_broker.outputs import Close, Send
from penstock_broker.settings import CoreSettings
from penstock_broker.storage.files import Job, StorageError
from penstock_protocol import verbs
from penstock_protocol.messages.session import MAGIC, Hello

PRODUCER_ID = 9
FILE_BYTES = 20 << 10
"""Four pages of blocks behind the header's: every fourth entry begins a new file."""
SETTINGS = CoreSettings(
    journal_budget_bytes=120 << 10, journal_file_bytes_min=FILE_BYTES, journal_file_bytes_max=FILE_BYTES
)
PATIENCE_SECONDS = 30
STALL_SECONDS = 30

Reply = Callable[[Any], None]


class Cut(BaseException):
    """The process, or the machine, ends here."""


class Life:
    """A broker from its start. `random` picks which job takes the next step; without one they run in the
    order of their making."""

    steps_left: int | None = None
    """Steps until `Cut`; None: no end."""
    frozen_at: int | None = None
    """The job that comes to the system call of this number stalls until nothing else can go on."""

    def __init__(self, disk: Disk, clock: ManualClock, seeds: Random, random: Random | None = None) -> None:
        self.disk = disk
        self.clock = clock
        self.files = MemoryFiles(disk)
        self._random = random
        self._jobs: list[tuple[Job, Steps]] = []
        self._frozen: list[tuple[Job, Steps]] = []
        self._waiting: dict[int, Reply] = {}
        self._correlation = 0
        try:
            self.core = Core(self.files, SETTINGS, Random(seeds.getrandbits(64)), clock.now())
            self._connection = self.core.connected(object())
            self.ask(Hello(MAGIC, 1, 1, b"a session of it.", PRODUCER_ID))
        except Exception:
            self.files.close()
            raise

    def send(self, request: Any, reply: Reply) -> None:
        """Have a request handled; `reply` gets what it is answered, at the moment it leaves the broker."""
        self._correlation += 1
        self._waiting[self._correlation] = reply
        verb = verbs.BY_REQUEST[type(request)]
        self.core.handle(self._connection, verb, self._correlation, request, self.clock.now())

    def ask(self, *requests: Any) -> list[Any]:
        """Have requests answered, all sent before the first reply."""
        replies: dict[int, Any] = {}
        for number, request in enumerate(requests):
            self.send(request, lambda reply, number=number: replies.__setitem__(number, reply))
        self.run_until(lambda: len(replies) == len(requests))
        return [replies[number] for number in range(len(requests))]

    def idle(self) -> None:
        """Let everything happen that is to happen now."""
        self.run_until(lambda: not self._busy)

    @property
    def _busy(self) -> bool:
        """Something is under way, or due."""
        engine = self.core.engine
        return bool(self._jobs) or not engine.journal.idle or engine.checkpointing or self._due

    @property
    def _due(self) -> bool:
        deadline = self.core.deadline
        return deadline is not None and deadline <= self.clock.now().mono

    def run_until(self, done: Callable[[], bool]) -> None:
        """Turns and steps until `done`; time passes where nothing else can bring it about."""
        seconds_left = PATIENCE_SECONDS
        while True:
            self._turn()
            if done():
                return
            if self._jobs:
                self._step()
            elif self._frozen:
                self.thaw()
            elif not self._due:
                assert seconds_left, "the broker cannot go on"
                seconds_left -= 1
                self.clock.advance(1_000)

    @property
    def stalled(self) -> bool:
        """Something stands still."""
        return bool(self._frozen)

    def thaw(self) -> None:
        """What stalled goes on, a long while later."""
        if self._frozen:
            self.clock.advance(STALL_SECONDS * 1_000)
            self._jobs, self._frozen = [*self._jobs, *self._frozen], []

    def last_words(self) -> None:
        """What a broker says that has failed and is about to end."""
        self._turn()

    def _turn(self) -> None:
        self.core.tick(self.clock.now())
        for output in self.core.drain(self.clock.now()):
            if isinstance(output, Send):
                self._waiting.pop(output.correlation)(_copied(output.message))
            elif isinstance(output, Close):
                raise AssertionError(f"the broker closes the connection: {output}")
            else:
                self._jobs.append((output, self.files.steps(output)))

    def _step(self) -> None:
        if self.steps_left is not None:
            if not self.steps_left:
                raise Cut
            self.steps_left -= 1
        index = self._random.randrange(len(self._jobs)) if self._random is not None else 0
        if self.frozen_at is not None and self.frozen_at <= len(self.disk.calls) + 1:
            self._frozen.append(self._jobs.pop(index))
            self.frozen_at = None
            return
        job, steps = self._jobs[index]
        result: object
        try:
            next(steps)
            return
        except StopIteration as end:
            result = end.value
        except (OSError, StorageError) as error:
            result = error
        del self._jobs[index]
        self.core.done(job, result, self.clock.now())


def _copied(message: Any) -> Any:
    """The message with its payload as bytes of its own, so that nothing pins the broker's files."""
    payload = getattr(message, "payload", None)
    return message._replace(payload=b"".join(payload)) if isinstance(payload, tuple) else message
