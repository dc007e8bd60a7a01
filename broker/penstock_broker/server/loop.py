"""The one caller of the core, and its turns: once per iteration of the event loop what the core has to
say is handed out.

    sockets read → core.handle …      one turn: tick → drain → one write per connection, jobs to threads,
    threads done → core.done …  ───►            the timer set to the core's next deadline

Invariants: the clock is read once per call into the core; every call is followed by a turn; what the
core raises ends the node, and it is never called again. No rule of the broker is known here.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from penstock_broker.clock import Clock, Now, stopwatch
from penstock_broker.meters import Meters
from penstock_broker.outputs import Close, Output, Send
from penstock_broker.storage.files import Job, StorageError, Sync, Write

if TYPE_CHECKING:
    from penstock_broker.core import Core


class Peer(Protocol):
    """What the core's `Connection.peer` is here: the other end of a socket."""

    def send(self, sends: list[Send], moment: float) -> None:
        """Write these, in order, at once. `moment`: the stopwatch now."""
        ...

    def close(self, reason: str) -> None:
        """Close behind what was written."""
        ...


class Turns:
    """Calls into the core and what follows from them.

    `submit` takes a job to the threads, and returns what came of it if it waited for that; `after` runs at
    the end of each turn; `fail` is told, once, what the core raised.
    """

    def __init__(
        self,
        core: "Core",
        clock: Clock,
        meters: Meters,
        submit: Callable[[Job], tuple[object, float] | None],
        after: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.core = core
        self.now = clock.now()
        """The instant of the last look at the clock, at most a sweep of the node ago."""
        self._clock = clock
        self._meters = meters
        self._submit = submit
        self._after = after
        self._fail = fail
        self._failed = False
        self._scheduled = False
        self._deadline: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def call(self, method: Callable[..., None], *args: object) -> None:
        """Call a method of the core; the instant is its last argument. A turn follows."""
        self._enter(method, *args)
        self.soon()

    def read_clock(self) -> Now:
        """Bring `now` up to date while nothing happens."""
        self.now = self._clock.now()
        return self.now

    def done(self, job: Job, result: object, seconds: float) -> None:
        """A job ended, with its result or what it raised. A turn follows."""
        self._note(job, result, seconds)
        self.soon()

    def _note(self, job: Job, result: object, seconds: float) -> None:
        if isinstance(job, Sync) or (isinstance(job, Write) and job.sync):
            self._meters.sync_seconds.observe(seconds)
        if isinstance(result, Exception) and not isinstance(result, OSError | StorageError):
            self._stop(result)
        else:
            self._enter(self.core.done, job, result)

    def soon(self) -> None:
        """Make sure that a turn follows in the next iteration of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start)

    def _enter(self, method: Callable[..., None], *args: object) -> None:
        if self._failed:
            return
        try:
            method(*args, self.read_clock())
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._fail(error)

    def _start(self) -> None:
        self._scheduled = False
        self._enter(self._turn)

    def _turn(self, now: Now) -> None:
        self.core.tick(now)
        while self._hand_out(self.core.drain(self.now)):
            pass  # a write that was waited for lets out who waited for it
        if self._failed:
            return
        # What left may have set deadlines of its own: a lease begins when its delivery leaves.
        self._set_timer(self.core.deadline)
        self._after()

    def _hand_out(self, outputs: list[Output]) -> bool:
        """To peers and threads. True if a job is done already, so that there may be more to hand out."""
        if not outputs:
            return False
        sends: dict[Peer, list[Send]] = {}
        closes: list[Close] = []
        jobs: list[Job] = []
        for output in outputs:
            if isinstance(output, Send):
                sends.setdefault(cast(Peer, output.connection.peer), []).append(output)
            elif isinstance(output, Close):
                closes.append(output)
            else:
                jobs.append(output)
        moment = stopwatch()
        for peer, its in sends.items():
            peer.send(its, moment)
        for connection, reason in closes:
            cast(Peer, connection.peer).close(reason)
        done = [(job, *ended) for job in jobs if (ended := self._submit(job)) is not None]
        for each in done:
            self._note(*each)
        return bool(done) and not self._failed

    def _set_timer(self, deadline: int | None) -> None:
        """A timer that is set too early costs one turn without work, less than moving it every turn."""
        if deadline is None or (self._deadline is not None and self._deadline <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = deadline
        self._timer = self._loop.call_later(max(0, deadline - self.now.mono) / 1000, self._due)

    def _due(self) -> None:
        self._deadline = self._timer = None
        self.soon()
