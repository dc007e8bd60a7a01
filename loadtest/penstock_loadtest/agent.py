"""A client process of the load test: `python -m penstock_loadtest.agent`.

The first line of stdin is its job, each further one a command; what it has to say it says on stdout, one JSON
object per line. It ends when stdin does. So it is a program that can be run, watched and profiled by itself.

    produce   publish {messages, seconds, rate} → published     end → sent
    consume   begin; measure → measuring                        end → received
    idle      connect {connections} → connected                 end → closed
    all       → ready, progress (four times a second), failed
"""

import asyncio
import contextlib
import gc
import importlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from penstock_loadtest.adapter import Adapter
from penstock_loadtest.consumer import Consumer
from penstock_loadtest.idle import Idle
from penstock_loadtest.producer import Producer
from penstock_loadtest.scenarios import Flow

GC_THRESHOLDS = (50_000, 20, 100)
"""As the broker has them: callers that wait by the thousand are no garbage to be looked for."""
PROGRESS_SECONDS = 0.25
JOB_BYTES_MAX = 1 << 20


def say(what: str, **facts: Any) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps({"event": what, **facts}) + "\n")
    sys.stdout.flush()


def adapter_of(path: str, *arguments: Any) -> Adapter:
    """An adapter by its place, `package.module:Class`."""
    module, _, name = path.partition(":")
    made: Adapter = getattr(importlib.import_module(module), name)(*arguments)
    return made


async def produce(job: dict[str, Any], adapter: Adapter, commands: "Commands") -> None:
    """Publish as told."""
    producer = Producer(adapter, adapter.flow, job["run"], job["number"])
    async with _progress(producer.progress):
        async for command in commands:
            if command["do"] == "end":
                say("sent", **producer.sent())
                return
            took = await producer.publish(command["messages"], command["seconds"], command["rate"])
            say("published", **took)


async def consume(job: dict[str, Any], adapter: Adapter, commands: "Commands") -> None:
    """Consume from `begin` to `end`."""
    consumer = Consumer(adapter, adapter.flow, job["run"], job["number"])
    async with _progress(consumer.progress):
        async for command in commands:
            if command["do"] == "end":
                say("received", **await consumer.end())
                return
            if command["do"] == "begin":
                consumer.begin().add_done_callback(_failed)
            else:
                consumer.measure()
                say("measuring")


async def idle(job: dict[str, Any], adapter: Adapter, commands: "Commands") -> None:
    """Hold connections open."""
    connections = Idle(adapter.url)
    async for command in commands:
        if command["do"] == "end":
            await connections.close()
            say("closed")
            return
        began = time.monotonic()
        await connections.open(command["connections"])
        say("connected", seconds=time.monotonic() - began)


Role = Callable[[dict[str, Any], Adapter, "Commands"], Awaitable[None]]
ROLES: dict[str, Role] = {"produce": produce, "consume": consume, "idle": idle}


@contextlib.asynccontextmanager
async def _progress(what: Callable[[], dict[str, Any]]) -> AsyncIterator[None]:
    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            say("progress", at=time.monotonic(), **what())

    teller = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        teller.cancel()


def _failed(task: asyncio.Task[None]) -> None:
    """A consumer that ended by an error is the end of this process; its line says why."""
    if not task.cancelled() and task.exception() is not None:
        say("failed", why=_told(task.exception()))


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


class Commands:
    """The lines of stdin, for a role to take in its time. When stdin ends, whoever takes them is cancelled:
    the process that gave them is gone."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reader = asyncio.StreamReader(limit=JOB_BYTES_MAX)

    async def listen(self, taker: asyncio.Task[Any]) -> None:
        """Read until the end."""
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), sys.stdin)
        while line := await self._reader.readline():
            self._lines.put_nowait(json.loads(line))
        taker.cancel()

    def __aiter__(self) -> "Commands":
        return self

    async def __anext__(self) -> dict[str, Any]:
        return await self._lines.get()


async def run() -> int:
    """One job; its exit code."""
    commands = Commands()
    taker = asyncio.current_task()
    assert taker is not None
    listening = asyncio.ensure_future(commands.listen(taker))
    try:
        await _work(await anext(commands), commands)
    except asyncio.CancelledError:
        return 1
    except Exception as error:
        say("failed", why=_told(error))
        return 1
    finally:
        listening.cancel()
    return 0


async def _work(job: dict[str, Any], commands: "Commands") -> None:
    adapter = adapter_of(job["adapter"], job["url"], Flow(**job["flow"]), job["name"])
    await adapter.open()
    try:
        say("ready")
        await ROLES[job["role"]](job, adapter, commands)
    finally:
        await adapter.close()


def runner() -> Callable[[Any], Any]:
    """`asyncio.run`, or uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.exit(runner()(run()))
