"""What goes wrong in a run, and how often: chosen anew for every seed, so that runs differ in kind.

Each fault is switched on in about half of the runs, with a rate of its own; the sizes that make rare code
run often (tiny files, pages, runs and checkpoints) are chosen here too.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fakes.disk import Disk

from penstock_broker import burial, deliveries
from penstock_broker.core import Core
from penstock_broker.queues import states
from penstock_broker.settings import CoreSettings
from penstock_broker.storage import archive, archiver, evacuation, log, reads, saver
from penstock_broker.storage.files import Copy, Job, Load, Prepare, Write
from penstock_broker.storage.segment import index_bytes, segment_name

if TYPE_CHECKING:
    from tests.sim.world import World

KIB = 1024
DAY_MS = 86_400_000
JUMPS_MS = (1_000, 60_000, DAY_MS, 3_650 * DAY_MS)
NEVER = 0
ROOM_BYTES = 1 << 20
"""What a node needs to be emptied, whatever filled its disk."""

SIZES: tuple[tuple[Any, str, tuple[int, ...]], ...] = (
    (states, "PAGE", (4, 64, 4096)),
    (log, "TRIM_ROWS_MIN", (2, 256)),
    (saver, "MACHINES_PER_TURN", (1, 3, 64)),
    (saver, "BYTES_PER_TURN", (200, 1 << 20)),
    (saver, "ENTRIES_MAX", (50, 500_000)),
    (archive, "RUN_ROWS_MAX", (3, 50, 8_192)),
    (archive, "BLOCK_BYTES_TARGET", (500, 5_000, 256 * KIB)),
    (archive, "OWN_BYTES_MIN", (500, 5_000, 256 * KIB)),
    (archive, "SEGMENT_BYTES", (2_000, 20_000, 64 * KIB * KIB)),
    (archiver, "ARCHIVE_AGE_MS", (50, 500, 60_000)),
    (archiver, "EVACUATE_EVERY_MS", (50, 10_000)),
    (evacuation, "SEGMENT_BYTES_MIN", (1, 256 * KIB)),
    (reads, "INDEXES_KEPT", (1, 256)),
    (burial, "BYTES_PER_ENTRY", (100, 1 << 20)),
    (deliveries, "DELIVERY_BYTES_MAX", (1_000, 1 << 20)),
)
"""Constants of the broker that are bounds, not formats, and small values that make them count."""


@dataclass(frozen=True)
class Plan:
    """One run's sizes and rates. Rates: mean ms between two of a kind, 0 for never; `…_one_in`: how many
    chances there are for one fault."""

    settings: CoreSettings
    disk_bytes: int
    sizes: tuple[tuple[Any, str, int], ...]
    clients: int
    queues: int
    think_ms: float
    latency_ms: float
    notice_ms: float
    job_ms: float
    stall_one_in: int
    thorough_every: int
    body_bytes: tuple[int, ...]
    crash_ms: int
    kill_ms: int
    stop_ms: int
    cut_ms: int
    jump_ms: int
    squeeze_ms: int
    block_ms: int
    recovery_cut_one_in: int
    index_rot_one_in: int
    error_one_in: dict[type, int]

    @classmethod
    def chosen(cls, random: Random) -> Plan:
        """What the seed wants."""

        def maybe(*choices: int) -> int:
            return random.choice(choices) if random.random() < 0.5 else NEVER

        budget = random.choice((128, 256, 1024)) * KIB
        file_min = random.choice((16, 32, 64)) * KIB
        return cls(
            settings=CoreSettings(
                journal_budget_bytes=budget,
                journal_file_bytes_min=file_min,
                journal_file_bytes_max=file_min * random.choice((1, 4)),
                session_grace_ms=random.choice((50, 300, 2_000)),
                group_session_ms=random.choice((300, 3_000, 45_000)),
                group_heartbeat_ms=random.choice((50, 100)),
                group_rebalance_ms=random.choice((500, 300_000)),
                credit_bytes=random.choice((16, 256)) * KIB,
                publish_pool_bytes=random.choice((32, 1024)) * KIB,
            ),
            disk_bytes=random.choice((4, 32)) << 20,
            sizes=tuple((module, name, random.choice(values)) for module, name, values in SIZES),
            clients=random.randrange(2, 8),
            queues=random.randrange(1, 4),
            think_ms=random.choice((2, 10, 50)),
            latency_ms=random.choice((0.3, 2, 20)),
            notice_ms=random.choice((1, 100)),
            job_ms=random.choice((0.2, 1, 10)),
            stall_one_in=maybe(50, 500),
            thorough_every=random.choice((5, 20)),
            body_bytes=random.choice(((0, 30), (30, 300), (30, 300, 3_000), (300, 40_000))),
            crash_ms=maybe(300, 2_000),
            kill_ms=maybe(300, 2_000),
            stop_ms=maybe(500, 3_000),
            cut_ms=maybe(50, 500),
            jump_ms=maybe(500, 5_000),
            squeeze_ms=maybe(1_000, 4_000),
            block_ms=maybe(100, 1_000),
            recovery_cut_one_in=maybe(1, 3),
            index_rot_one_in=maybe(1, 3),
            error_one_in={
                Prepare: maybe(20, 200),
                Copy: maybe(20, 200),
                Load: maybe(20, 200),
                Write: maybe(200, 2_000),
            },
        )


class Faults:
    """Lets things go wrong until told to stop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._on = True
        plan = world.plan
        for rate, act in (
            (plan.crash_ms, self._crash),
            (plan.kill_ms, self._kill),
            (plan.stop_ms, self._stop),
            (plan.cut_ms, self._cut),
            (plan.jump_ms, self._jump),
            (plan.squeeze_ms, self._squeeze),
            (plan.block_ms, self._block),
        ):
            if rate:
                world.soon(rate, self._again, rate, act)

    def end(self) -> None:
        """Nothing goes wrong any more; whoever looks after a disk that is full adds something to it."""
        self._on = False
        disk = self._world.node.disk
        disk.taken = 0
        if disk.free < ROOM_BYTES:
            disk.capacity += ROOM_BYTES

    def _again(self, rate: int, act: Any) -> None:
        if self._on:
            act()
            self._world.soon(rate, self._again, rate, act)

    def _crash(self) -> None:
        self._world.node.crash("power cut", power=True)

    def _kill(self) -> None:
        self._world.node.crash("kill", power=False)

    def _stop(self) -> None:
        self._world.node.stop()

    def _cut(self) -> None:
        link = self._world.random.choice(self._world.clients).link
        if link is not None:
            link.cut()

    def _jump(self) -> None:
        by = self._world.random.choice(JUMPS_MS) * self._world.random.choice((-1, 1))
        self._world.clock.jump_wall(by)
        self._world.recorder.note("clock", jump=by / 1000)

    def _squeeze(self) -> None:
        """Somebody else fills the disk, or frees it."""
        disk = self._world.node.disk
        leave = self._world.random.choice((0, 10_000, 200_000))
        disk.taken = 0 if disk.taken else max(0, disk.free - leave)

    def _block(self) -> None:
        """A client reads slowly for a while."""
        link = self._world.random.choice(self._world.clients).link
        if link is not None and self._world.node.up:
            self._set_blocked(link, True)
            self._world.soon(50, self._unblock, link, self._world.time())

    def _unblock(self, link: Any, since: float) -> None:
        link.client.recorder.note("blocked", since=since)
        self._set_blocked(link, False)

    def _set_blocked(self, link: Any, blocked: bool) -> None:
        node = self._world.node
        if link.up and link.life == node.life and node.up:
            node.core.blocked(link.connection, blocked, self._world.clock.now())
            node.soon()


