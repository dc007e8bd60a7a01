"""The client processes of a run, as seen from the process that directs them."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from penstock_loadtest.broker import Usage, usage_of

STALL_SECONDS_MAX = 60.0
"""Without any progress of anybody: then a run is given up."""
CLOSE_SECONDS_MAX = 5.0
LINE_BYTES_MAX = 1 << 28
"""An account of what a consumer saw is one line."""
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""What glibc may keep of what was freed. By default every delivery's megabyte is given back to the kernel and
faulted in again page by page, which cost a consumer six times as much as looking at the messages does."""


class RunFailed(Exception):
    """The run cannot go on: one line why."""


class Watch:
    """Wakes who waits for the crew whenever one of it gets on, and tells of the first that failed."""

    def __init__(self) -> None:
        self._moved = asyncio.Event()
        self._failure = ""

    def moved(self) -> None:
        """Somebody got on."""
        self._moved.set()

    def failed(self, why: str) -> None:
        """Somebody cannot go on."""
        self._failure = self._failure or why
        self._moved.set()

    async def until(self, done: Callable[[], bool], seconds: float = STALL_SECONDS_MAX) -> bool:
        """Wait until `done`; False if nobody moved for that long. Raises `RunFailed`."""
        while not done():
            if self._failure:
                raise RunFailed(self._failure)
            self._moved.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._moved.wait()
            except TimeoutError:
                return False
        return True


class Agent:
    """One client process. `messages`: how far it is."""

    def __init__(self, process: asyncio.subprocess.Process, title: str, watch: Watch) -> None:
        self._process = process
        self._watch = watch
        self._facts: dict[str, dict[str, Any]] = {}
        self._ending = False
        self._listening = asyncio.ensure_future(self._listen())
        self.title = title
        self.messages = 0

    @classmethod
    async def start(cls, job: dict[str, Any], watch: Watch) -> "Agent":
        """Start a process on a job."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock_loadtest.agent"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            env={**KEEP_MEMORY, **os.environ},
            start_new_session=True,  # Ctrl-C is for who directs them
        )
        agent = cls(process, f"{job['role']}r {job['number']}", watch)
        agent._write(job)
        return agent

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def usage(self) -> Usage:
        """What the process has used so far."""
        return usage_of([self.pid])

    def tell(self, do: str, **details: Any) -> None:
        """Give a command."""
        self._ending = do == "end"
        self._write({"do": do, **details})

    async def hear(self, what: str) -> dict[str, Any]:
        """Wait for a fact, and forget it. Raises `RunFailed` if nothing moves any more."""
        if not await self._watch.until(lambda: what in self._facts):
            raise RunFailed(f"{self.title} came to nothing for {STALL_SECONDS_MAX:g} s; it had to be {what}")
        return self._facts.pop(what)

    async def close(self) -> None:
        """End the process, however far it is."""
        self._ending = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._listening

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._heard(json.loads(line))
        if not self._ending:
            self._watch.failed(f"{self.title} ended before it was told to")

    def _heard(self, fact: dict[str, Any]) -> None:
        event = fact["event"]
        if event == "failed":
            self._watch.failed(f"{self.title} failed: {fact['why']}")
        elif event == "progress":
            moved, self.messages = fact["messages"] != self.messages, fact["messages"]
            if moved:
                self._watch.moved()
        else:
            self._facts[event] = fact
            self._watch.moved()


async def all_heard(agents: Iterable[Agent], what: str) -> list[dict[str, Any]]:
    """A fact from each."""
    return list(await asyncio.gather(*(agent.hear(what) for agent in agents)))


async def close_all(agents: Iterable[Agent]) -> None:
    """End them all."""
    await asyncio.gather(*(agent.close() for agent in agents))
