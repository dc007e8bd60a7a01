"""What a broker shows of a damaged disk: everything that can be read, and which offsets it says cannot.

`observed` asks as a user would look; where that meets damage, messages are received and records fetched one
reply at a time, over each damaged range, so that nothing hides behind it.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.storage_faults.expected import QUEUE, Place, State
from tests.storage_faults.life import Life
from tests.storage_faults.observed import Unreadable, observed, records

from penstock_protocol.errors import Corrupt
from penstock_protocol.limits import FRAME_BYTES_MAX, RECEIVE_MESSAGES_MAX
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t

RETRIES_OVER_MS = 3_600_000
"""By then every message that failed is ready again."""
REPLIES_MAX = 1_000

Found = dict[int, bytes]


@dataclass
class Survey:
    """Bodies by offset, and offsets that are said to be damaged, by place."""

    found: dict[Place, Found] = field(default_factory=dict)
    damaged: dict[Place, set[int]] = field(default_factory=lambda: defaultdict(set))


def surveyed(life: Life, again: Callable[[], Life], wanted: State) -> Survey | State:
    """The state, if all of it can be read, else a survey of the places that should be there, by another life:
    what the first one could not read, it has set aside."""
    try:
        return observed(life)
    except (Corrupt, Unreadable):
        pass
    survey, life = Survey(), again()
    life.clock.advance(RETRIES_OVER_MS)
    life.idle()
    for name in wanted.queues:
        survey.found[name, QUEUE] = _received(life, name, survey.damaged[name, QUEUE])
    for name, partitions in wanted.topics.items():
        for number, partition in enumerate(partitions):
            place = name, number
            survey.found[place] = _fetched(life, place, partition.start, partition.end, survey.damaged[place])
    return survey


def _received(life: Life, name: str, damaged: set[int]) -> Found:
    found: Found = {}
    for _ in range(REPLIES_MAX):
        (reply,) = life.ask(q.Receive(name, RECEIVE_MESSAGES_MAX, 0))
        if isinstance(reply, Corrupt):
            damaged.update(_range(reply))
            continue
        delivered = records(_given(reply))
        if not delivered:
            return found
        found.update({offset: body for offset, body, _ in delivered})
    raise AssertionError(f"{name} never comes to an end")


def _fetched(life: Life, place: Place, start: int, end: int, damaged: set[int]) -> Found:
    found: Found = {}
    at = start
    for _ in range(REPLIES_MAX):
        if at >= end:
            return found
        (reply,) = life.ask(t.Fetch(*place, at, RECEIVE_MESSAGES_MAX, FRAME_BYTES_MAX, 0))
        if isinstance(reply, Corrupt):
            damaged.update(_range(reply))
            at = max(_range(reply)) + 1
            continue
        for offset, body, _ in records(_given(reply)):
            found[offset] = body
            at = offset + 1
    raise AssertionError(f"{place} never comes to an end")


def _range(error: Corrupt) -> range:
    first = error.detail["first"]
    return range(first, first + error.detail["messages"])


def _given(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def hidden(survey: Survey, wanted: State) -> list[str]:
    """What the survey does not account for: bodies that are wrong or made up, and offsets that are neither
    shown nor said to be damaged."""
    bodies: dict[Place, Found] = {
        (name, QUEUE): {at: message.body for at, message in queue.messages.items()}
        for name, queue in wanted.queues.items()
    }
    for name, partitions in wanted.topics.items():
        bodies.update({(name, number): each.records for number, each in enumerate(partitions)})
    said = []
    for place, should in bodies.items():
        found, damaged = survey.found[place], survey.damaged[place]
        said += [f"{place} {at}: {body[:20]!r}" for at, body in found.items() if should.get(at) != body]
        said += [f"{place} {at} is missing" for at in should if at not in found and at not in damaged]
    return said
