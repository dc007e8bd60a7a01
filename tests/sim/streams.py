"""What a run does with topics beyond plain, chosen from the seed alone: producers with a name, and readers
that ask for some of the records only.

A reader with a filter reads on where it was told to, as one without. The group's members, too, read with the
filter of the run, under another name, so that what such a group committed can be told from the rest.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sim.clients import records_of

from penstock_broker import filtering
from penstock_protocol.errors import Error, OffsetOutOfRange
from penstock_protocol.messages import topics as t

if TYPE_CHECKING:
    from tests.sim.clients import Client
    from tests.sim.places import Place
    from tests.sim.world import World

Where = dict[str, Any]

WHERES: tuple[Where, ...] = (
    {"key": "eu.*"},
    {"key": "us.1"},
    {"key": "*.1", "header:type": "re*d"},
    {"header:type": "order"},
    {"header:n": 1},
    {"key": "nobody"},
)
NAMES = ("w0", "w1")
PICKED = "picked"
"""The group of those who read with a filter, and are no members."""
SIZES: tuple[tuple[Any, str, tuple[int, ...]], ...] = (
    (filtering, "SCANNED_RECORDS_MAX", (3, 10_000)),
    (filtering, "SCANNED_BYTES_MAX", (300, 1 << 20)),
    (filtering, "LOOKED_RECORDS_MAX", (2, 1_000)),
    (filtering, "TELL_MS", (50, 1_000)),
)
"""Bounds of the broker that matter to filters only, and small values that make them count."""


class Streams(NamedTuple):
    """Of one run. `names`: those under which clients open producers; `filtered`: records have keys and
    headers, and are asked for by them; `where`: what the group's members ask for."""

    names: tuple[str, ...]
    filtered: bool
    where: Where | None
    sizes: tuple[tuple[Any, str, int], ...]


def chosen(seed: int) -> Streams:
    """What the seed wants."""
    random = Random(f"streams of {seed}")
    names = NAMES[: random.randint(1, 2)] if random.random() < 0.4 else ()
    if random.random() < 0.5:
        return Streams(names, filtered=False, where=None, sizes=())
    where = random.choice((None, *WHERES))
    return Streams(names, True, where, tuple((module, name, random.choice(of)) for module, name, of in SIZES))


def selected(world: World, fetched: t.Fetched, offset: int) -> dict[str, Any]:
    """What a filtered reader that asked from `offset` on was told, for the history."""
    records = records_of(fetched)
    world.met("records passed over", when=fetched.next - offset > len(records))
    world.met("nothing fits", when=fetched.next > offset and not records)
    return {"records": records, "start": fetched.start, "end": fetched.end, "next": fetched.next}


def select(client: Client) -> None:
    """Read on with a filter where it was, or anywhere; at the end wait a while."""
    world, random = client.world, client.world.random
    places = world.places.alive("log")
    if not places:
        return
    place, number = random.choice(places), random.randrange(len(WHERES))
    reached = client.selected.get((place, number), 0)
    offset = reached if random.random() < 0.7 else random.randrange(reached + 3)
    wait = random.choice((0, 0, 100, 2_000))

    def answer(fetched: t.Fetched) -> dict[str, Any]:
        client.selected[place, number] = fetched.next
        return selected(world, fetched, offset)

    def refused(error: Error) -> None:
        if isinstance(error, OffsetOutOfRange):
            client.selected[place, number] = error.detail["start"]

    ask(client, place, offset, WHERES[number], wait, answer, refused)


def ask(
    client: Client,
    place: Place,
    offset: int,
    where: Where,
    wait: int,
    answer: Any,
    refused: Any,
    **asked: Any,
) -> None:
    """FETCH with a filter."""
    random = client.world.random
    size, records = random.choice((1, 2_000, 1 << 20)), random.choice((1, 10, 500))
    request = t.Fetch(place.name, place.number, offset, records, size, wait, where, random.random() < 0.5)
    client.operate("select", place, request, answer, refused, offset=offset, where=where, **asked)


def store(client: Client) -> None:
    """Commit how far a filter was read, what was passed over included."""
    reached = [(place, offset) for (place, _), offset in client.selected.items() if place.alive]
    if not reached:
        return
    place, offset = client.world.random.choice(reached)
    request = t.Commit(PICKED, place.name, ((place.number, offset, ""),))
    client.operate("commit", place, request, lambda _: {}, group=PICKED, offset=offset, generation=0)


ACTIONS = ((select, 8), (store, 3))
