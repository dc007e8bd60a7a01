"""Members of a consumer group: they join, are told what to read, read and commit it, give it up, and go.

Each does as the wire asks of it, but as slowly as the seed likes: what it is to give up it keeps until it
comes to it, it is silent for too long, its process dies and another one takes the instance's seat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim import streams
from tests.sim.clients import Client, records_of
from tests.sim.features import TOPIC
from tests.sim.places import Place

from penstock_protocol.errors import Error, OffsetOutOfRange, Stale
from penstock_protocol.messages import groups as g
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document, unpack_document

if TYPE_CHECKING:
    from tests.sim.net import Link

GROUP = "members"
PICKERS = "pickers"
"""The group where its members read with a filter."""
ASSIGNORS = ("sticky", "sticky", "uniform", "range", "round_robin")
RECORDS = (1, 10, 500)


class Reading:
    """One partition, as long as it is the member's."""

    def __init__(self, since: int, number: int) -> None:
        self.since = since
        """The generation in which it was told."""
        self.number = number
        """Of those of the member: it may be told twice in one generation, and begins anew."""
        self.position: int | None = None
        """Where to read on; None: nobody has said yet."""
        self.jumps = 0
        """How often what came next was not kept any more."""
        self.asking: Link | None = None
        """The link on which an answer is awaited."""


