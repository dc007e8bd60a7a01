"""Dead letters: a message leaves its queue and enters the dead-letter queue in one entry.

The bytes are read first (loaded, if they are cold); until then the message stays in flight with nobody.
A dead letter without room waits in its own queue and is tried again when its time comes.
"""

from collections.abc import Callable, Sequence

from penstock_broker.answers import Answer
from penstock_broker.catalogue import Item, part_for
from penstock_broker.clock import Now
from penstock_broker.durability import FSYNC
from penstock_broker.queues.outcomes import Dead, Settled
from penstock_broker.queues.policy import DEAD_LETTER_SETTINGS, policy_for
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import Event
from penstock_broker.registry import Registry
from penstock_broker.storage import entries
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.storage.files import Load
from penstock_broker.storage.reads import Cold, Cut, Loaded
from penstock_protocol.errors import Corrupt, QueueFull, TooLarge
from penstock_protocol.limits import INT_MAX

BYTES_PER_ENTRY = 1 << 20
"""Dead letters of more bytes are buried in several entries, each whole in itself."""

Then = Callable[[], None]


class Burial:
    """Moves dead letters of all queues."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine[Answer],
        new_uuid: Callable[[], bytes],
        touch: Callable[[Queue], None],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._new_uuid = new_uuid
        self._touch = touch

    def bury(self, queue: Queue, dead: Sequence[Dead], now: Now, then: Then | None = None) -> None:
        """Move each to the dead-letter queue; `then` when the last one is applied."""
        left = len(dead)

        def one_done() -> None:
            nonlocal left
            left -= 1
            if not left and then is not None:
                then()

        for item in dead:
            self._bury(queue, item, now, {}, one_done)
        if not dead and then is not None:
            then()

    def retry(self, queue: Queue, now: Now) -> None:
        """Dead letters that waited for room are judged dead again, as many as there is room for."""
        target = self._registry.queues.get(queue.policy.dead_letter or "")
        if target is not None and target.uuid in self._registry.corrupt:
            return
        room, room_bytes = target.room if target is not None else (INT_MAX, INT_MAX)
        for first, waiting in queue.parked():
            messages, size = queue.log.fit(first, min(waiting, room), room_bytes)
            if not messages or size > room_bytes:
                return
            queue.states.move(first, messages, Event.DUE)
            queue.states.move(first, messages, Event.HAND_OUT)
            self.bury(queue, queue.rejected([(first, messages)], "waited"), now)
            room, room_bytes = room - messages, room_bytes - size

    def _bury(self, queue: Queue, dead: Dead, now: Now, loaded: Loaded, then: Then) -> None:
        if self._registry.get(queue.uuid) is not queue:
            then()  # deleted meanwhile
            return
        try:
            cuts = list(self._engine.reads.cuts(queue.log, dead.first, dead.messages, loaded))
        except Cold as cold:
            extent = cold.extent

            def got(result: object) -> None:
                loaded[extent] = result if isinstance(result, bytes) else b""
                self._bury(queue, dead, now, loaded, then)

            self._engine.load(Load(*extent[:3]), got)
            return
        except Corrupt as error:
            end = dead.first + dead.messages
            low = max(dead.first, error.detail["first"])
            high = min(end, error.detail["first"] + error.detail["messages"])
            self._park(queue, low, high - low, dead.failures, now)
            queue.damaged.update(range(low, high))
            whole = [(dead.first, low - dead.first), (high, end - high)]
            self.bury(queue, [dead._replace(first=f, messages=n) for f, n in whole if n], now, then)
            return
        batch: list[Cut] = []
        size = 0
        for cut in cuts:
            if batch and size + len(cut.data) > BYTES_PER_ENTRY:
                self._move(queue, batch, dead, now)
                batch, size = [], 0
            batch.append(cut)
            size += len(cut.data)
        if batch:
            self._move(queue, batch, dead, now)
        self._touch(queue)
        then()

    def _move(self, queue: Queue, cuts: Sequence[Cut], dead: Dead, now: Now) -> None:
        """One entry, by the stricter mode of both: appended there, settled here, the dead-letter queue made,
        in this one's mode, if it is not there yet."""
        first, messages = cuts[0].first, sum(cut.messages for cut in cuts)
        parts: list[Part] = []
        name = queue.policy.dead_letter
        if name is None:  # since it was altered, nothing of it dies
            part = queue.return_part([(first, messages, max(1, dead.failures), now.wall)])
            self._engine.append([part], wall=now.wall, within=queue.within)
            return
        if name not in self._registry.queues:
            uuid, within = self._new_uuid(), FSYNC
            settings = {**DEAD_LETTER_SETTINGS, "durability": queue.policy.durability}
            policy = policy_for(name, settings)
            parts.append(part_for(Kind.CREATE, Item("queue", name, uuid, policy.as_map(), ())))
            offset = 0
        else:
            try:
                target = self._registry.queue(name)
                target.check_room(messages, sum(len(cut.data) for cut in cuts))
            except (QueueFull, Corrupt):
                self._park(queue, first, messages, dead.failures, now)
                return
            uuid, offset = target.uuid, target.log.end
            within = min(queue.within, target.within)
        bodies: list[Body] = []
        for cut in cuts:
            origin = entries.ORIGIN.pack(cut.origin_log, cut.origin_first)
            parts.append(
                Part(uuid, Kind.APPEND, offset, cut.messages, entries.ORIGIN_FLAG, origin, len(bodies))
            )
            bodies.append(Body(cut.data, cut.crc))
            offset += cut.messages
        parts.append(queue.settle_part([(first, messages)], Settled.DEAD_LETTERED))
        try:
            self._engine.append(parts, bodies, wall=now.wall, within=within)
        except TooLarge:
            self._move_in_halves(queue, cuts, dead, now)
            return
        queue.dead_reasons[dead.reason] += messages
        self._touch(self._registry.queues[name])

    def _move_in_halves(self, queue: Queue, cuts: Sequence[Cut], dead: Dead, now: Now) -> None:
        """All in one entry is more than a small journal takes."""
        half = len(cuts) // 2
        if not half:
            self._park(queue, cuts[0].first, cuts[0].messages, dead.failures, now)
            return
        self._move(queue, cuts[:half], dead, now)
        self._move(queue, cuts[half:], dead, now)

    def _park(self, queue: Queue, first: int, messages: int, failures: int, now: Now) -> None:
        part = queue.return_part([(first, messages, failures, 0)], waiting=True)
        self._engine.append([part], wall=now.wall, within=queue.within)
