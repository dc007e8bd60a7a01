"""One scenario on one system: starts the crew, leads it through warm-up and measurement, settles the account.

    ready → consumers begin → warm-up, until all of it was read → measurement, until all of it was read
    ready → warm-up → measurement → consumers begin → until everything was read      (drain="after")
    → everybody tells what was sent and seen → account

With `idle` connections the measurement is done twice, without and then with them.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from penstock_loadtest.adapter import Unsupported
from penstock_loadtest.agent import adapter_of
from penstock_loadtest.bare import bare, both
from penstock_loadtest.broker import Usage
from penstock_loadtest.crew import Agent, Watch, all_heard, close_all
from penstock_loadtest.latency import merged, summary
from penstock_loadtest.profile import Profiles
from penstock_loadtest.scenarios import Flow, Scenario
from penstock_loadtest.systems import Server
from penstock_loadtest.verify import account

QUIET_SECONDS = 15.0
"""Without a message arriving: what is still missing then is lost."""
SAMPLE_SECONDS = 0.5
LEAVE_SECONDS_MAX = 30.0
IDLE_PER_PROCESS = 5_000

Tell = Callable[[dict[str, Any]], None]


class Target(NamedTuple):
    """A system that runs. `server` None: somebody else started it, and its processes are not ours to see."""

    name: str
    adapter: str
    url: str
    durability: str
    server: Server | None
    versions: dict[str, str]


class FlowCrew:
    """Producers and consumers of one flow."""

    def __init__(self, flow: Flow, job: dict[str, Any], watch: Watch) -> None:
        self.flow = flow
        self._job = {**job, "flow": flow._asdict(), "name": f"{job['name']}-{flow.name}"}
        self._watch = watch
        self.adapter = adapter_of(job["adapter"], job["url"], flow, self._job["name"])
        self.producers: list[Agent] = []
        self.readers: list[list[Agent]] = []
        self._confirmed = 0
        self._begun = False
        self._is_open = False

    def __iter__(self) -> Iterator[Agent]:
        yield from self.producers
        for consumers in self.readers:
            yield from consumers

    async def start(self) -> None:
        """Create what the flow needs, and start its processes. Raises `Unsupported`."""
        flow = self.flow
        if flow.feature not in self.adapter.features:
            raise Unsupported(f"its adapter knows nothing of {flow.feature!r}")
        await self.adapter.open()
        self._is_open = True
        await self.adapter.create()
        for number in range(flow.producers):
            self.producers.append(await self._agent("produce", number))
        for reader in range(flow.readers):
            self.readers.append([])
            for _ in range(flow.consumers):
                self.readers[-1].append(await self._agent("consume", reader))
        await all_heard(self, "ready")
        if flow.drain == "with":
            self._begin()

    async def _agent(self, role: str, number: int) -> Agent:
        return await Agent.start({**self._job, "role": role, "number": number}, self._watch)

    async def leave(self) -> None:
        """Remove what `start` created."""
        if self._is_open:
            with suppress(Exception):  # whatever broke the run may break this, and is told already
                async with asyncio.timeout(LEAVE_SECONDS_MAX):
                    await self.adapter.delete()
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS_MAX):
                    await self.adapter.close()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for consumer in self.consumers():
                consumer.tell("begin")

    def consumers(self) -> list[Agent]:
        """Of all readers."""
        return [consumer for consumers in self.readers for consumer in consumers]

    def progress(self) -> list[int]:
        """Messages confirmed, then messages that reader 0, 1, … has."""
        return [_sum(self.producers), *map(_sum, self.readers)]

    async def phase(self, messages: int, seconds: float | None, *, last: bool) -> list[dict[str, Any]]:
        """Publish that many messages, and wait until every reader has all that was confirmed so far; readers
        that drain afterwards begin in the last phase."""
        for consumer in self.consumers():
            consumer.tell("measure")
        await all_heard(self.consumers(), "measuring")
        share, rate = messages // len(self.producers), self.flow.rate
        for producer in self.producers:
            producer.tell(
                "publish", messages=share, seconds=seconds, rate=rate and rate / len(self.producers)
            )
        published = await all_heard(self.producers, "published")
        self._confirmed += sum(each["messages"] for each in published)
        if self.flow.drain == "after" and not last:
            return published
        self._begin()
        await self._watch.until(lambda: min(self.progress()[1:]) >= self._confirmed, QUIET_SECONDS)
        return published

    async def end(self, published: list[dict[str, Any]]) -> dict[str, Any]:
        """Stop; what the last phase was like, and the account of all."""
        for agent in self:
            agent.tell("end")
        sent = await all_heard(self.producers, "sent")
        readers = [await all_heard(consumers, "received") for consumers in self.readers]
        began = min(each["began"] for each in published)
        lanes = {lane: count for each in sent for lane, count in each["lanes"]}
        failed = [run for each in sent for run in each["failed"]]
        received = [_received(reader, began, drained=self.flow.drain == "after") for reader in readers]
        for result, reader in zip(received, readers, strict=True):
            corrupt = sum(each["corrupt"] for each in reader)
            seen = [each["runs"] for each in reader]
            result["account"] = account(lanes, failed, seen, corrupt).as_dict()
        return {
            "flow": self.flow._asdict(),
            "published": _measured(published, began, max(each["ended"] for each in published)),
            "received": received,
            "failure": next((each["failure"] for each in sent if each["failure"]), None),
            "durability": next((each["durability"] for each in sent if each["durability"]), ""),
        }


def _sum(agents: list[Agent]) -> int:
    return sum(agent.messages for agent in agents)


def _received(reader: list[dict[str, Any]], began: float, *, drained: bool) -> dict[str, Any]:
    """What the consumers of one reader took; from the first publish on, or, of a drain, the first arrival."""
    arrived = [each["began"] for each in reader if each["messages"]]
    return _measured(
        reader, min(arrived, default=began) if drained else began, max(each["ended"] for each in reader)
    )


def _measured(parts: list[dict[str, Any]], began: float, ended: float) -> dict[str, Any]:
    messages, seconds = sum(each["messages"] for each in parts), max(ended - began, 1e-9)
    histogram = merged([each["latencies"] for each in parts])
    return {
        "messages": messages,
        "seconds": seconds,
        "rate": messages / seconds,
        "latency": summary(histogram),
        "histogram": histogram.encode().decode(),
    }


class Run:
    """A scenario on a target. `seconds`: the most that producers go on in each phase, None: no limit.
    `tell` is called with every sample. `profile`: where flame graphs of the measurement go."""

    def __init__(
        self,
        target: Target,
        scenario: Scenario,
        *,
        seconds: float | None,
        tell: Tell,
        profile: Path | None = None,
    ) -> None:
        self._target = target
        self._scenario = scenario
        self._seconds = seconds
        self._tell = tell
        self._profile = profile
        self._watch = Watch()
        number = int.from_bytes(os.urandom(4), "little")
        job = {"adapter": target.adapter, "url": target.url, "run": number, "name": f"loadtest-{number:08x}"}
        self._job = job
        self.crews = [FlowCrew(flow, job, self._watch) for flow in scenario.flows]
        self._idle: list[Agent] = []
        self._samples: list[dict[str, Any]] = []

    async def result(self) -> dict[str, Any]:
        """Run it. Raises `RunFailed`, `Unsupported`."""
        began = time.monotonic()
        rate = self._scenario.flows[0].rate
        before = await bare(rate) if self._scenario.bare else None
        try:
            for crew in self.crews:
                await crew.start()
            flows, measured = await self._measured()
        finally:
            await self._end()
        target, scenario = self._target, self._scenario
        return {
            "system": target.name,
            "scenario": scenario.name,
            "about": scenario.about,
            "durability": next(
                (flow["durability"] for flow in flows if flow["durability"]), target.durability
            ),
            "versions": target.versions,
            "seconds": time.monotonic() - began,
            "flows": flows,
            **measured,
            "bare": both(before, await bare(rate)) if before else None,
            "samples": self._samples,
        }

    async def _measured(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        sampling = asyncio.ensure_future(self._sample())
        try:
            await self._warm_up()
            idle = await self._beside_idle() if self._scenario.idle else None
            before, crew_before = self._usage(), self._crew_usage()
            with self._profiled():
                published = await self._measurement()
            after, crew_after = self._usage(), self._crew_usage()
        finally:
            sampling.cancel()
        flows = [await crew.end(each) for crew, each in zip(self.crews, published, strict=True)]
        messages = sum(flow["published"]["messages"] for flow in flows)
        if idle:
            idle["confirm_beside"] = flows[0]["published"]["latency"]
        return flows, {
            "broker": None if before is None or after is None else _used(before, after, messages),
            "clients": _used(crew_before, crew_after, messages),
            "idle": idle,
        }

    async def _warm_up(self) -> None:
        crews = [crew for crew in self.crews if crew.flow.warm_up]
        await asyncio.gather(*(crew.phase(crew.flow.warm_up, self._seconds, last=False) for crew in crews))

    async def _measurement(self) -> list[list[dict[str, Any]]]:
        return await asyncio.gather(
            *(crew.phase(crew.flow.messages, self._seconds, last=True) for crew in self.crews)
        )

    async def _beside_idle(self) -> dict[str, Any]:
        """Measure without idle connections, then open them; what they cost."""
        alone = await self._measurement()
        before, left, began = self._usage(), self._scenario.idle, time.monotonic()
        while left > 0:
            job = {
                **self._job,
                "flow": self.crews[0].flow._asdict(),
                "role": "idle",
                "number": len(self._idle),
            }
            self._idle.append(await Agent.start(job, self._watch))
            await self._idle[-1].hear("ready")
            self._idle[-1].tell("connect", connections=min(left, IDLE_PER_PROCESS))
            left -= IDLE_PER_PROCESS
        await all_heard(self._idle, "connected")
        after = self._usage()
        return {
            "connections": self._scenario.idle,
            "seconds": time.monotonic() - began,
            "rss_anon_each": (after.rss_anon - before.rss_anon) / self._scenario.idle
            if before and after
            else None,
            "confirm_alone": summary(merged([each["latencies"] for each in alone[0]])),
        }

    async def _end(self) -> None:
        """Leave nothing behind, neither processes nor queues."""
        await close_all([*self._idle, *(agent for crew in self.crews for agent in crew)])
        for crew in self.crews:
            await crew.leave()

    def _profiled(self) -> AbstractContextManager[None]:
        if self._profile is None:
            return nullcontext()
        pids = {
            f"{crew.flow.name}-{agent.title.replace(' ', '-')}": agent.pid
            for crew in self.crews
            for agent in crew
        }
        server = self._target.server
        brokers = {f"broker-{pid}": pid for pid in server.pids()} if server else {}
        return Profiles(self._profile, {**brokers, **pids})

    # Watching

    def _usage(self) -> Usage | None:
        return self._target.server.usage() if self._target.server else None

    def _crew_usage(self) -> Usage:
        usages = [agent.usage() for crew in self.crews for agent in crew]
        return Usage(*map(sum, zip(*usages, strict=True)))

    async def _sample(self) -> None:
        began = time.monotonic()
        while True:
            try:
                usage = self._usage()
            except OSError:
                self._watch.failed(f"{self._target.name} is gone")
                return
            sample = {
                "at": time.monotonic() - began,
                "flows": [crew.progress() for crew in self.crews],
                "rss_anon": usage and usage.rss_anon,
                "descriptors": usage and usage.descriptors,
            }
            self._samples.append(sample)
            self._tell(sample)
            await asyncio.sleep(SAMPLE_SECONDS)


def _used(before: Usage, after: Usage, messages: int) -> dict[str, float]:
    return {
        "user_us": (after.user - before.user) / messages * 1e6,
        "system_us": (after.system - before.system) / messages * 1e6,
        "rss_anon": after.rss_anon,
        "descriptors": after.descriptors,
    }
