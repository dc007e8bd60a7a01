"""The broker under simulation: one `Core` after another on one disk, with its jobs.

Jobs run call by call, interleaved and each as long as chance wants, so a crash falls between any two
system calls. Between calls into the core and what follows from them lies a short while, as in an event
loop, so that requests gather.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fakes.disk import Disk
from tests.fakes.memory_files import MemoryFiles, Steps
from tests.sim import faults, invariants
from tests.sim.carried import carried

from penstock_broker.core import Core
from penstock_broker.outputs import Close, Send
from penstock_broker.queues.states import State
from penstock_broker.session import Connection
from penstock_broker.storage.entries import Kind
from penstock_broker.storage.files import (
    Copy,
    Drop,
    Job,
    Load,
    Prepare,
    StorageError,
    StorageFailed,
    Sync,
    Write,
)
from penstock_broker.storage.segment import PREFIX
from penstock_protocol import verbs

if TYPE_CHECKING:
    from tests.sim.clients import Ask
    from tests.sim.world import World

RESTART_MS = 50
GROWING: dict[str, Callable[[Core], int]] = {
    "evacuation": lambda core: core.engine.archiver.bytes_moved[Kind.MOVED],
    "index rebuilt": lambda core: core.engine.reads.indexes_rebuilt,
    "retention trimmed": lambda core: sum(
        partition.records_dropped for topic in core.registry.topics.values() for partition in topic.partitions
    ),
    "settled message kept": lambda core: sum(bool(queue.kept) for queue in core.registry.lanes()),
    "dead letter waits": lambda core: sum(queue.count(State.WAITING) for queue in core.registry.lanes()),
    "group parked": lambda core: sum(len(q.indexes.groups.parked) for q in core.registry.queues.values()),
    "tenant throttled": lambda core: sum(q.indexes.groups.throttled for q in core.registry.queues.values()),
    "message expired": lambda core: sum(q.counters["expired"] for q in core.registry.queues.values()),
    "record expired by retention": lambda core: sum(
        lane.counters["expired"] for lane in core.registry.lanes() if lane.borrowed
    ),
    "message dropped": lambda core: sum(q.counters["dropped"] for q in core.registry.queues.values()),
    "schedule ran": lambda core: sum(schedule.runs for schedule in core.registry.schedules.values()),
}
"""Rare things that a core tells of by a number that grows."""
MORE_BYTES = 1 << 20
"""What an operator adds to a disk on which the broker cannot start."""
STOP_PATIENCE_MS = 5_000


class PowerCut(BaseException):
    """The power goes while the broker starts."""


class Interruptible(MemoryFiles):
    """Files whose synchronous work may be cut off: `calls_left` system calls from now, or never."""

    calls_left: int | None = None

    def run(self, job: Job) -> object:
        """Do a job, or as much of it as there are calls left."""
        steps = self.steps(job)
        while True:
            if self.calls_left is not None:
                if not self.calls_left:
                    raise PowerCut
                self.calls_left -= 1
            try:
                next(steps)
            except StopIteration as end:
                return end.value


class Node:
    """The broker, life by life."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.disk = Disk(capacity=world.plan.disk_bytes)
        self.files = Interruptible(self.disk, random=world.random)
        self.life = 0
        self.up = False
        self._turning = False
        self._waking: int | None = None
        self._seen = -1
        self._clean = True
        """The last life ended in order."""
        self._death = ""
        """How the last life ended, or the last attempt at one."""
        self._turns = 0
        self._grown: Counter[str] = Counter()
        """What GROWING gave in this life."""
        self._books: dict[bytes, int] = {}
        """By queue: what was settled before this life."""
        self._jobs: list[Job] = []
        """Under way."""
        self._handouts: list[tuple[int, int, int]] = []
        """Last token that was given out in a turn, and the broker's mono and wall time then (ms)."""

    # lives

    def start(self) -> None:
        """Begin a life, after as many cut-off attempts as the plan wants."""
        world = self._world
        while True:
            self.files.calls_left = faults.calls_until_cut(world)
            try:
                now = world.clock.now()
                core = Core(self.files, world.plan.settings, Random(world.random.getrandbits(64)), now)
            except PowerCut:
                self._death = "crash during recovery"
                world.met(self._death)
                self._fall()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                world.met("start without room")
                self._fall()
                self.disk.taken = 0
                self.disk.capacity += MORE_BYTES
                world.after(RESTART_MS, self.start)
                return
            else:
                break
        self.files.calls_left = None
        self.core = core
        self.up = True
        world.recorder.note("started")
        self._turning, self._waking = False, None
        self._grown.clear()
        self._books.clear()
        self._jobs.clear()
        self._look_at(core)
        self.places_changed()
        world.places.check_after_start()
        self.soon()

    def _look_at(self, core: Core) -> None:
        report, met = core.report, self._world.met
        names = self.files.names()
        both = all(name in names for name in ("checkpoint-0", "checkpoint-1"))
        met("torn tail cut", when=report.torn is not None)
        met("unproven block copied", when=bool(report.unproven))
        met("several unproven blocks copied", when=len(report.unproven) > 1)
        met("checkpoint fallback", when=len(report.slots) == 1 and both)
        met("start from a checkpoint", when=bool(report.slots))
        met("clean start", when=self._clean and bool(report.entries))
        for what in carried(core):
            met(f"{what} over {self._death}")
        self._world.say("start", report.position, report.sequence, report.boot, report.torn, report.entries)

    def crash(self, why: str, *, power: bool) -> None:
        """The broker dies: with the machine, or alone."""
        world = self._world
        if not self.up:
            return
        world.recorder.note("crash")
        world.say("crash", why, power)
        world.met(why)
        self._death = why
        self._end()
        if power:
            self._fall()
            faults.rot(world, self.core, self.disk)
        else:
            self.files = self._next_files(self.files.kill().disk)
        self._clean = False
        world.soon(RESTART_MS, self.start)

    def _end(self) -> None:
        self.up = False
        self.life += 1
        for client in self._world.clients:
            if client.link is not None:
                client.link.cut()

    def _fall(self) -> None:
        self.files.close()
        self.files = self._next_files(self.files.disk.crashed(self._world.random))

    def _next_files(self, disk: Disk) -> Interruptible:
        self.disk = disk
        return Interruptible(disk, random=self._world.random)

    def stop(self) -> None:
        """A clean stop; one that takes too long is a kill."""
        if self.up and not self.core.stopping:
            self._world.say("stop")
            self.core.stop(self._world.clock.now())
            self.soon()
            self._world.after(STOP_PATIENCE_MS, self._impatient, self.life)

    def _impatient(self, life: int) -> None:
        if life == self.life:
            self.crash("clean stop took too long", power=False)

    def _stopped(self) -> None:
        self._world.recorder.note("crash")
        self._death = "clean stop"
        self._world.met(self._death)
        self._end()
        self._clean = True
        power = self._world.random.random() < 0.5
        if power:
            self._fall()
        else:
            self.files = self._next_files(self.files.kill().disk)
        self._world.soon(RESTART_MS, self.start)

    # turns

    def handle(self, connection: Connection, correlation: int, ask: Ask) -> None:
        """A request arrives."""
        if ask.place is not None and not ask.place.alive:
            return
        ask.begin()
        verb = verbs.BY_REQUEST[type(ask.request)]
        self._world.say("handle", ask.client, correlation, verb.name)
        self.core.handle(connection, verb, correlation, ask.request, self._world.clock.now())
        self.places_changed()
        self.soon()

    def disconnected(self, life: int, connection: Connection) -> None:
        """The node notices that a link is gone."""
        if life == self.life and self.up:
            self.core.disconnected(connection, self._world.clock.now())
            self.soon()

    def soon(self) -> None:
        """A turn follows."""
        if not self._turning:
            self._turning = True
            self._world.after(self._world.random.randrange(3), self._turn, self.life)

    def _turn(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        self._turning = False
        world, core = self._world, self.core
        now = world.clock.now()
        tokens: Any = core.registry.tokens
        before = tokens._next
        core.tick(now)
        for output in core.drain(now):
            if isinstance(output, Send):
                self._send(output)
            elif isinstance(output, Close):
                output.connection.peer.close()
            else:
                self._begin(output)
        if tokens._next > before:
            self._handouts.append((tokens._next, now.mono, self.wall))
        self.places_changed()
        self._turns += 1
        for what, number in GROWING.items():
            before, self._grown[what] = self._grown[what], number(core)
            world.met(what, when=self._grown[what] > before)
        busy = {name for job in self._jobs for name in (job.name, getattr(job, "recycle", None)) if name}
        thorough = not self._turns % world.plan.thorough_every
        invariants.check(core, self.disk.names, busy, self._books, thorough=thorough)
        if core.stopped:
            self._stopped()
        else:
            self._wake_at(core.deadline)

    def _wake_at(self, deadline: int | None) -> None:
        now = self._world.clock.now().mono
        if deadline is not None and (self._waking is None or deadline < self._waking or self._waking <= now):
            self._waking = deadline
            self._world.after(max(0, deadline - now), self._wake, self.life)

    def _wake(self, life: int) -> None:
        if life == self.life and self.up:
            self._waking = None
            self.soon()

    def _send(self, send: Send) -> None:
        link: Any = send.connection.peer
        self._world.say("send", link.client.name, send.correlation, type(send.message).__name__)
        if link.up:
            link.deliver(send)

    @property
    def wall(self) -> int:
        """Wall ms as the broker sees it."""
        core: Any = self.core
        return core._now.wall  # type: ignore[no-any-return]

    def handed_out_at(self, token: int) -> tuple[int, int]:
        """The broker's mono and wall time (ms) at which that token was given out. When a client has it, the
        sends of that turn may still be on their way, but the turn is over."""
        return self._handouts[bisect_left(self._handouts, (token, 0, 0))][1:]

    def places_changed(self) -> None:
        """Look what exists, if that may have changed."""
        if self._seen != (self.life, self.core.registry.catalogue.changed_at):
            self._seen = self.life, self.core.registry.catalogue.changed_at
            self._world.places.look(self.core)

    # jobs

    def _begin(self, job: Job) -> None:
        self._world.say("job", type(job).__name__, job.name)
        met, of_segment = self._world.met, job.name.startswith(PREFIX)
        met("file recycled", when=isinstance(job, Prepare) and job.recycle is not None)
        met("archive run", when=isinstance(job, Copy) and of_segment)
        met("segment dropped", when=isinstance(job, Drop) and of_segment)
        met("cold read", when=isinstance(job, Load))
        met("late sync", when=isinstance(job, Sync))
        self._jobs.append(job)
        self._later(self._step, job, self.files.steps(job))

    def _step(self, life: int, job: Job, steps: Steps) -> None:
        if life != self.life or not self.up:
            return
        faults.strike(self._world, job)
        try:
            next(steps)
        except StopIteration as end:
            self._later(self._done, job, end.value)
        except (OSError, StorageError) as error:
            self._world.met(f"{type(job).__name__} failed")
            self._later(self._done, job, error)
        else:
            self._later(self._step, job, steps)
        self.disk.heal()

    def _done(self, life: int, job: Job, result: object) -> None:
        if life != self.life or not self.up:
            return
        self._jobs = [other for other in self._jobs if other is not job]
        self._world.say("done", type(job).__name__, job.name, type(result).__name__)
        try:
            self.core.done(job, result, self._world.clock.now())
        except StorageFailed:
            assert isinstance(job, Write | Sync | Prepare), job
            self.crash("storage failed", power=self._world.random.random() < 0.5)
            return
        assert not (isinstance(job, Write | Sync) and isinstance(result, Exception)), (
            "a failed write was survived"
        )
        self.soon()

    def _later(self, act: Any, *args: object) -> None:
        self._world.after(faults.job_delay(self._world), act, self.life, *args)
