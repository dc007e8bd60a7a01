"""What clients do: one table of actions with weights, and a function for each.

A client does one thing, thinks, does the next; how it weighs them differs from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.sim import feature_work, members, streams, writers
from tests.sim.clients import CLOCK_MS, Client, Held, records_of
from tests.sim.features import TOPIC
from tests.sim.history import LANE
from tests.sim.places import Place

from penstock_protocol.errors import Error, OffsetOutOfRange
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import Range, decode_ranges, encode_ranges

if TYPE_CHECKING:
    from tests.sim.world import World

GROUPS = ("g", "h")
RECONNECT_MS = 20
STUCK_MS = 20_000
"""A message that comes back so late keeps what lies around it from being dropped."""


class Workload:
    """Keeps the clients busy until the run has had its operations."""

    def __init__(self, world: World) -> None:
        self._world = world
        random = world.random
        self._actions = [*ACTIONS, *(feature_work.ACTIONS if world.features.profiles else ())]
        self._actions += writers.ACTIONS if world.streams.names else ()
        self._actions += (*streams.ACTIONS, (members.act, 25)) if world.streams.filtered else ()
        self._weights = [weight * random.choice((0.1, 1, 3)) for _, weight in self._actions]
        for client in world.clients:
            world.soon(world.plan.think_ms, self._think, client)

    def _think(self, client: Client) -> None:
        world = self._world
        if world.calm:
            return
        if client.connected:
            (act,) = world.random.choices([act for act, _ in self._actions], self._weights)
            act(client)
            world.ops_left -= 1
            world.soon(world.plan.think_ms, self._think, client)
            return
        if client.link is None and world.node.up:
            client.connect()
        world.soon(RECONNECT_MS, self._think, client)


def _nothing(reply: Any) -> None:
    """The answer does not matter."""


def _fine(reply: Any) -> dict[str, Any]:
    """There is nothing to be said of the answer."""
    return {}


def _place(client: Client, sort: str) -> Place | None:
    places = client.world.places.alive(sort)
    return client.world.random.choice(places) if places else None


def _queue_names(world: World) -> list[str]:
    return [f"q{number}" for number in range(world.plan.queues)]


# publishing


def enqueue(client: Client) -> None:
    """Publish to a queue that nobody's dead letters go to; those are refused nowhere."""
    place = _place(client, "queue")
    if place is not None and place.takes:
        client.publish(place)


def enqueue_once(client: Client) -> None:
    """Without a sequence."""
    place = _place(client, "queue")
    if place is not None and place.takes:
        client.publish_once(place)


def produce(client: Client) -> None:
    """Publish to a partition."""
    place = _place(client, "log")
    if place is not None:
        client.publish(place)


# queues


def receive(client: Client) -> None:
    """Take some messages, waiting a while; sometimes the wait is cancelled."""
    place, random = _place(client, "queue"), client.world.random
    if place is None:
        return
    wait = random.choice((0, 0, 100, 2_000))
    visibility = random.choice((None, None, 50, 1_000))
    request = q.Receive(place.name, random.choice((1, 3, 20)), wait, visibility)
    correlation = client.operate(
        "receive",
        place,
        request,
        lambda delivery: {"messages": client.messages(place, delivery)},
        wait=wait / 1000,
    )
    if wait and not random.randrange(4):
        client.world.soon(wait / 2, _cancel, client, client.link, correlation)


def _cancel(client: Client, link: object, correlation: int) -> None:
    if client.link is link:
        client.ask(s.Cancel(correlation), _nothing)


def settle(client: Client) -> None:
    """Ack, nack, release or dead-letter some of what somebody holds in one queue."""
    random = client.world.random
    chosen = _some_held(client)
    if not chosen:
        return
    verb = random.choice(("ack", "ack", "ack", "nack", "nack", "release", "dead_letter"))
    if verb == "dead_letter" and chosen[0].place.label.endswith(".dead"):
        verb = "ack"
    payload = _ranges(client, chosen)
    name = chosen[0].place.name
    if verb == "ack":
        _settle(client, verb, chosen, q.Ack(name, payload))
    elif verb == "nack":
        delay = random.choice((None, 0, 200, STUCK_MS))
        seconds = None if delay is None else max(0, delay - CLOCK_MS) / 1000
        _settle(client, verb, chosen, q.Nack(name, q.Outcome.RETRY, delay, None, payload), delay=seconds)
    elif verb == "release":
        _settle(client, verb, chosen, q.Nack(name, q.Outcome.RELEASE, None, None, payload))
    else:
        _settle(client, verb, chosen, q.Nack(name, q.Outcome.DEAD_LETTER, None, "bad", payload))


def extend(client: Client) -> None:
    """More time, or less, for some of what somebody holds."""
    chosen = _some_held(client, keep=True)
    if chosen:
        lease = client.world.random.choice((10, 500, 3_000))
        payload = memoryview(encode_ranges([held.range for held in chosen]))
        request = q.Extend(chosen[0].place.name, lease, payload)
        _settle(client, "extend", chosen, request, lease=(lease - CLOCK_MS) / 1000)


