"""What clients do with the features of queues: one table of actions with weights, as in workload.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.clients import Client, Held
from tests.sim.features import encoded, is_throwaway
from tests.sim.history import LANE, payload
from tests.sim.places import Place

from penstock_broker.queues.policy import DEAD_SUFFIX
from penstock_protocol.errors import Error
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import decode_ranges, encode_ranges

EVERY_MS = (1_000, 1_500, 4_000)
SCHEDULES_MAX = 3
YEARS_MS = 3_000 * 86_400_000


def _nothing(reply: Any) -> None:
    """The answer does not matter."""


def _fine(reply: Any) -> dict[str, Any]:
    return {}


def special_place(client: Client, *words: str, dead: bool = False, takes: bool = False) -> Place | None:
    """A queue with one of these features (any, if none is named); `dead`: or its dead-letter queue; `takes`:
    none over a topic."""
    world = client.world
    places = [
        place
        for place in world.places.alive("queue")
        if world.features.is_special(place.name)
        and (dead or not place.name.endswith(DEAD_SUFFIX))
        and (place.takes or not takes)
    ]
    if words:
        names = {place.name: place.name.removesuffix(DEAD_SUFFIX) for place in places}
        places = [place for place in places if world.features.words_of(names[place.name]) & set(words)]
    return world.random.choice(places) if places else None


def _held(client: Client, *words: str) -> Held | None:
    """A message in hand from a queue with one of these features."""
    features = client.world.features
    found = [held for held in client.held if features.words_of(held.place.name) & set(words)]
    return client.world.random.choice(found) if found else None


# queues


def create(client: Client) -> None:
    """Create a queue with features, its dead-letter queue, or one that ends by itself."""
    world, random = client.world, client.world.random
    names = {place.name for place in world.places.by_uuid.values() if place.alive}
    wanted = [each for name in world.features.profiles for each in (name, name + DEAD_SUFFIX)]
    if world.features.throwaway:
        wanted += ["x0", "x1"]
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    name = random.choice(missing)
    limits = {"max_attempts": None, "max_deliveries": None, "dead_letter": None}
    if is_throwaway(name):
        mortal = random.choice(({"exclusive": True}, {"expires": 300}, {"expires": 2_000, "exclusive": True}))
        settings: dict[str, Any] = {**limits, "visibility_timeout": 300, **mortal}
    elif name.endswith(DEAD_SUFFIX):
        settings = {**limits, "max_messages": random.choice((2, 1_000)), "visibility_timeout": 300}
    else:
        settings = world.features.profiles[name].settings
    client.ask(q.CreateQueue(name, settings, "keep"), created(client))


def created(client: Client) -> Callable[[Any], None]:
    """Takes the answer to a creation: from now on the queue must be there."""

    def reply(document: Any) -> None:
        if not isinstance(document, Error):
            client.world.places.by_uuid[unpack_document(document.payload)["uuid"]].created = True

    return reply


def enqueue(client: Client) -> None:
    """Publish to a queue with features."""
    place = special_place(client, takes=True)
    if place is not None:
        if client.world.random.random() < 0.8:
            client.publish(place)
        else:
            client.publish_once(place)


def receive(client: Client) -> None:
    """Take some messages there; where that is wanted, at most once."""
    place, random = special_place(client, dead=True), client.world.random
    if place is None:
        return
    settle = "once" in client.world.features.words_of(place.name) and random.random() < 0.5
    wait, visibility = random.choice((0, 0, 300)), random.choice((None, 100))
    request = q.Receive(place.name, random.choice((1, 2, 10)), wait, visibility, settle)
    client.operate(
        "receive",
        place,
        request,
        lambda delivery: {"messages": client.messages(place, delivery, settle=settle)},
        wait=wait / 1000,
        **({"once": True} if settle else {}),
    )


def pause(client: Client) -> None:
    """Stop a queue from handing out, or let it go on."""
    place = special_place(client, "pause")
    if place is not None:
        paused = client.world.random.random() < 0.4
        client.world.met("paused", when=paused)
        client.ask(q.AlterQueue(place.name, {"paused": paused}), _nothing, place)


def resume(client: Client) -> None:
    """Let parked message groups go on."""
    place, world = special_place(client, "groups"), client.world
    if place is None:
        return
    for name in sorted(world.node.core.registry.queues[place.name].indexes.groups.parked):
        client.ask(q.Resume(place.name, name), _nothing, place)


def look(client: Client) -> None:
    """Find, explain, dry runs: whatever the answer, nothing changes."""
    place, random = special_place(client, dead=True), client.world.random
    if place is None:
        return
    client.ask(q.Find(place.name, random.choice((1, 50)), 0, {}), _nothing, place)
    state = random.choice(("ready", "delayed", "waiting", "settled"))
    client.ask(q.Transfer(place.name, None, state, 10, 0, {}, True), _nothing, place)
    client.ask(q.Peek(place.name, 10, "held"), _nothing, place)
    if client.known:
        known = random.choice(client.known)
        if known.place.alive:
            story = known.number % 2 == 0
            client.ask(q.Explain(known.place.name, known.log, known.number, story), _nothing, known.place)


# messages


def checkpoint(client: Client) -> None:
    """Say how far the work on a message has got."""
    held, random = _held(client, "checkpoint"), client.world.random
    if held is None:
        return
    name, lease = client.new_name(), random.choice((50, 2_000))
    data = payload(name, random.choice((0, 100)))
    head = encode_ranges([held.range])
    request = q.Checkpoint(held.place.name, lease, memoryview(head + data))
    client.operate(
        "checkpoint",
        held.place,
        request,
        _one_stale(held),
        messages=[[held.offset, held.token]],
        checkpoint=name,
        lease=(lease - 1) / 1000,
    )


def _one_stale(held: Held) -> Callable[[q.Settled], dict[str, Any]]:
    def answer(reply: q.Settled) -> dict[str, Any]:
        stale = decode_ranges(memoryview(reply.payload))
        assert reply.messages + len(stale) == 1, reply
        return {"stale": [[held.offset, held.token]] if stale else []}

    return answer


def reply(client: Client) -> None:
    """Answer a message: it is acked, and the answer stands in another queue."""
    held = _held(client, "reply")
    to = special_place(client, takes=True)
    if held is None or to is None:
        return
    client.held.remove(held)
    batch = client.new_batch(to)
    for each in batch.traits:  # nobody is told which of the answers are duplicates
        for name in ("dedup", "job", "conflict"):
            each.pop(name, None)
    head = encode_ranges([held.range])
    request = q.Reply(held.place.name, to.name, memoryview(head + encoded(batch.bodies, batch.traits)))

    def answer(settled: q.Settled) -> dict[str, Any]:
        client.world.met("replied", when=bool(settled.messages))
        return _one_stale(held)(settled)

    client.operate(
        "reply", held.place, request, answer, messages=[[held.offset, held.token]], to=to.label, **batch.asked
    )


def reschedule(client: Client) -> None:
    """Give a message another time, or take it back."""
    world, random = client.world, client.world.random
    known = [each for each in client.known if each.place.alive]
    if not known:
        return
    place, log, number, offset = random.choice(known)
    if not world.features.words_of(place.name) & {"delay", "groups", "jobs", "dedup", "source"}:
        return
    wall = world.clock.now().wall
    at = random.choice((None, 0, max(0, wall + 200), max(0, wall + 5_000), max(0, wall + YEARS_MS)))

    def answer(document: Any) -> dict[str, Any]:
        found = unpack_document(document.payload)["found"]
        world.met("cancelled" if at is None else "rescheduled", when=found)
        return {"found": found}

    client.operate(
        "reschedule",
        place,
        q.Reschedule(place.name, log, number, at),
        answer,
        offset=offset,
        at=None if at is None else at / 1000,
    )


def transfer(client: Client) -> None:
    """Move messages to another queue, or dead letters to where they died."""
    place, random = special_place(client, "transfer", dead=True), client.world.random
    if place is None:
        return
    if place.name.endswith(DEAD_SUFFIX):
        state, where = "ready", random.choice(({}, {}, {"reason": "bad"}, {"reason": "max_attempts"}))
        to = None
    else:
        state, where = random.choice(("ready", "ready", "delayed", "waiting")), {}
        others = [each for each in client.world.places.alive("queue") if each is not place]
        features = client.world.features
        others = [each for each in others if each.name in features.profiles and each.takes]
        if not others:
            return
        to = random.choice(others)
    _transfer(client, place, to, state, where)


def replay(client: Client) -> None:
    """Have copies of settled messages delivered again."""
    place = special_place(client, "replay")
    if place is not None:
        to = place if place.takes else special_place(client, takes=True)
        _transfer(client, place, to, "settled", {})


def _transfer(client: Client, place: Place, to: Place | None, state: str, where: dict[str, Any]) -> None:
    random = client.world.random
    limit, dry = random.choice((1, 3, 100)), random.random() < 0.1
    cursor = random.randrange(2) * LANE if place.over is not None else 0
    request = q.Transfer(place.name, to.name if to else None, state, limit, cursor, where, dry)

    def answer(document: Any) -> dict[str, Any]:
        messages = unpack_document(document.payload)["messages"]
        met = "replayed" if state == "settled" else "moved" if to else "redriven"
        client.world.met(met, when=bool(messages) and not dry)
        return {"messages": messages}

    client.operate(
        "transfer",
        place,
        request,
        answer,
        to=to.label if to else None,
        state=state,
        **({"dry": True} if dry else {}),
    )


# schedules


def create_schedule(client: Client) -> None:
    """A message again and again."""
    place, world, random = special_place(client, "schedule"), client.world, client.world.random
    if place is None or len(world.schedules) >= SCHEDULES_MAX:
        return
    name, every = client.new_name(), random.choice(EVERY_MS)
    settings = {
        "every": every,
        "catch_up": random.choice(("once", "skip", "all")),
        "overlap": random.choice(("allow", "skip")),
    }
    world.schedules[name] = place.label

    def answer(document: Any) -> dict[str, Any]:
        return {"first": unpack_document(document.payload)["next"][0] / 1000}

    request = c.CreateSchedule(name, place.name, settings, "check", encoded([payload(name, 100)]))
    client.operate("schedule", place, request, answer, schedule=name, every=every / 1000)


def look_at_schedules(client: Client) -> None:
    """List them, pause one, let one go on."""
    world, random = client.world, client.world.random
    client.ask(c.ListSchedules("", "", 10, 2), _nothing)
    names = sorted(world.node.core.registry.schedules)
    if names:
        client.ask(c.AlterSchedule(random.choice(names), {"paused": random.random() < 0.3}), _nothing)


ACTIONS: tuple[tuple[Callable[[Client], None], float], ...] = (
    (create, 12),
    (enqueue, 20),
    (receive, 20),
    (pause, 2),
    (resume, 0.5),
    (look, 1),
    (checkpoint, 12),
    (reply, 12),
    (reschedule, 4),
    (transfer, 8),
    (replay, 2),
    (create_schedule, 6),
    (look_at_schedules, 1),
)
