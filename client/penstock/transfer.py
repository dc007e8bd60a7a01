"""Looking for messages by what they are, and moving many of them: redrive, replay, move.

Moving goes in steps: the broker moves a bounded number in one entry each, from a cursor on, and says where to
go on. So it may end half-way, with every message in one place or the other. The pace is kept here: a step is
sent when the messages before it have had their time.

A step whose socket was lost may have been done. To move again is harmless: what was moved is not there any
more. To copy again is not, and neither is to exceed a limit: then the outcome is unknown, and who asks again
goes on from the same cursor.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from penstock import checks
from penstock.errors import Invalid, NotFound, OutcomeUnknown, Refused
from penstock.message import Message
from penstock.outgoing import delay_ms, ms_until
from penstock.runs import place_of
from penstock.settle import capped
from penstock.values import Duration, Explanation, Header, Redriven, StoryLine, instant_of, ms_at, shown
from penstock_protocol.errors import OutcomeUnknown as WireOutcomeUnknown
from penstock_protocol.limits import FIND_MESSAGES_MAX, HEADERS_BYTES_MAX
from penstock_protocol.messages.queues import HERE, PARTITION, Explain, Find, Reschedule, Transfer
from penstock_protocol.messages.schema import unpack_document

if TYPE_CHECKING:
    from penstock.operations import QueueOperations
    from penstock.queue import Queue

T = TypeVar("T")

STEP_MESSAGES_MAX = 1_000
STEPS_A_SECOND = 10
"""With a rate, steps are so small that there are at least that many a second."""
MOVABLE = ("ready", "delayed", "waiting")
STATES = (*MOVABLE, "settled")
RATES = (0.001, 1_000_000)
"""Messages a second, from and to: those of a queue."""
INSTANTS = ("enqueued_at", "due")
"""Facts that are ms since 1970 on the wire."""


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A message that was found, and its state."""

    state: str
    message: Message[T]


