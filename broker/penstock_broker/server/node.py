"""The composition root: builds the core and everything around it from the settings, runs it, takes it down.

    bind ports → lock and recover the data → event loop → (core ready) accept, tell → … → drain → 0

Nothing is accepted before the core is ready. Where the node cannot go on, it ends with a code of its own
and says nothing more: what was not confirmed is unknown, and the journal knows the rest.
"""

import asyncio
import gc
import json
import resource
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from enum import IntEnum
from importlib.metadata import version
from pathlib import Path
from random import Random
from socket import socket

import structlog

from penstock_broker.admin import http
from penstock_broker.admin.metrics import Exposition
from penstock_broker.clock import Clock, SystemClock, stopwatch
from penstock_broker.config import Config, supervisor
from penstock_broker.core import Core
from penstock_broker.facts import NodeFacts
from penstock_broker.meters import Meters
from penstock_broker.server import logs, memory, signals
from penstock_broker.server.listener import Listener, address_of, bind
from penstock_broker.server.loop import Turns
from penstock_broker.server.notify import Notifier
from penstock_broker.server.workers import Workers
from penstock_broker.settings import CoreSettings
from penstock_broker.storage.files import StorageError
from penstock_broker.storage.os_files import OsFiles

SWITCH_SECONDS = 0.0005
"""How long the event loop may keep the interpreter lock from the flusher, which needs it for an instant
between two system calls; at Python's default of 5 ms a sync of 0.1 ms took up to 10."""
SWEEP_SECONDS = 1.0
FEEL_SECONDS = 0.1
GC_THRESHOLDS = (50_000, 20, 100)
"""A message makes no cycles; to look for some after every 700 allocations is a waste."""
FAREWELL_SECONDS = 1.0
"""For the last replies of a clean stop to leave."""
RECOVERY_EXTENSION = "EXTEND_TIMEOUT_USEC=600000000"
DESCRIPTORS_BESIDE_CONNECTIONS = 4_096
"""Journal files and their maps, segments, the rest of the process."""
USUAL_ADDRESS = "127.0.0.1:7420"
"""Where the command line looks without `--url`."""

log = structlog.get_logger()


class Exit(IntEnum):
    """Exit codes of `penstock serve`."""

    STOPPED = 0
    CANNOT_START = 1
    STORAGE_FAILED = 4
    ASSERT_FAILED = 5


class CannotStart(Exception):
    """Why the node cannot serve at all, in one line that says what to do."""


def serve(config: Config) -> int:
    """Run a broker with these settings until it is told to stop; the exit code."""
    logs.configure(sys.stderr, config.log.format, config.log.level)
    sys.setswitchinterval(SWITCH_SECONDS)
    memory.keep_freed()
    _raise_descriptor_limit(config.server.connections_max + DESCRIPTORS_BESIDE_CONNECTIONS)
    notifier = Notifier(supervisor().socket)
    clock = SystemClock()
    data = Path(config.storage.data).absolute()
    files = OsFiles(data)
    try:
        tcp = _bind("--port", config.server.host, config.server.port)
        web = _bind("--http-port", config.server.http_host, config.server.http_port)
        notifier.send(RECOVERY_EXTENSION)
        began = stopwatch()
        core = _recovered(files, config, clock)
        core.recovery_seconds = stopwatch() - began
    except (CannotStart, StorageError, OSError) as error:
        _say_refused(error)
        return Exit.CANNOT_START
    except KeyboardInterrupt:
        return Exit.CANNOT_START
    except Exception as error:
        _log_failure(error)
        return _code_of(error)

    _log_recovery(core)

    async def run() -> int:
        return await Node(config, core, files, clock, notifier, tcp, web, str(data)).run()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(run())
    if code == Exit.STOPPED:
        files.close()
    return code


def _recovered(files: OsFiles, config: Config, clock: Clock) -> Core:
    """The core, brought back from its directory. What it is made of stays: the garbage collector need not
    look at it while it is made (half the time of a start with many queues), nor ever again."""
    gc.disable()
    try:
        core = Core(files, core_settings(config), Random(), clock.now())
    finally:
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        gc.enable()
    return core


def _log_recovery(core: Core) -> None:
    """Say what the start found; a tail that was cut is a warning, with its place."""
    report = core.report
    log.info(
        "recovered", entries=report.entries, seconds=round(core.recovery_seconds, 3), position=report.position
    )
    if report.torn is not None:
        log.warning("torn_tail_cut", what=report.torn)


def core_settings(config: Config) -> CoreSettings:
    """What the core is told of the configuration."""
    return CoreSettings(
        durability=config.storage.durability,
        journal_budget_bytes=config.storage.journal_budget_bytes,
        journal_file_bytes_min=config.storage.journal_file_bytes_min,
        journal_file_bytes_max=config.storage.journal_file_bytes_max,
        compaction_dirty_ratio=config.storage.compaction_dirty_ratio,
        session_grace_ms=config.server.session_grace_ms,
        group_session_ms=config.groups.session_timeout_ms,
        group_heartbeat_ms=config.groups.heartbeat_ms,
        group_rebalance_ms=config.groups.rebalance_timeout_ms,
        group_offsets_ms=config.groups.offsets_retention_ms,
        message_bytes_max=config.limits.message_bytes,
        publish_pool_bytes=config.limits.publish_pool_bytes,
        credit_bytes=config.limits.credit_bytes,
        requests_max=config.limits.requests,
        server_name=f"penstock {version('penstock')}",
    )


