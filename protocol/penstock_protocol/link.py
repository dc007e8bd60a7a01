"""One connection as a state machine, for both roles: bytes in → messages out, message in → bytes out.

The table below says which kind of frame each role may receive in which state; an absent entry is an
error of the peer. The link knows correlation ids and verbs, no handler and no socket.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from penstock_protocol import verbs
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import BadFrame, Error, Invalid, ProtocolError, Unsupported, from_wire
from penstock_protocol.frame import ERROR, FLAGS, MORE, REPLY, Frame, FrameDecoder, encode_header
from penstock_protocol.limits import FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO
from penstock_protocol.messages import schema
from penstock_protocol.messages.session import Failure, Hello, Welcome


class Role(Enum):
    """Which side this link plays."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """Life of a connection."""

    START = "start"  # nothing but the handshake
    OPEN = "open"
    FAILED = "failed"  # the peer broke the rules; nothing is read any more


class Sort(Enum):
    """What a frame is, as far as the state machine cares."""

    HELLO = "hello"
    WELCOME = "welcome"
    REQUEST = "request"
    REPLY = "reply"
    ERROR = "error"
    PUSH = "push"


RECEIVE: dict[tuple[Role, State, Sort], State] = {
    (Role.SERVER, State.START, Sort.HELLO): State.OPEN,
    (Role.SERVER, State.OPEN, Sort.REQUEST): State.OPEN,
    (Role.SERVER, State.OPEN, Sort.REPLY): State.OPEN,  # of a PING by the broker
    (Role.CLIENT, State.START, Sort.WELCOME): State.OPEN,
    (Role.CLIENT, State.START, Sort.ERROR): State.FAILED,  # the handshake was refused
    (Role.CLIENT, State.OPEN, Sort.REPLY): State.OPEN,
    (Role.CLIENT, State.OPEN, Sort.ERROR): State.OPEN,
    (Role.CLIENT, State.OPEN, Sort.PUSH): State.OPEN,
    (Role.CLIENT, State.OPEN, Sort.REQUEST): State.OPEN,  # PING
}
"""(who receives, in which state, what) → the state afterwards."""

ASKED_BY_BROKER = {(Role.CLIENT, Sort.REQUEST), (Role.SERVER, Sort.REPLY)}
"""A request by the broker and its reply: PING alone."""


def _sort(verb: verbs.Verb, flags: int) -> Sort:
    if flags & ERROR:
        return Sort.ERROR
    if flags & REPLY:
        return Sort.WELCOME if verb.reply is Welcome else Sort.REPLY
    if verb.request is Hello:
        return Sort.HELLO
    return Sort.PUSH if verb.pushed else Sort.REQUEST


Admitted = dict[tuple[int, int], tuple[verbs.Verb, Sort, State]]


def _admitted(role: Role, state: State) -> Admitted:
    """The table above for one role in one state, by the verb and flags of a frame, so that a frame costs one
    look: (what it is, the state afterwards)."""
    table: Admitted = {}
    for verb in verbs.VERBS:
        for flags in FLAGS:
            if flags & MORE and not verb.in_parts:
                continue
            sort = _sort(verb, flags)
            after = RECEIVE.get((role, state, sort))
            if after is not None and ((role, sort) not in ASKED_BY_BROKER or verb.name == "PING"):
                table[verb.code, flags] = verb, sort, after
    return table


ADMITTED = {(role, state): _admitted(role, state) for role in Role for state in State}


class Received(NamedTuple):
    """One message from the peer. `message` is an `Error` for an error reply, and for a request whose
    frame is sound but whose content is not: the server answers that error."""

    verb: verbs.Verb
    correlation: int
    message: Any
    is_reply: bool
    is_last: bool = True
    """Of a reply: no other follows to the same request."""


class Link:
    """The protocol state of one connection.

    `receive` raises `ProtocolError` once the peer broke the rules; the link is then FAILED for good.
    """

    __slots__ = ("_admitted", "_decoder", "_role", "_state")

    def __init__(self, role: Role) -> None:
        self._role = role
        before = FRAME_BYTES_MAX_BEFORE_HELLO if role is Role.SERVER else FRAME_BYTES_MAX
        self._decoder = FrameDecoder(before)
        self.state = State.START

    @property
    def state(self) -> State:
        """Where in its life the connection is."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._admitted = ADMITTED[self._role, state]
        if state is State.OPEN:
            self._decoder.frame_bytes_max = FRAME_BYTES_MAX

    @property
    def partial(self) -> bool:
        """A frame has begun and is not complete."""
        return self._decoder.partial

    @property
    def awaited(self) -> int:
        """Bytes of the whole frame that has begun; 0 if none has, or its header is not complete."""
        return self._decoder.awaited

    def receive(self, data: Buffer) -> Iterator[Received]:
        """Messages that `data` completes; payloads are views into it. To be run to its end."""
        if self.state is State.FAILED:
            raise ProtocolError("the connection failed earlier")
        try:
            for frame in self._decoder.feed(data):
                yield self._received(frame)
        except ProtocolError:
            self.state = State.FAILED
            raise

    def _received(self, frame: Frame) -> Received:
        admitted = self._admitted.get((frame.verb, frame.flags))
        if admitted is None:
            return self._not_admitted(frame)
        verb, sort, after = admitted
        if after is not self._state:
            self.state = after
        return self._decoded(verb, sort, frame)

    def _not_admitted(self, frame: Frame) -> Received:
        verb = verbs.BY_CODE.get(frame.verb)
        if verb is None:
            if self.state is State.OPEN and not frame.flags:
                unknown = Unsupported(f"verb {frame.verb} is unknown here")
                return Received(verbs.BY_CODE[2], frame.correlation, unknown, False)
            raise ProtocolError(f"verb {frame.verb} is unknown here")
        if frame.flags & MORE and not verb.in_parts:
            raise ProtocolError(f"{verb.name} is not answered in parts")
        sort = _sort(verb, frame.flags)
        if (self._role, self.state, sort) in RECEIVE:
            raise ProtocolError(f"a broker does not ask for {verb.name}")
        raise ProtocolError(f"{verb.name} ({sort.value}) is not allowed in state {self.state.value}")

    def _decoded(self, verb: verbs.Verb, sort: Sort, frame: Frame) -> Received:
        if sort is Sort.REQUEST:
            try:
                message: Any = schema.decode(verb.request, frame.fields, frame.payload)
            except Invalid as error:
                message = error
            return Received(verb, frame.correlation, message, False)
        if sort is Sort.ERROR:
            message = from_wire(*_decode_or_fail(Failure, frame))
        elif sort is Sort.PUSH or sort is Sort.HELLO:
            return Received(verb, frame.correlation, _decode_or_fail(verb.request, frame), False)
        else:
            if verb.reply is None:
                raise ProtocolError(f"{verb.name} has no reply")
            message = _decode_or_fail(verb.reply, frame)
        return Received(verb, frame.correlation, message, True, not frame.flags & MORE)

    def request(self, message: Any, correlation: int) -> list[Buffer]:
        """The buffers to send for a request (or a push, with correlation 0)."""
        return _frame(verbs.BY_REQUEST[type(message)].code, 0, correlation, message)

    def reply(
        self, verb: verbs.Verb, correlation: int, message: Any, *, is_last: bool = True
    ) -> list[Buffer]:
        """The buffers to send for a reply; an `Error` becomes an error reply, which is the last."""
        if isinstance(message, Error):
            return _frame(verb.code, REPLY | ERROR, correlation, failure_of(message))
        return _frame(verb.code, REPLY if is_last else REPLY | MORE, correlation, message)


def failure_of(error: Error) -> Failure:
    """The wire form of an error; one without a code of its own is a bad frame."""
    retry_after = None if error.retry_after is None else round(error.retry_after * 1000)
    code = error.code or BadFrame.code
    return Failure(code, error.message[:4000], error.hint[:1000], retry_after, error.detail)


def _decode_or_fail(cls: type[Any], frame: Frame) -> Any:
    try:
        return schema.decode(cls, frame.fields, frame.payload)
    except Invalid as error:
        raise ProtocolError(error.message) from error


def _frame(code: int, flags: int, correlation: int, message: Any) -> list[Buffer]:
    fields, payload = schema.encode(message)
    buffers: tuple[Buffer, ...] = payload if isinstance(payload, tuple) else (payload,) if payload else ()
    size = sum(map(len, buffers))
    return [encode_header(code, flags, correlation, len(fields), size) + fields, *buffers]