def _settle(client: Client, f: str, chosen: list[Held], request: Any, **asked: Any) -> None:
    def answer(reply: q.Settled) -> dict[str, Any]:
        stale = stale_of(reply)
        client.world.met("stale settle", when=bool(stale["stale"]))
        assert reply.messages + len(stale["stale"]) == len(chosen), (reply, chosen)
        return stale

    messages = [[held.offset, held.token] for held in chosen]
    client.operate(f, chosen[0].place, request, answer, messages=messages, **asked)


def stale_of(reply: q.Settled) -> dict[str, list[list[int]]]:
    """What of a settle was stale, for the history."""
    ranges = decode_ranges(memoryview(reply.payload))
    return {
        "stale": [
            [item.partition * LANE + item.first + i, item.token]
            for item in ranges
            for i in range(item.messages)
        ]
    }


def _some_held(client: Client, *, keep: bool = False) -> list[Held]:
    random = client.world.random
    owner = client if random.random() < 0.9 else random.choice(client.world.clients)
    if not owner.held:
        return []
    place = random.choice(owner.held).place
    likely = random.choice((0.3, 1.0))
    chosen = [held for held in owner.held if held.place is place and random.random() < likely]
    forget = set() if keep else set(chosen)
    if not keep and not random.randrange(10):
        forget = set()  # to be settled again, late
    owner.held = [held for held in owner.held if held not in forget]
    return chosen


def _ranges(client: Client, chosen: list[Held]) -> memoryview:
    """Settle ranges: a message each, or runs put together."""
    merge = client.world.random.random() < 0.5
    ranges: list[Range] = []
    for held in chosen:
        last, item = ranges[-1] if ranges else None, held.range
        if merge and last and last._replace(first=last.first + last.messages, messages=1) == item:
            ranges[-1] = last._replace(messages=last.messages + 1)
        else:
            ranges.append(item)
    return memoryview(encode_ranges(ranges))


def consume(client: Client) -> None:
    """Have messages pushed."""
    place = _place(client, "queue")
    if place is not None and len(client.subscriptions) < 3:
        client.consume(place)


def credit(client: Client) -> None:
    """Let more be pushed."""
    if client.subscriptions:
        number = client.world.random.choice(list(client.subscriptions))
        client.ask(q.Credit(number, client.world.random.choice((1, 5))), _nothing)


def stop(client: Client) -> None:
    """Have nothing pushed any more."""
    if client.subscriptions:
        number = client.world.random.choice(list(client.subscriptions))

        def reply(answer: Any) -> None:
            if not isinstance(answer, Error):  # a node that stops refuses, and pushes what is on its way
                client.subscriptions.pop(number, None)

        client.ask(q.Stop(number), reply, begin=_parting(client))


def purge(client: Client) -> None:
    """Throw away what nobody holds; dead letters are kept, to be looked for at the end."""
    place = _place(client, "queue")
    if place is not None and "#" in place.label:
        client.operate("purge", place, q.Purge(place.name), _fine)


def peek(client: Client) -> None:
    """Look at messages without taking them."""
    place, random = _place(client, "queue"), client.world.random
    if place is None:
        return

    def reply(found: Any) -> None:
        if not isinstance(found, Error):
            values = [value for _, value in records_of(found)]
            assert None not in values, f"wrong bytes in {place}"

    state = random.choice(("ready", "delayed", "in_flight", "waiting"))
    client.ask(q.Peek(place.name, random.choice((1, 100)), state), reply, place)


# topics and groups


def fetch(client: Client) -> None:
    """Read on where it was, or anywhere."""
    place, random = _place(client, "log"), client.world.random
    if place is None:
        return
    reached = client.positions.get(place, 0)
    offset = reached if random.random() < 0.7 else random.randrange(reached + 3)
    wait = random.choice((0, 0, 300, 2_000))
    in_parts = wait == 2_000

    def answer(fetched: t.Fetched) -> dict[str, Any]:
        client.positions[place] = fetched.next
        return {"records": records_of(fetched), "start": fetched.start, "end": fetched.end}

    def out_of_range(error: Error) -> None:
        if isinstance(error, OffsetOutOfRange):
            client.positions[place] = error.detail["start"]

    size = random.choice((1, 2_000, 1 << 20))
    records = random.choice((1, 10, 500))
    request = t.Fetch(place.name, place.number, offset, records, size, wait, None, in_parts)
    correlation = client.operate("fetch", place, request, answer, refused=out_of_range, offset=offset)
    if in_parts and not random.randrange(4):
        client.world.soon(wait / 2, _cancel, client, client.link, correlation)


def end(client: Client) -> None:
    """Where a partition ends."""
    place = _place(client, "log")
    if place is not None:
        request = t.Offset(place.name, place.number, t.At.LATEST)
        client.operate("end", place, request, lambda reply: {"end": reply.offset})


