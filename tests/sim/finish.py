"""The end of a run: faults stop, the power goes one last time, and everything is read out and acked.

Only then can be told whether anything is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.sim.clients import Client, records_of
from tests.sim.members import Member, Reading
from tests.sim.places import Place
from tests.sim.streams import PICKED
from tests.sim.workload import stale_of

from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_protocol.errors import Error
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import encode_ranges

if TYPE_CHECKING:
    from tests.sim.world import World

ROUNDS_MAX = 400
ROUND_MS = 200
LATER_ROUND_MS = 5_000
"""The retry curve of a queue that nobody configured goes up to five minutes."""
MEMBERSHIPS_MAX = 20
"""Of the last member: who comes to its beats too late has to join again."""
RECEIVES_MAX = 100
"""In a row, from one queue."""
LEASE_MS = 60_000
PATIENT_ROUNDS = 100
LEAP_MS = 12_000 * 86_400_000
"""More than any clock can have been set back, and any delay."""
REPLY_MS = 60_000
GROUPS = ("g", "h", PICKED)


class Drain:
    """One client that takes everything out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client = Client(world, "drain")
        world.clients.append(self._client)

    def run(self) -> None:
        """Read every log, empty every queue, note that it was done."""
        world = self._world
        world.node.crash("power cut", power=True)
        world.run(lambda: world.node.up)
        self._client.connect()
        self._until(lambda: self._client.connected)
        for place in world.places.alive("log"):
            self._read(place)
        self._read_on_as_a_member()
        queues = [place for place in world.places.alive("queue") if not place.ends_by_itself]
        self._end_schedules()
        for place in queues:
            if world.features.words_of(place.name):
                self._open(place)
        for number in range(ROUNDS_MAX):
            if not any(self._left(place) for place in queues):
                break
            if number == PATIENT_ROUNDS:
                self._leap()
            for place in queues:
                self._empty(place)
            self._wait(ROUND_MS if number < ROUNDS_MAX // 2 else LATER_ROUND_MS)
        for place in queues:
            self._count(place)
        for place in world.places.alive("log"):
            self._note_start(place)
        for place in queues:
            self._client.recorder.note("drained", queue=place.label)

    def _end_schedules(self) -> None:
        """None runs any more; how often each did."""
        schedules = self._world.node.core.registry.schedules
        for name in sorted(schedules):
            self._end_schedule(name)

    def _end_schedule(self, name: str) -> None:
        schedule, over = self._world.node.core.registry.schedules[name], []

        def begin() -> None:
            self._client.recorder.note("runs", schedule=name, runs=schedule.runs)

        self._client.ask(c.DeleteSchedule(name), over.append, begin=begin)
        self._until(lambda: bool(over))

    def _open(self, place: Place) -> None:
        """Nothing holds its messages back but what they say themselves."""
        free = {"paused": False, "single_active": False, "rate": None, "group_rate": None}
        over: list[Any] = []
        self._client.recorder.note("opened", queue=place.label)
        self._client.ask(q.AlterQueue(place.name, free), over.append, place)
        self._until(lambda: bool(over))
        assert not isinstance(over[0], Error), over

    def _leap(self) -> None:
        """What is not due for years becomes due."""
        registry = self._world.node.core.registry
        if any(lane.count(State.DELAYED) for lane in registry.lanes()):
            behind = self._world.node.core.engine.journal.time - self._world.clock.now().wall
            leap = max(behind, 0) + LEAP_MS
            self._world.clock.jump_wall(leap)
            self._world.recorder.note("clock", jump=leap / 1000)

    def _left(self, place: Place) -> int:
        return sum(lane.messages for lane in self._lanes(place))

    def _lanes(self, place: Place) -> list[Queue]:
        return self._world.node.core.registry.queues[place.name].lanes

    def _empty(self, place: Place) -> None:
        """Take and ack what is ready there."""
        client = self._client
        for name in sorted(self._world.node.core.registry.queues[place.name].indexes.groups.parked):
            client.ask(q.Resume(place.name, name), lambda _: None, place)
        request = q.Receive(place.name, 1_000, 0, LEASE_MS)
        for _ in range(RECEIVES_MAX):
            client.held.clear()
            self._operate(
                "receive", place, request, lambda reply: {"messages": client.messages(place, reply)}, wait=0
            )
            if not client.held:
                break
            held = list(client.held)
            payload = memoryview(encode_ranges([item.range for item in held]))
            messages = [[item.offset, item.token] for item in held]
            self._operate("ack", place, q.Ack(place.name, payload), stale_of, messages=messages)

    def _count(self, place: Place) -> None:
        def answer(document: Any) -> dict[str, int]:
            stats = unpack_document(document.payload)["stats"]
            names = ("ready", "delayed", "in_flight", "waiting")
            return {
                **{name: stats[name] for name in names},
                "settled": stats["settled_total"],
                "total": sum(lane.log.end for lane in self._lanes(place)),
            }

        self._operate("stats", place, q.DescribeQueue(place.name), answer)
        states = [
            {state.name: lane.count(state) for state in State if lane.count(state)}
            for lane in self._lanes(place)
        ]
        assert not self._left(place), f"{place} is never empty: {states}"

    def _read(self, place: Place) -> None:
        reached, ended = self._note_start(place), -1

        def answer(fetched: t.Fetched) -> dict[str, Any]:
            nonlocal reached, ended
            reached, ended = fetched.next, fetched.end
            return {"records": records_of(fetched), "end": fetched.end}

        while reached != ended:
            request = t.Fetch(place.name, place.number, reached, 500, 1 << 20, 0)
            self._operate("fetch", place, request, answer, offset=reached)
        for group in GROUPS:
            request = t.Offsets(group, place.name)
            self._operate("committed", place, request, self._committed(place.number), group=group)
        self._client.recorder.note("drained", log=place.label)

    def _read_on_as_a_member(self) -> None:
        """The last member of the group is given everything, and reads what the others left: until nothing is
        left of any partition, be it that the rest is not for it."""
        if not self._world.places.alive("log"):
            return
        member = self._client.member = Member(self._client)
        for _ in range(MEMBERSHIPS_MAX):
            if not member.joined:
                member.join()
                self._until_given(member)
            self._read_and_commit(member)
            if not any(self._lags(member).values()):
                return
        raise AssertionError(f"{member.group} is behind for ever: {self._lags(member)}")

    def _until_given(self, member: Member) -> None:
        """After a restart it waits for others that may come back, which do not; it may be lost meanwhile."""
        patience = self._world.clock.now().mono + REPLY_MS
        while not member.reading:
            assert self._world.clock.now().mono < patience, "the last member is given nothing"
            self._wait(ROUND_MS)
            if member.joined:
                member.beat()
            else:
                member.join()

    def _read_and_commit(self, member: Member) -> None:
        for place, reading in member.reading.items():
            self._until_free(member, member.find_position, place)
            end = self._world.node.core.registry.topics[place.name].partitions[place.number].log.end
            while reading.position != end:
                self._until_free(member, member.fetch, place)
            member.commit_of(place)
        self._wait(ROUND_MS)
        member.beat()

    def _lags(self, member: Member) -> dict[tuple[str, int], int]:
        """By partition, as the broker says; -1 where nothing is stored."""
        found: list[Any] = []
        self._client.ask(t.DescribeGroup(member.group), found.append)
        self._until(lambda: bool(found))
        rows = [] if isinstance(found[0], Error) else unpack_document(found[0].payload)["partitions"]
        lags = {(row["topic"], row["partition"]): row["lag"] for row in rows}
        return {key: lags.get(key, -1) for key in ((place.name, place.number) for place in member.reading)}

    def _until_free(self, member: Member, ask: Callable[[Place, Reading], None], place: Place) -> None:
        member.beat()
        reading = member.reading[place]
        reading.asking = self._client.link
        ask(place, reading)
        self._until(lambda: reading.asking is None)

    def _note_start(self, place: Place) -> int:
        """Tell where a partition begins: retention took what lies before."""
        start = self._world.node.core.registry.topics[place.name].partitions[place.number].log.start
        if start:
            self._client.recorder.note("trimmed", log=place.label, start=start)
        return start

    def _committed(self, number: int) -> Any:
        def answer(document: Any) -> dict[str, Any]:
            return {"offset": {row[0]: row[1] for row in unpack_document(document.payload)}.get(number)}

        return answer

    def _operate(self, f: str, place: Place, request: Any, answer: Any, **asked: Any) -> None:
        replied: list[Any] = []

        def note(reply: Any) -> Any:
            replied.append(reply)
            return answer(reply)

        before = len(self._world.records)
        self._client.operate(f, place, request, note, **asked)
        self._until(lambda: bool(replied) or _refused(self._world.records[before:]))
        assert replied, f"{f} on {place} was refused: {self._world.records[-1]}"

    def _until(self, done: Any) -> None:
        patience = self._world.clock.now().mono + REPLY_MS
        self._world.run(lambda: done() or self._world.clock.now().mono > patience)
        assert done(), "the node does not answer"

    def _wait(self, ms: int) -> None:
        over: list[bool] = []
        self._world.after(ms, over.append, True)
        self._world.run(lambda: bool(over))


def _refused(records: list[Any]) -> bool:
    return any(record["type"] == "refused" for record in records)


__all__ = ["Drain", "Error"]
