"""One socket: bytes in → requests to the core, outputs of the core → bytes out.

    made ──HELLO──► greeted ──closed by either side──► parting ──all sent──► gone
      └── refused, or waited too long in any state ────────────────────────────▲

Invariants: all sockets read into one buffer, whose bytes are valid only while they are handed in; no task
and no timer per connection, but `due`, at which the listener looks again; from a peer that does not read,
nothing more is read. What a request means, the core knows.
"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import structlog

from penstock_broker.clock import stopwatch
from penstock_broker.outputs import Send
from penstock_broker.server.assembly import LARGE_BYTES
from penstock_broker.session import Connection
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import BadFrame, Busy, Error, ProtocolError
from penstock_protocol.limits import (
    FRAME_SECONDS_MAX,
    HELLO_SECONDS_MAX,
    MIB,
    PING_AFTER_SECONDS,
    SILENCE_SECONDS_MAX,
)
from penstock_protocol.link import Link, Received, Role, State
from penstock_protocol.messages.session import Ping
from penstock_protocol.verbs import BY_REQUEST

if TYPE_CHECKING:
    from penstock_broker.server.listener import Listener

WRITE_BYTES_MAX = MIB
"""Unsent bytes above which the core hands out nothing more with payload to a peer."""
STUCK_MS = 30_000
"""A peer above that mark, or one that is parting, takes something within this time or is dropped."""
HELLO_MS = round(HELLO_SECONDS_MAX * 1000)
FRAME_MS = round(FRAME_SECONDS_MAX * 1000)
PING_MS = round(PING_AFTER_SECONDS * 1000)
ANSWER_MS = round(SILENCE_SECONDS_MAX * 1000) - PING_MS
PING = BY_REQUEST[Ping]
PING_CORRELATION = 1
"""The broker asks for nothing else, so one number will do."""

log = structlog.get_logger()


class Peer(asyncio.BufferedProtocol):
    """The other end of one socket. Instants are monotonic ms; None: it is not so."""

    def __init__(self, listener: "Listener", buffer: memoryview) -> None:
        self._listener = listener
        self._turns = listener.turns
        self._meters = listener.meters
        self._buffer = buffer
        self._link = Link(Role.SERVER)
        self._asked: dict[int, float] = {}
        """Correlation → stopwatch at the arrival of a request that has no reply yet."""
        self._transport = cast(asyncio.Transport, None)
        self._connection: Connection | None = None
        self._greeted = False
        self._parting = False
        self._opened = self._heard = self._turns.now.mono
        self._begun: int | None = None
        self._pinged: int | None = None
        self._stuck: int | None = None
        self._unsent = 0
        self._assembled = 0
        """Bytes of the large frame that room was asked for."""
        self._waiting = False
        """Nothing is read until there is room for that frame."""
        self.host = "unknown"
        self.due = self._opened + HELLO_MS

    # ---- From the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there; it is refused before anything is spent on it if there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        self.host = (transport.get_extra_info("peername") or ("unknown",))[0]
        reached = self._listener.admit(self)
        if reached is not None:
            hint = f"close connections that are not needed, or raise `server.{reached}`"
            self._refuse(reached, Busy("the broker takes no more connections now", hint=hint))
            return
        self._transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self._connection = self._turns.core.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._parting = True
        self._listener.assembly.give(self)
        self._listener.forget(self, greeted=self._greeted)
        if self._connection is not None:
            self._turns.call(self._turns.core.disconnected, self._connection)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the event loop reads to: the one buffer of the node."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` were read: hand in every message they complete."""
        completed = False
        arrived = stopwatch()
        try:
            for received in self._link.receive(self._buffer[:nbytes]):
                completed = True
                self._hand_in(received, arrived)
        except ProtocolError as error:
            self._refuse("bad_frame", BadFrame(str(error)))
            return
        self._note_heard(completed)
        awaited = self._link.awaited
        if self._assembled or awaited > LARGE_BYTES:
            self._assemble(awaited)

    def eof_received(self) -> None:
        """The peer has said all it will say; the event loop closes the socket behind what is unsent."""
        self._part()

    def pause_writing(self) -> None:
        """The peer reads more slowly than it is given."""
        self._begin_stuck()
        self._transport.pause_reading()
        if self._connection is not None:
            self._turns.call(self._turns.core.blocked, self._connection, True)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self._parting:
            return
        self._stuck = None
        if not self._waiting:
            self._transport.resume_reading()
        self._note_heard(completed=True)
        if self._connection is not None:
            self._turns.call(self._turns.core.blocked, self._connection, False)

    def resume(self) -> None:
        """There is room for the large frame that has begun: read on."""
        self._waiting = False
        if self._stuck is None and not self._parting:
            self._transport.resume_reading()
            self._note_heard(completed=True)

    # ---- From the core, by way of a turn

    def send(self, sends: list[Send], moment: float) -> None:
        """Write these, in order, at once. `moment`: the stopwatch now."""
        if self._parting:
            return
        buffers: list[Buffer] = []
        for _, verb, correlation, message, is_last in sends:
            if verb.pushed:
                buffers += self._link.request(message, 0)
                continue
            buffers += self._link.reply(verb, correlation, message, is_last=is_last)
            if is_last:
                code = (message.code or BadFrame.code) if isinstance(message, Error) else 0
                self._meters.requests[verb.code, code] += 1
            arrived = self._asked.pop(correlation, None)
            if arrived is not None:
                self._meters.request_seconds[verb.code].observe(moment - arrived)
        self._transport.writelines(buffers)

    def close(self, reason: str) -> None:
        """Close behind what was written, because the core says so."""
        if not self._parting:
            log.debug("connection_closed", host=self.host, reason=reason)
            self._part()

    # ---- From the listener

    def look(self, mono: int) -> None:
        """Judge how long things have lasted, at `due` or later; sets the next `due`."""
        if self._stuck is not None:
            self._note_progress(mono)
        late = next((why for since, limit, why in self._waits() if since + limit <= mono), None)
        if late == "quiet":
            self._pinged = mono
            self._transport.writelines(self._link.request(Ping(), PING_CORRELATION))
        elif late is not None:
            self.drop(late)
        self.due = min(since + limit for since, limit, _ in self._waits())

    def drop(self, reason: str) -> None:
        """End the connection at once; what is unsent is lost."""
        self._listener.count_drop(self.host, reason)
        self._transport.abort()

    def part(self) -> None:
        """Close behind what was written, because the node stops."""
        if not self._parting:
            self._part()

    # ---- How long things may last

    def _waits(self) -> Iterator[tuple[int, int, str]]:
        """Since when, how long it may last, what it is."""
        if self._stuck is not None:
            yield self._stuck, STUCK_MS, "stuck"
            return
        if not self._greeted:
            yield self._opened, HELLO_MS, "no_hello"
        if self._begun is not None and not self._waiting:
            yield self._begun, FRAME_MS, "unfinished_frame"
        if self._pinged is None:
            yield self._heard, PING_MS, "quiet"
        else:
            yield self._pinged, ANSWER_MS, "silent"

    def _note_heard(self, completed: bool) -> None:
        self._heard = self._turns.now.mono
        self._pinged = None
        if not self._link.partial:
            self._begun = None
        elif completed or self._begun is None:
            self._begun = self._heard
        if not self._greeted and self._link.state is State.OPEN:
            self._greeted = True
            self._listener.greeted(self)

    def _note_progress(self, mono: int) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._stuck, self._unsent = mono, unsent

    def _begin_stuck(self) -> None:
        self._stuck = self._turns.now.mono
        self._unsent = self._transport.get_write_buffer_size()
        self.due = min(self.due, self._stuck + STUCK_MS)

    # ---- Steps

    def _assemble(self, awaited: int) -> None:
        """Room for a large frame is taken when it begins, and given back when it is whole."""
        if awaited == self._assembled:
            return
        self._assembled = awaited if awaited > LARGE_BYTES else 0
        self._listener.assembly.give(self)
        if self._assembled and not self._listener.assembly.take(self, awaited):
            self._waiting = True
            self._transport.pause_reading()

    def _hand_in(self, received: Received, arrived: float) -> None:
        verb, correlation, message, is_reply, _ = received
        if is_reply or self._connection is None:
            return  # the answer to our PING
        if verb.reply is not None:
            self._asked[correlation] = arrived
        self._turns.call(self._turns.core.handle, self._connection, verb, correlation, message)

    def _refuse(self, reason: str, error: Error) -> None:
        self._listener.count_drop(self.host, reason, error=error.message)
        self._transport.writelines(self._link.reply(PING, 0, error))
        self._part()

    def _part(self) -> None:
        self._parting = True
        self._begin_stuck()
        self._transport.close()
