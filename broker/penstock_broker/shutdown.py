"""A clean stop, step by step: what was handed out is noted, a checkpoint written, and the end marked.

    begun → HANDED_OUT parts, checkpoint asked for → checkpoint done → STOP → idle → STOP → idle → complete

From the first STOP on nothing else is appended; the second one proves the first, so nothing is open then.
"""

from typing import TYPE_CHECKING

from penstock_broker.clock import Now
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.node import NODE

if TYPE_CHECKING:
    from penstock_broker.core import Core

STOPS = 2


class Shutdown:
    """The stop of one node."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.begun = False
        self.complete = False
        self._stops = 0
        """STOP parts appended."""

    @property
    def closed(self) -> bool:
        """Nothing may be appended any more."""
        return self._stops > 0

    def begin(self, now: Now) -> None:
        """Begin, once."""
        if self.begun:
            return
        self.begun = True
        core = self._core
        core.deliveries.stopped = core.engine.archiver.quiet = True
        parts = [
            Part(queue.uuid, Kind.HANDED_OUT, queue.states.cursor)
            for queue in core.registry.lanes()
            if queue.states.cursor > queue.suspect_below
        ]
        if parts:
            core.engine.append(parts, wall=now.wall)
        core.engine.checkpoint_now()

    def step(self, now: Now) -> None:
        """Go on as far as the disk has come."""
        engine = self._core.engine
        if not self.begun or self.complete:
            return
        checkpointed = not engine.checkpointing or engine.checkpoint_failed
        ready = engine.journal.idle if self._stops else checkpointed
        if ready and self._stops == STOPS:
            self.complete = True
        elif ready:
            self._stops += 1
            engine.append([Part(NODE, Kind.STOP)], wall=now.wall)
