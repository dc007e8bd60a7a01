"""One node, its disk, its clients and their time, all turned by one seed.

    events (a heap in virtual time) → clients → links → Core → outputs → links → clients
                                            jobs ↔ MemoryFiles on a Disk

Nothing here reads a clock or draws chance but from the seed, so a seed names a run. What clients ask and
are told goes into a history, everything else that happens into the trace; `sometimes` counts the rare
things that a run met.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Any

from tests.fakes.clock import ManualClock
from tests.sim import features, streams
from tests.sim.clients import Client
from tests.sim.faults import Plan
from tests.sim.history import Record, Recorder
from tests.sim.node import Node
from tests.sim.places import Places

EVENTS_PER_OP_MAX = 2_000
"""A run that needs more is stuck in a circle."""


class World:
    """Everything of one run."""

    def __init__(self, seed: int, ops: int) -> None:
        self.random = Random(seed)
        self.plan = Plan.chosen(self.random)
        self.features = features.chosen(seed)
        self.streams = streams.chosen(seed)
        self.clock = ManualClock()
        self.ops_left = ops
        self.calm = False
        """Nothing goes wrong any more."""
        self.records: list[Record] = []
        self.sometimes: Counter[str] = Counter()
        self._trace = blake2b(digest_size=8)
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._moment = (0, 0)
        self._events_left = ops * EVENTS_PER_OP_MAX + 1_000_000
        self.schedules: dict[str, str] = {}
        """What their messages say → label of the queue, of schedules that somebody asked to create."""
        self.recorder = Recorder("world", self.time, self.write)
        self.places = Places(self)
        self.clients = [Client(self, f"c{number}") for number in range(self.plan.clients)]
        self.node = Node(self)

    def start(self) -> None:
        """The first life of the node."""
        self.node.start()

    # time

    def after(self, ms: int, act: Callable[..., None], *args: Any) -> None:
        """Let something happen `ms` from now."""
        self._order += 1
        heapq.heappush(self._events, (self.clock.now().mono + ms, self._order, act, args))

    def soon(self, mean_ms: float, act: Callable[..., None], *args: Any) -> None:
        """Let something happen at a random time, `mean_ms` from now on average."""
        self.after(round(self.random.expovariate(1 / mean_ms)) if mean_ms else 0, act, *args)

    def run(self, until: Callable[[], bool]) -> None:
        """Let events happen until something is so."""
        while not until():
            self._events_left -= 1
            assert self._events_left, "the run goes in a circle"
            when, _, act, args = heapq.heappop(self._events)
            now = self.clock.now().mono
            if when > now:
                self.clock.advance(when - now)
            act(*args)

    def time(self) -> float:
        """Seconds, for the history: no two moments are the same, and all of a ms lie within it."""
        mono = self.clock.now().mono
        self._moment = (mono, self._moment[1] + 1) if self._moment[0] == mono else (mono, 0)
        return mono / 1000 + self._moment[1] * 1e-8

    # what is kept of it

    def write(self, record: Record) -> None:
        """A record of the history."""
        self.records.append(record)
        self.say(json.dumps(record))

    def say(self, *words: object) -> None:
        """Something happened: part of the trace."""
        self._trace.update(f"{self.clock.now()} {words}\n".encode())

    @property
    def trace(self) -> str:
        """The hash of all that happened."""
        return self._trace.hexdigest()

    def met(self, what: str, *, when: bool = True) -> None:
        """A rare thing happened, if `when`."""
        if when:
            self.sometimes[what] += 1
