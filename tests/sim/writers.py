"""Producers with a name: clients open one, write under it, and are fenced when another one opens it.

Whoever is fenced learns of it when it writes next, and goes on all the same for a while, under the id it had:
what it sent before is sent again until its outcome is known. What it does then is what the seed likes: it
takes the name back, or asks for it as an instance that only lost its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.clients import Client

from penstock_protocol.errors import Error, Stale
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document

if TYPE_CHECKING:
    from tests.sim.places import Place


class Writer:
    """What one client has of one name."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._id = 0
        """Of its latest opening; 0: none yet."""

    def act(self) -> None:
        """Write, mostly."""
        random = self._client.world.random
        if not self._id or not random.randrange(12):
            self.open(again=bool(self._id) and random.random() < 0.5)
        else:
            self.write()

    def open(self, *, again: bool) -> None:
        """Be the producer of that name, or be it again."""
        client, name = self._client, self._name
        op: list[str] = []

        def begin() -> None:
            op.append(client.recorder.invoke("open", name=name))

        def reply(answer: Any) -> None:
            if isinstance(answer, Error):
                client.world.met("name was taken over", when=isinstance(answer, Stale))
                client.recorder.refused(op[0], type(answer).__name__)
                self._id = 0
                return
            opened = unpack_document(answer.payload)
            self._id = opened["producer_id"]
            client.recorder.ok(op[0], producer=self._id, epoch=opened["epoch"])

        client.ask(t.OpenProducer(name, again), reply, begin=begin)

    def write(self) -> None:
        """Publish to a partition or to a queue, whether it is fenced or not."""
        world = self._client.world
        places: list[Place] = world.places.alive("log")
        places += [place for place in world.places.alive("queue") if place.takes]
        if places:
            self._client.publish(world.random.choice(places), self._id)


def act(client: Client) -> None:
    """One thing that somebody with a name does."""
    name = client.world.random.choice(client.world.streams.names)
    writer = client.writers.get(name)
    if writer is None:
        writer = client.writers[name] = Writer(client, name)
    writer.act()


def look(client: Client) -> None:
    """List them: nobody has a name that nobody opens."""

    def reply(answer: Any) -> None:
        if not isinstance(answer, Error):
            names = [each["name"] for each in unpack_document(answer.payload)["items"]]
            assert names == sorted(set(names) & set(client.world.streams.names)), names

    client.ask(t.ListProducers("", "", client.world.random.choice((1, 100))), reply)


def delete(client: Client) -> None:
    """Nobody has the name any more."""
    name, op = client.world.random.choice(client.world.streams.names), list[str]()

    def begin() -> None:
        op.append(client.recorder.invoke("unname", name=name))

    def reply(answer: Any) -> None:
        if isinstance(answer, Error):
            client.recorder.refused(op[0], type(answer).__name__)
        else:
            client.world.met("producer deleted")
            client.recorder.ok(op[0])

    client.ask(t.DeleteProducer(name), reply, begin=begin)


ACTIONS = ((act, 14), (look, 0.5), (delete, 0.3))