def offset_at(client: Client) -> None:
    """Which offset a time has: it lies within the partition."""
    place, world = _place(client, "log"), client.world
    if place is None:
        return
    time = world.clock.now().wall - world.random.randrange(10_000)

    def reply(found: Any) -> None:
        assert isinstance(found, Error) or found.offset >= 0

    client.ask(t.Offset(place.name, place.number, t.At.TIME, time), reply, place)


def commit(client: Client) -> None:
    """Store an offset, now and then one that does not exist."""
    place, random = _place(client, "log"), client.world.random
    if place is None:
        return
    offset = random.randrange(client.positions.get(place, 0) + 1) if random.random() < 0.9 else 10**6
    group = random.choice(GROUPS)
    request = t.Commit(group, place.name, ((place.number, offset, "m"),))
    client.operate("commit", place, request, _fine, group=group, offset=offset, generation=0)


def committed(client: Client) -> None:
    """Read an offset back."""
    place = _place(client, "log")
    if place is None:
        return
    group = client.world.random.choice(GROUPS)

    def answer(document: Any) -> dict[str, Any]:
        found = {row[0]: row[1] for row in unpack_document(document.payload)}
        return {"offset": found.get(place.number)}

    client.operate("committed", place, t.Offsets(group, place.name), answer, group=group)


# administration


def create(client: Client) -> None:
    """Create something that does not exist."""
    world, random = client.world, client.world.random
    names = {place.name for place in world.places.by_uuid.values() if place.alive}
    if TOPIC not in names and random.random() < 0.5:
        limit = random.choice((None, 3_000, 50_000))
        client.ask(
            t.CreateTopic(TOPIC, {"partitions": 2, "retention": None, "retention_bytes": limit}, "keep"),
            _created(client),
        )
        return
    missing = [
        name for queue in _queue_names(world) for name in (queue, f"{queue}.dead") if name not in names
    ]
    if not missing:
        return
    name = random.choice(missing)
    if name.endswith(".dead"):
        limits = {"max_attempts": None, "max_deliveries": None, "dead_letter": None}
        settings = {**limits, "max_messages": random.choice((2, 1_000)), "visibility_timeout": 300}
    else:
        settings = {
            "max_attempts": random.choice((1, 2, 5, None)),
            "max_deliveries": random.choice((2, 8, 50)),
            "visibility_timeout": random.choice((100, 500, 2_000)),
            "retry_initial": random.choice((0, 50)),
            "retry_max": 400,
            "max_messages": random.choice((20, 10_000)),
            "keep_settled": random.choice((None, 300)),
            "dead_letter": f"{name}.dead",
        }
    client.ask(q.CreateQueue(name, settings, "keep"), _created(client))


def _created(client: Client) -> Callable[[Any], None]:
    def reply(document: Any) -> None:
        if isinstance(document, Error):
            return
        said = unpack_document(document.payload)
        rows = said.get("partitions", [said])
        for row in rows:
            client.world.places.by_uuid[row["uuid"]].created = True

    return reply


def delete(client: Client) -> None:
    """Delete a queue or topic; dead-letter queues stay."""
    places = client.world.places
    place = _place(client, client.world.random.choice(("queue", "log")))
    if place is None or "#" not in place.label:
        return
    same = [
        other for other in places.by_uuid.values() if other.label.split("/")[0] == place.label.split("/")[0]
    ]

    def begin() -> None:
        for other in same:
            other.deleting = True

    def reply(answer: Any) -> None:
        for other in same:
            other.deleted = not isinstance(answer, Error)

    request = q.DeleteQueue(place.name) if place.sort == "queue" else t.DeleteTopic(place.name)
    client.ask(request, reply, place, begin)


def alter(client: Client) -> None:
    """Change how much a queue takes."""
    place = _place(client, "queue")
    if place is not None:
        settings = {"max_messages": client.world.random.choice((3, 50, 10_000))}
        client.ask(q.AlterQueue(place.name, settings), _nothing, place)


def look(client: Client) -> None:
    """List and describe."""
    client.ask(q.ListQueues("", "", 100), _nothing)
    client.ask(t.ListTopics("", "", 100), _nothing)
    client.ask(t.ListGroups("", "", 100), _nothing)
    client.ask(t.DescribeGroup(client.world.random.choice(GROUPS)), _nothing)


def leave(client: Client) -> None:
    """Say goodbye; the node closes the link."""
    client.ask(s.Goodbye(), _nothing, begin=_parting(client))


def _parting(client: Client) -> Callable[[], None]:
    """From now on what was about to be pushed to the client goes to others."""
    return lambda: client.recorder.note("disconnect")


ACTIONS: tuple[tuple[Callable[[Client], None], float], ...] = (
    (enqueue, 10),
    (enqueue_once, 2),
    (produce, 5),
    (receive, 10),
    (settle, 14),
    (extend, 1.5),
    (consume, 2),
    (credit, 5),
    (stop, 0.5),
    (purge, 0.2),
    (peek, 1),
    (fetch, 4),
    (end, 1),
    (offset_at, 0.5),
    (commit, 2),
    (committed, 2),
    (members.act, 6),
    (create, 3),
    (delete, 0.3),
    (alter, 0.3),
    (look, 0.5),
    (leave, 0.3),
)