class Node:
    """A broker around a core that has been recovered. To be made and run on the event loop."""

    def __init__(
        self,
        config: Config,
        core: Core,
        files: OsFiles,
        clock: Clock,
        notifier: Notifier,
        tcp: socket,
        web: socket,
        data: str,
    ) -> None:
        self._config = config
        self._core = core
        self._clock = clock
        self._notifier = notifier
        self._watchdog = supervisor().watchdog
        self._tcp = tcp
        self._web = web
        self._data = data
        self._meters = Meters()
        self._workers = Workers(files.run)
        self._turns = Turns(
            core, clock, self._meters, self._workers.submit, after=self._look_at_core, fail=self._fail
        )
        self._listener = Listener(
            self._turns,
            self._meters,
            logs.PeerLog(clock),
            connections_max=config.server.connections_max,
            connections_per_address_max=config.server.connections_per_address_max,
        )
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._stopping = False
        self._ended: asyncio.Future[Exit] = self._loop.create_future()

    async def run(self) -> int:
        """Serve until told to stop or unable to go on; the exit code."""
        self._loop.set_exception_handler(logs.unexpected)
        signals.install(self._loop, self._stop, self._end_now)
        self._workers.start(self._loop, self._turns.done)
        exposition = Exposition(self._facts, self._meters, self._config.metrics.objects_max)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(http.serving(self._web, exposition, self._why_not_ready))
            except OSError as error:
                _say_refused(_not_bound("--http-port", address_of(self._web), error))
                return Exit.CANNOT_START
            self._sweep()
            self._feel(stopwatch())
            opening = asyncio.create_task(self._open())
            code = await self._ended
            opening.cancel()
            self._listener.close()
            if code is Exit.STOPPED:
                await self._listener.part(FAREWELL_SECONDS)
        if code is Exit.STOPPED:
            self._workers.stop()
            log.info("stopped")
        return code

    # ---- From start to stop

    async def _open(self) -> None:
        await self._ready.wait()
        try:
            await self._listener.open(self._tcp)
        except OSError as error:
            self._end(Exit.CANNOT_START)
            _say_refused(_not_bound("--port", address_of(self._tcp), error))
            return
        tcp, web = address_of(self._tcp), address_of(self._web)
        print(
            json.dumps(
                {"event": "ready", "tcp": tcp, "http": web, "data": self._data}, separators=(",", ":")
            ),
            flush=True,
        )
        if logs.is_console(sys.stderr, self._config.log.format):
            print(_banner(tcp, web, self._data), file=sys.stderr)
        durability = self._config.storage.durability
        log.info("ready", tcp=tcp, http=web, data=self._data, boot=self._facts().boot, durability=durability)
        self._notifier.send("READY=1")

    def _stop(self) -> None:
        """The first signal: no more connections, and the core brings what it has begun to its end."""
        log.info("stopping")
        self._notifier.send("STOPPING=1")
        self._stopping = True
        self._listener.close()
        self._loop.call_later(self._config.server.stop_timeout_ms / 1000, self._end_now)
        self._turns.call(self._core.stop)

    def _end_now(self) -> None:
        """A second signal, or a drain that takes too long."""
        log.error("stopped_before_drained")
        self._end(Exit.CANNOT_START)

    def _fail(self, error: Exception) -> None:
        self._end(_code_of(error))
        _log_failure(error)

    def _end(self, code: Exit) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    # ---- Looking at the core

    def _look_at_core(self) -> None:
        """After each turn."""
        if self._core.stopped:
            self._end(Exit.STOPPED)
        elif self._core.ready and not self._stopping:
            self._ready.set()

    def _sweep(self) -> None:
        """Once a second: peers that wait too long, the watchdog."""
        self._listener.look(self._turns.read_clock().mono)
        self._turns.soon()
        if self._watchdog:
            self._notifier.send("WATCHDOG=1")
        self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _feel(self, due: float) -> None:
        """Ten times a second: the lag of the loop."""
        self._meters.loop_lag_seconds.observe(max(0.0, stopwatch() - due))
        self._loop.call_later(FEEL_SECONDS, self._feel, stopwatch() + FEEL_SECONDS)

    def _facts(self) -> NodeFacts:
        try:
            return self._core.facts(self._clock.now())
        except Exception as error:
            self._fail(error)
            raise

    def _why_not_ready(self) -> str | None:
        if self._stopping:
            return "stopping"
        if not self._ready.is_set():
            return "recovering"
        return "disk_full" if self._core.disk_full else None


def _bind(flag: str, host: str, port: int) -> socket:
    try:
        return bind(host, port)
    except OSError as error:
        raise _not_bound(flag, f"{host}:{port}", error) from None


def _not_bound(flag: str, address: str, error: OSError) -> CannotStart:
    return CannotStart(f"cannot listen on {address}: {error.strerror}; choose another port with {flag}")


def _say_refused(error: Exception) -> None:
    print(f"penstock: {error}", file=sys.stderr)


def _code_of(error: Exception) -> Exit:
    return Exit.STORAGE_FAILED if isinstance(error, StorageError | OSError) else Exit.ASSERT_FAILED


def _log_failure(error: Exception) -> None:
    """Why the node cannot go on, as one event."""
    if _code_of(error) is Exit.STORAGE_FAILED:
        log.critical("storage_failed", error=str(error))
    else:
        log.critical("assert_failed", exc_info=error)


def _banner(tcp: str, web: str, data: str) -> str:
    where = "" if tcp == USUAL_ADDRESS else f" --url penstock://{tcp}"
    return (
        f"\n  listening  penstock://{tcp}  and  http://{web}/metrics"
        f"\n  data       {data}"
        f"\n  try        penstock queue create emails{where}\n"
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _raise_descriptor_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < wanted:
        log.warning("few_descriptors", possible=possible, wanted=wanted, hint="raise `ulimit -Hn`")