def strike(world: World, job: Job) -> None:
    """Perhaps the next system call of a job fails."""
    chances = world.plan.error_one_in.get(type(job), NEVER)
    if chances and not world.calm and not world.random.randrange(chances):
        code = errno.EIO if isinstance(job, Load) else world.random.choice((errno.EIO, errno.ENOSPC))
        world.node.disk.fail(1, code, short=world.random.random() < 0.5)


def rot(world: World, core: Core, disk: Disk) -> None:
    """Perhaps a byte of an index on a disk is another when the machine is on again: it is made again, and
    nothing is missing."""
    chances = world.plan.index_rot_one_in
    if not chances or world.calm or world.random.randrange(chances):
        return
    stretches = [stretch for owner in core.registry.owners() for stretch in owner.log.stretches()]
    for stretch in stretches:
        file = disk.names.get(segment_name(stretch.segment))
        size = index_bytes(stretch.blocks)
        if size and file is not None and len(file.shown) >= stretch.at + stretch.length:
            at = stretch.at + stretch.length - 1 - world.random.randrange(size)
            disk.flip(segment_name(stretch.segment), at, 1 + world.random.randrange(255))


def job_delay(world: World) -> int:
    """ms that a system call of a job takes, or the way of its result."""
    chances = world.plan.stall_one_in
    if chances and not world.calm and not world.random.randrange(chances):
        return world.random.randrange(1_000)
    return round(world.random.expovariate(1 / world.plan.job_ms))


def calls_until_cut(world: World) -> int | None:
    """System calls that a start gets before the power goes; None: all it needs."""
    chances = world.plan.recovery_cut_one_in
    if not chances or world.calm or world.random.randrange(chances + 1):
        return None
    return world.random.randrange(12)
