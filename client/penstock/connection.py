"""The way to the broker: one socket at a time, opened again when it is lost, and requests that outlive it.

`Socket` is one connection from handshake to loss: frames, correlations, silence. `Wire` is what the rest of
the client talks to: it connects, repeats what the loss of a socket interrupted until the caller's time is
up, and turns the end of that time into the right error.

Invariants: every request posted on a socket gets exactly one answer, which is None when the socket is lost
first. An answer that nobody waits for any more goes to `on_late`, so that no lease is forgotten. What is
buffered here is bounded by publish credit and by requests in flight. Neither class knows what a queue is.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from random import Random
from typing import Any, TypeAlias, cast

from penstock import checks, retry
from penstock.endpoint import Endpoint
from penstock.errors import ClientClosed, Disconnected, Error, OutcomeUnknown, Timeout
from penstock.events import ConnectFailed, ConnectionLost, Event, Reconnected
from penstock_protocol import WIRE_VERSION
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import ProtocolError, Unsupported
from penstock_protocol.limits import HELLO_SECONDS_MAX, PING_AFTER_SECONDS, PRODUCER_ID_NAMED_MIN
from penstock_protocol.link import Link, Received, Role
from penstock_protocol.messages.queues import Deliver
from penstock_protocol.messages.session import MAGIC, Cancel, Goodbye, Hello, Ping, Pong, Welcome

log = logging.getLogger("penstock")

OnReply: TypeAlias = Callable[[Any], None]
"""Called once: with the reply, with the `Error` it was, or with None when the socket was lost first."""

CORRELATION_MAX = 2**32 - 1


class Socket(asyncio.Protocol):
    """One connection. `on_push` gets what the broker sends unasked; `on_lost` why it ended."""

    def __init__(self, on_push: Callable[[Any], None], on_lost: Callable[["Socket", str], None]) -> None:
        self._on_push = on_push
        self._on_lost = on_lost
        self._link = Link(Role.CLIENT)
        self._replies: dict[int, OnReply] = {}
        self._parts: dict[int, OnReply] = {}
        """Who gets what comes before the reply that is the last."""
        self._correlation = 0
        self._heard = 0.0
        self._ping_after = PING_AFTER_SECONDS
        self._silence: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._why = "the broker closed the connection"
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the socket is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def post(self, message: Any, on_reply: OnReply, on_part: OnReply | None = None) -> int:
        """Send a request; the correlation id that `cancel` takes. `on_part` gets the replies but the last of
        one that is answered in parts."""
        correlation = self._correlation = self._correlation % CORRELATION_MAX + 1
        buffers = self._link.request(message, correlation)  # first: what cannot be sent is not waited for
        self._replies[correlation] = on_reply
        if on_part is not None:
            self._parts[correlation] = on_part
        self._write(buffers)
        return correlation

    def send(self, message: Any) -> None:
        """Send what has no reply."""
        self._write(self._link.request(message, 0))

    def cancel(self, correlation: int) -> None:
        """Ask the broker to end the wait of that request now; its reply comes all the same."""
        if correlation in self._replies:
            self.send(Cancel(correlation))

    def watch_silence(self, ping_after: float) -> None:
        """From now on PING after that many seconds without a byte, and give up after twice as many."""
        self._ping_after = ping_after
        self._heard = asyncio.get_running_loop().time()
        self._check_silence()

    def drop(self, why: str) -> None:
        """End the connection at once."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection behind what was sent."""
        self._why = "the client was closed"
        if self._transport is not None:
            self._transport.close()

    def _write(self, buffers: list[Buffer]) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():  # else `connection_lost` comes next, and answers
            self._transport.writelines(buffers)

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        try:
            for received in self._link.receive(data):
                self._received(received)
        except ProtocolError as error:
            self.drop(f"the broker broke the protocol: {error}")

    def _received(self, received: Received) -> None:
        if received.is_reply:
            on_reply = self._on_reply(received.correlation, received.is_last)
            if on_reply is None:
                raise ProtocolError(f"reply to request {received.correlation}, which is not open")
            on_reply(received.message)
        elif isinstance(received.message, Ping):
            self._write(
                self._link.reply(received.verb, received.correlation, Pong(round(time.time() * 1000)))
            )
        elif isinstance(received.message, Error):
            raise ProtocolError(received.message.message)
        else:
            self._on_push(received.message)

    def _on_reply(self, correlation: int, is_last: bool) -> OnReply | None:
        if not is_last:
            return self._parts.get(correlation)
        if self._parts:
            self._parts.pop(correlation, None)
        return self._replies.pop(correlation, None)

    def _check_silence(self) -> None:
        loop = asyncio.get_running_loop()
        silence = loop.time() - self._heard
        if silence >= 2 * self._ping_after:
            self.drop(f"the broker was silent for {silence:.0f} s")
            return
        look_at = self._ping_after
        if silence >= self._ping_after:
            self.post(Ping(), lambda pong: None)
            look_at = 2 * self._ping_after
        self._silence = loop.call_later(look_at - silence, self._check_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        if self._transport is None:
            return
        self._transport = None
        replies, self._replies = self._replies, {}
        self._parts.clear()
        self._on_lost(self, str(exc) if exc else self._why)
        for on_reply in replies.values():
            on_reply(None)
        self.gone.set_result(None)


class Wire:
    """The client's connection, whichever socket it is at the moment.

    `limits`: of the last WELCOME. `producer_id` is claimed by each HELLO. `timeout`: seconds a call may
    take unless it says otherwise. All of it belongs to one event loop.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        random: Random,
        name: str = "",
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.limits: dict[str, Any] = {}
        self.welcome: Welcome | None = None
        self.connections = 0
        """How many handshakes there were; as long as it is the same, the socket is."""
        self.timeout = timeout
        self.producer_id = random.randrange(1, PRODUCER_ID_NAMED_MIN)
        self._session = random.randbytes(16)
        self._random = random
        self._name = name
        self._tls = tls
        self._on_event = on_event
        self._endpoints: Iterator[Endpoint] = cycle(endpoints)
        self._socket: Socket | None = None
        self._up = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False
        self._last_failure = "no connection was tried yet"
        self._on_connected: list[Callable[[], None]] = []
        self._subscriptions: dict[int, tuple[Callable[[Deliver], None], Callable[[], None]]] = {}
        self._last_subscription = 0
        self._welcomed = 0.0
        """When (loop time) the last WELCOME came."""

    @property
    def connected(self) -> bool:
        """There is a socket, and its handshake is done."""
        return self._socket is not None

    @property
    def closed(self) -> bool:
        """`close` was called."""
        return self._closed

    def now_ms(self) -> int:
        """About what the wall clock of the broker says, whatever this machine's does: ms since 1970. It is
        behind by what WELCOME was under way; `broker_time` asks."""
        if self.welcome is None:
            return round(time.time() * 1000)
        return self.welcome.time + round((asyncio.get_running_loop().time() - self._welcomed) * 1000)

    # Life

    async def open(self, timeout: float) -> None:
        """Connect for the first time, trying each endpoint in turn until `timeout` seconds are over.

        Raises `Disconnected`, or at once what the broker refuses for good (`Unauthenticated`, …).
        """
        try:
            async with asyncio.timeout(timeout):
                await self._connect(give_up=True)
        except TimeoutError:
            raise Disconnected(f"no connection within {timeout:g} s: {self._last_failure}") from None

    async def close(self, timeout: float) -> None:
        """Say goodbye and end the connection; waiting requests raise `ClientClosed`. Never raises."""
        self._closed = True
        self._up.set()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        socket = self._socket
        if socket is None:
            return
        try:
            socket.post(Goodbye(), lambda reply: socket.close())
            await asyncio.wait([socket.gone], timeout=timeout)
        finally:
            socket.drop("the client was closed")

    def on_connected(self, call: Callable[[], None]) -> None:
        """Call it after every handshake, before any waiting request is sent."""
        self._on_connected.append(call)

    async def _connect(self, *, give_up: bool) -> None:
        """Try until there is a connection. `give_up`: raise what a broker refuses for good."""
        for endpoint, pause in zip(self._endpoints, retry.pauses(self._random), strict=False):
            try:
                socket, welcome = await self._handshake(endpoint)
            except (OSError, TimeoutError, ProtocolError, Error) as error:
                refused = isinstance(error, Error) and not isinstance(error, (Disconnected, *retry.AGAIN))
                if give_up and refused:
                    raise
                why = error.message if isinstance(error, Error) else str(error) or type(error).__name__
                self._last_failure = f"{endpoint}: {why}"
                self.emit(ConnectFailed(str(endpoint), self._last_failure, pause))
                await asyncio.sleep(pause)
            else:
                self._established(socket, welcome, endpoint)
                return

    async def _handshake(self, endpoint: Endpoint) -> tuple[Socket, Welcome]:
        loop = asyncio.get_running_loop()
        tls = (self._tls or ssl.create_default_context()) if endpoint.tls else None
        answer: asyncio.Future[Any] = loop.create_future()
        async with asyncio.timeout(HELLO_SECONDS_MAX):
            _, socket = await loop.create_connection(
                lambda: Socket(self._pushed, self._lost), endpoint.host, endpoint.port, ssl=tls
            )
            try:
                hello = Hello(
                    MAGIC,
                    WIRE_VERSION,
                    WIRE_VERSION,
                    self._session,
                    self.producer_id,
                    self._name,
                    endpoint.token,
                )
                socket.post(hello, lambda reply: None if answer.done() else answer.set_result(reply))
                welcome = await answer
                if welcome is None:
                    raise Disconnected("the connection was closed during the handshake")
                if isinstance(welcome, Error):
                    raise welcome
                if welcome.version != WIRE_VERSION:
                    raise Unsupported(f"the broker speaks wire version {welcome.version}")
            except BaseException:
                socket.drop("the handshake failed")
                raise
        return socket, welcome

    def _established(self, socket: Socket, welcome: Welcome, endpoint: Endpoint) -> None:
        self.connections += 1
        self.welcome = welcome
        self._welcomed = asyncio.get_running_loop().time()
        self.limits = welcome.limits
        self._socket = socket
        ping_ms = welcome.limits.get("ping_ms")
        socket.watch_silence(ping_ms / 1000 if ping_ms else PING_AFTER_SECONDS)
        self._up.set()
        for call in [*self._on_connected, *(connected for _, connected in self._subscriptions.values())]:
            call()
        if self.connections > 1:
            self.emit(Reconnected(str(endpoint), welcome.resumed))

    def _lost(self, socket: Socket, why: str) -> None:
        if socket is not self._socket:
            return
        self._socket = None
        self._last_failure = why
        if not self._closed:
            self._up.clear()
            self.emit(ConnectionLost(why))
            self._reconnecting = asyncio.get_running_loop().create_task(self._connect(give_up=False))

    # Requests

    async def request(
        self,
        message: Any,
        *,
        timeout: float | None = None,
        on_late: OnReply | None = None,
        on_resend: Callable[[], None] | None = None,
        on_part: OnReply | None = None,
    ) -> Any:
        """Send a request until it is answered; the reply, whose payload views stay valid.

        `timeout` in seconds (None: the client's) covers every try; add the wait of a long poll to it.
        `on_late` gets the reply that still comes after the caller was cancelled or timed out. `on_resend`
        is called before the request is sent again without knowing what became of the first. `on_part` gets
        the replies but the last; what it raises ends the request. Behind one nothing is sent again, but
        `Disconnected` is raised.

        Raises the broker's error; `Disconnected` if it was surely never sent; else `Timeout` for a read
        and `OutcomeUnknown` for a change; `ClientClosed`.
        """
        if timeout is not None:
            checks.timeout(timeout)
        seconds = self.timeout if timeout is None else timeout
        steps = retry.pauses(self._random)
        maybe_done = False
        refusal: Error | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    socket = await self._connection()
                    if maybe_done and on_resend is not None:
                        on_resend()
                    maybe_done = True
                    reply = await self._answer(socket, message, on_late, on_part)
                    if reply is None:
                        continue
                    if not isinstance(reply, Error):
                        return reply
                    if not isinstance(reply, retry.AGAIN):
                        raise reply
                    maybe_done, refusal = False, reply
                    await asyncio.sleep(retry.pause_after(reply, steps))
        except TimeoutError as error:
            if isinstance(error, Error):
                raise
            raise self._time_is_up(message, seconds, maybe_done, refusal, on_late) from None

    async def broker_time(self, timeout: float | None = None) -> int:
        """What the wall clock of the broker says, ms since 1970; not before anything it has confirmed."""
        pong: Pong = await self.request(Ping(), timeout=timeout)
        return pong.time

    async def _connection(self) -> Socket:
        while True:
            if self._closed:
                raise ClientClosed("the client is closed")
            if self._socket is not None:
                return self._socket
            await self._up.wait()

    async def _answer(
        self, socket: Socket, message: Any, on_late: OnReply | None, on_part: OnReply | None
    ) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        begun = False

        def on_reply(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)
            elif on_late is not None and reply is not None:
                on_late(reply)

        def part(reply: Any) -> None:
            nonlocal begun
            begun = True
            if future.done():
                return
            assert on_part is not None
            try:
                on_part(reply)
            except Error as error:
                future.set_exception(error)
                socket.cancel(correlation)

        correlation = socket.post(message, on_reply, part if on_part is not None else None)
        try:
            reply = await future
            if begun and (reply is None or isinstance(reply, retry.AGAIN)):
                raise Disconnected("the rest of the answer was lost")
            return reply
        except asyncio.CancelledError:
            if not future.cancelled():  # the reply and the cancellation came in the same turn
                if on_late is not None and future.result() is not None:
                    on_late(future.result())
            elif isinstance(message, retry.WAITS):
                socket.cancel(correlation)
            raise

    def _time_is_up(
        self, message: Any, seconds: float, maybe_done: bool, refusal: Error | None, on_late: OnReply | None
    ) -> Error:
        verb = type(message).__name__
        if not maybe_done:
            return refusal or Disconnected(f"{verb} was not sent within {seconds:g} s: {self._last_failure}")
        if isinstance(message, retry.READS):
            return Timeout(f"{verb} was not answered within {seconds:g} s")
        return OutcomeUnknown(
            f"{verb} was not confirmed within {seconds:g} s",
            repeat=lambda: self.request(message, timeout=seconds, on_late=on_late),
        )

    def post(self, message: Any, on_reply: OnReply) -> bool:
        """Send a request now, once, without a task; False, and nothing happens, when not connected."""
        if self._socket is None:
            return False
        self._socket.post(message, on_reply)
        return True

    def send(self, message: Any) -> None:
        """Send what has no reply; dropped when not connected."""
        if self._socket is not None:
            self._socket.send(message)

    # Pushes

    def next_subscription(self) -> int:
        """A number no subscription of this client had before."""
        self._last_subscription += 1
        return self._last_subscription

    def subscribe(
        self, number: int, on_deliver: Callable[[Deliver], None], on_connected: Callable[[], None]
    ) -> None:
        """Take the pushes of a subscription. `on_connected` is called after every later handshake, before
        any waiting request is sent: the place to `post` CONSUME again."""
        self._subscriptions[number] = on_deliver, on_connected

    def unsubscribe(self, number: int) -> None:
        """Its pushes are dropped from now on."""
        self._subscriptions.pop(number, None)

    def _pushed(self, message: Any) -> None:
        assert isinstance(message, Deliver)
        subscription = self._subscriptions.get(message.subscription)
        if subscription is not None:
            subscription[0](message)

    # Events

    def emit(self, event: Event) -> None:
        """Tell the user's callback. What it raises is logged: an event never breaks the client."""
        log.debug("%s", event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("on_event raised for %s", event)