class Member:
    """What one client knows of its membership."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._random = client.world.random
        self.where = client.world.streams.where
        self.group = GROUP if self.where is None else PICKERS
        self.id = b""
        self.instance: str | None = None
        self.joined = False
        self.told = 0
        self.done = 0
        self.assigned: set[Place] = set()
        self.reading: dict[Place, Reading] = {}
        self._readings = 0
        self._beating: Link | None = None

    def act(self) -> None:
        """Do one thing that a member does."""
        if not self.joined:
            self.join()
        else:
            does = (self.beat, self.beat, self.poll, self.poll, self.commit, self.carry_out)
            self._random.choice(does)()
            if not self._random.randrange(60):
                self.leave()

    # ---- Membership

    def join(self) -> None:
        """Become a member: as before, as a new one, or as another process of the instance."""
        if not self.id or not self._random.randrange(4):
            self.id = self._random.randbytes(16)
            self.instance = self._random.choice((None, None, "i1", "i2"))
            self.reading.clear()
        in_hand: dict[str, list[int]] = {}
        for place in self.reading:
            in_hand.setdefault(place.name, []).append(place.number)
        topics = self._random.choice(((TOPIC,), ("*",), (TOPIC, "#")))
        claims = memoryview(pack_document(in_hand)) if in_hand else memoryview(b"")
        request = g.Join(self.group, self.id, topics, self._random.choice(ASSIGNORS), self.instance, claims)
        self._client.world.met("partitions claimed", when=bool(in_hand))
        self.reading.clear()
        self.done = 0
        self._client.ask(request, self._joined)

    def _joined(self, reply: Any) -> None:
        if isinstance(reply, Stale):
            self.id = b""
        elif not isinstance(reply, Error):
            self.joined = True
            self._see(unpack_document(reply.payload))

    def beat(self) -> None:
        """A sign of life; one at a time waits for news."""
        if self._beating is None or self._beating is not self._client.link:
            self._beating = self._client.link
            self._client.ask(g.Heartbeat(self.group, self.id, self.told, self.done), self._heard)

    def _heard(self, reply: Any) -> None:
        self._beating = None
        if isinstance(reply, Stale):
            self._lost(reply)
        elif not isinstance(reply, Error):
            self._see(unpack_document(reply.payload))

    def _lost(self, stale: Stale) -> None:
        """No member any more."""
        self._client.world.met("membership lost")
        self._client.world.met("instance taken over", when=bool(stale.detail))
        self.joined = False
        if stale.detail:
            self.id = b""

    def _see(self, document: dict[str, Any]) -> None:
        """It is told what it may read: what is new it begins to read."""
        if document["partitions"] is None:
            return
        self.told = document["generation"]
        alive = {(place.name, place.number): place for place in self._client.world.places.alive("log")}
        told = [(topic, number) for topic, numbers in document["partitions"].items() for number in numbers]
        self.assigned = {alive[each] for each in told if each in alive}
        for place in sorted(self.assigned - self.reading.keys(), key=lambda place: place.label):
            self._readings += 1
            self.reading[place] = Reading(self.told, self._readings)
            op = self._client.recorder.invoke("generation", group=self.group, log=place.label)
            self._client.recorder.ok(op, generation=self.told)

    def carry_out(self) -> None:
        """Give up what is not assigned any more, with a last commit, and say so."""
        for place in [place for place in self.reading if place not in self.assigned]:
            self._client.world.met("partition given up")
            self.commit_of(place)
            del self.reading[place]
        if self.done != self.told:
            self.done = self.told
            self._beating = None
            self.beat()

    def leave(self) -> None:
        """Everything is given up at once."""
        self._client.ask(g.Leave(self.group, self.id), lambda _: None)
        self.joined = False
        self.reading.clear()
        if self.instance is None:
            self.id = b""

    # ---- Reading

    def poll(self) -> None:
        """Read on in one partition; first find out where."""
        free = [place for place, each in self.reading.items() if self._is_free(place, each)]
        if not free:
            return
        place = self._random.choice(free)
        reading = self.reading[place]
        reading.asking = self._client.link
        if reading.position is None:
            self.find_position(place, reading)
        else:
            self.fetch(place, reading)

    def _is_free(self, place: Place, reading: Reading) -> bool:
        asked = reading.asking is not None and reading.asking is self._client.link
        return place in self.assigned and place.alive and not asked

    def find_position(self, place: Place, reading: Reading) -> None:
        """Where the group left off there."""

        def answer(document: Any) -> dict[str, Any]:
            found = {row[0]: row[1] for row in unpack_document(document.payload)}.get(place.number)
            reading.position, reading.asking = found or 0, None
            return {"offset": found}

        request = t.Offsets(self.group, place.name)
        self._client.operate("committed", place, request, answer, group=self.group)

    def fetch(self, place: Place, reading: Reading) -> None:
        """What comes next in that partition."""
        since = reading.position
        assert since is not None

        def answer(fetched: t.Fetched) -> dict[str, Any]:
            reading.position, reading.asking = fetched.next, None
            if self.where is not None:
                return streams.selected(self._client.world, fetched, since)
            return {"records": records_of(fetched), "end": fetched.end}

        def refused(error: Error) -> None:
            reading.asking = None
            if isinstance(error, OffsetOutOfRange):
                reading.position = error.detail["start"]
                reading.jumps += 1
                self._client.recorder.note("trimmed", log=place.label, start=reading.position)

        assigned = {"group": self.group, "assignment": f"{reading.since}.{reading.number}.{reading.jumps}"}
        if self.where is not None:
            streams.ask(self._client, place, since, self.where, 0, answer, refused, **assigned)
            return
        size, records = self._random.choice((1, 2_000, 1 << 20)), self._random.choice(RECORDS)
        request = t.Fetch(place.name, place.number, since, records, size, 0)
        self._client.operate("poll", place, request, answer, refused, **assigned)

    def commit(self) -> None:
        """Store how far one partition is."""
        if self.reading:
            self.commit_of(self._random.choice(sorted(self.reading, key=lambda place: place.label)))

    def commit_of(self, place: Place) -> None:
        """Store how far that partition is."""
        reading = self.reading[place]
        if reading.position is None or not place.alive:
            return

        def refused(error: Error) -> None:
            self._client.world.met("commit fenced", when=isinstance(error, Stale))

        self._client.operate(
            "commit",
            place,
            t.Commit(self.group, place.name, ((place.number, reading.position, ""),), self.id, self.told),
            lambda _: {},
            refused,
            group=self.group,
            offset=reading.position,
            generation=reading.since,
        )


def act(client: Client) -> None:
    """One thing that a member of the group does."""
    member = client.member
    if member is None:
        member = client.member = Member(client)
    member.act()