def condition(
    *,
    id: str | None = None,
    reason: str | None = None,
    header: tuple[str, Header] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[str, Any]:
    """Which messages are meant, in the wire's words. A reason is cut as it was when it was given. Raises
    `Invalid`."""
    where: dict[str, Any] = {}
    if id is not None:
        where["id_log"], where["id_offset"] = place_of(id)
    if reason is not None:
        where["reason"] = capped(reason)
    if header is not None:
        _check_header(header)
        where["header"], where["value"] = header
    if since is not None:
        where["since"] = ms_at(since, "since")
    if until is not None:
        where["until"] = ms_at(until, "until")
    return where


def _check_header(header: object) -> None:
    if not isinstance(header, tuple) or len(header) != 2:
        raise Invalid(f"header={shown(header)} is no pair", hint='pass (name, value), like ("user", 42)')
    name, value = header
    checks.text("header", name)
    scalar = isinstance(value, str | bytes | float | None) or (
        isinstance(value, int) and -(2**63) <= value < 2**64
    )
    if not scalar or (isinstance(value, str | bytes) and len(value) > HEADERS_BYTES_MAX):
        raise Invalid(
            f"header={shown(header)}: no message has that", hint="a value is text, bytes, a number or None"
        )
    if isinstance(value, str):
        checks.text("header", value)


def no_target(to: object) -> Invalid:
    """The error for what is no queue to move messages to."""
    return Invalid(f"to={shown(to)} is no queue", hint="pass the name of a queue, or its handle")


def _name_of(to: object) -> str:
    name = to if isinstance(to, str) else getattr(to, "name", None)
    if not isinstance(name, str):
        raise no_target(to)
    return checks.name("to", name)


# Looking


async def find(
    queue: "QueueOperations[T]", where: dict[str, Any], limit: int, timeout: float | None
) -> list[Found[T]]:
    """See `Queue.find`."""
    checks.whole("limit", limit)
    found: list[Found[T]] = []
    cursor: int | None = 0
    while cursor is not None and len(found) < limit:
        most = min(limit - len(found), FIND_MESSAGES_MAX)
        reply = await queue.client.wire.request(Find(queue.name, most, cursor, where), timeout=timeout)
        messages = (Message(run, index) for run in queue.runs(reply) for index in range(run.stamps.messages))
        found += [Found(state, message) for state, message in zip(reply.states, messages, strict=True)]
        cursor = reply.next
    return found


async def explain(
    queue: "QueueOperations[Any]", id: str, timeout: float | None, *, story: bool = False
) -> dict[str, Any]:
    """What the broker says about one message."""
    try:
        reply = await queue.client.wire.request(Explain(queue.name, *place_of(id), story), timeout=timeout)
    except NotFound as error:
        there = await _look_for(queue, id, timeout) if error.detail.get("find") else None
        if there is None:
            raise
        reply = await queue.client.wire.request(Explain(queue.name, HERE, there, story), timeout=timeout)
    document: dict[str, Any] = unpack_document(reply.payload)
    return document


async def _look_for(queue: "QueueOperations[Any]", id: str, timeout: float | None) -> int | None:
    """Where in the queue the message is, as a cursor. The broker knows the ids of messages that came from
    elsewhere while they lie in its journal; later their bytes tell, which are read a part at a time."""
    found = await find(queue, condition(id=id), FIND_MESSAGES_MAX, timeout)
    alive = [each.message for each in found if each.state != "settled"] or [each.message for each in found]
    return alive[0].partition * PARTITION + alive[0].offset if alive else None


def explanation(document: Mapping[str, Any]) -> Explanation:
    """Why it is where it is, of what the broker says."""
    facts = {
        name: instant_of(value) if name in INSTANTS and value is not None else value
        for name, value in document["facts"].items()
    }
    return Explanation(document["state"], tuple(document["reasons"]), facts)


def story(document: Mapping[str, Any]) -> list[StoryLine]:
    """What happened to it, of what the broker says."""
    return [StoryLine(instant_of(ms), what, detail or "") for ms, what, detail in document["story"]]


# Moving


def instant(queue: "QueueOperations[Any]", delay: Duration | None, at: datetime | None) -> int:
    """When a message shall be ready, ms since 1970; 0: now. Raises `Invalid`."""
    if (delay is None) is (at is None):
        raise Invalid("a message is rescheduled by delay or by at", hint="pass one of them")
    now_ms = queue.client.wire.now_ms
    if at is not None:
        return ms_until(at, now_ms)
    ms = 0 if delay is None else delay_ms(delay)
    return now_ms() + ms if ms else 0


async def reschedule(queue: "QueueOperations[Any]", id: str, at: int | None, timeout: float | None) -> bool:
    """See `Queue.reschedule`. `at` None: it is gone."""
    again = asyncio.Event()
    request = Reschedule(queue.name, *place_of(id), at)
    reply = await queue.client.wire.request(request, timeout=timeout, on_resend=again.set)
    document = unpack_document(reply.payload)
    if document.get("find") and (there := await _look_for(queue, id, timeout)) is not None:
        request = Reschedule(queue.name, HERE, there, at)
        reply = await queue.client.wire.request(request, timeout=timeout, on_resend=again.set)
        document = unpack_document(reply.payload)
    found: bool = document["found"]
    if at is None and not found and again.is_set():
        raise OutcomeUnknown(
            f"the connection was lost while {id} was cancelled: it was, or there was none",
            repeat=lambda: reschedule(queue, id, at, timeout),
        )
    return found


class Transferring:
    """One redrive, replay or move. `to` None: where each died. Raises `Invalid` for what cannot be."""

    def __init__(
        self,
        queue: "QueueOperations[Any]",
        to: "str | Queue[Any] | None",
        state: str,
        where: dict[str, Any],
        limit: int | None,
        rate: float | None,
        dry_run: bool,
        timeout: float | None,
    ) -> None:
        checks.choice("state", state, STATES)
        if limit is not None:
            checks.whole("limit", limit)
        if rate is not None:
            checks.number("rate", rate, *RATES)
        checks.flag("dry_run", dry_run)
        self._queue = queue
        self._to = None if to is None else _name_of(to)
        self._state = state
        self._where = where
        self._limit = limit
        self._rate = None if dry_run else rate
        self._dry = dry_run
        self._timeout = timeout
        self._cursor: int | None = 0
        self._messages = 0
        self._bytes = 0
        self._begun = 0.0
        self._once = not dry_run and (state == "settled" or limit is not None)
        """A step that may have been done is not repeated unasked."""

    async def run(self) -> Redriven:
        """Do it; called again, go on with it."""
        self._begun = asyncio.get_running_loop().time() - self._time_of(self._messages)
        try:
            while self._cursor is not None and self._messages != self._limit:
                await self._step(self._cursor)
        except WireOutcomeUnknown as error:
            raise OutcomeUnknown(self._told(error.message), repeat=self.run) from None
        except Refused as error:
            error.message = self._told(error.message)
            raise
        return Redriven(self._messages, self._bytes)

    async def _step(self, cursor: int) -> None:
        await self._in_time()
        most = STEP_MESSAGES_MAX
        if self._rate is not None:
            most = min(most, ceil(self._rate / STEPS_A_SECOND))
        if self._limit is not None:
            most = min(most, self._limit - self._messages)
        reply = await self._queue.client.wire.request(
            Transfer(self._queue.name, self._to, self._state, most, cursor, self._where, self._dry),
            timeout=self._timeout,
            on_resend=self._doubt if self._once else None,
        )
        document = unpack_document(reply.payload)
        self._messages += document["messages"]
        self._bytes += document["bytes"]
        self._cursor = document["next"]

    async def _in_time(self) -> None:
        due = self._begun + self._time_of(self._messages)
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    def _time_of(self, messages: int) -> float:
        return messages / self._rate if self._rate is not None else 0.0

    def _doubt(self) -> None:
        raise WireOutcomeUnknown(f"the connection was lost while messages of {self._queue.name!r} were moved")

    def _told(self, message: str) -> str:
        return f"{message}; {self._messages:,} messages were moved before" if self._messages else message
