"""Messages about the connection itself."""

from typing import Any, NamedTuple

MAGIC = b"PENSTOCK"


class Hello(NamedTuple):
    """The first frame of a connection. `session` (16 bytes, chosen by the client) names what outlives a
    lost socket by `session_grace`; `producer_id` is claimed for this connection and fenced on any other."""

    magic: bytes
    version_min: int
    version_max: int
    session: bytes
    producer_id: int
    client: str = ""
    token: str | None = None


class Welcome(NamedTuple):
    """The broker's side of the handshake. `credit`: bytes of publishes that may be unconfirmed;
    `limits`: frame_bytes, batch_bytes, batch_count, message_bytes, requests, session_grace_ms, ping_ms."""

    version: int
    server: str
    node: bytes
    boot: int
    resumed: bool
    credit: int
    time: int
    limits: dict[str, Any]


class Ping(NamedTuple):
    """Either side, after silence."""


class Pong(NamedTuple):
    """The answer to Ping. `time`: the sender's wall clock, ms since 1970."""

    time: int = 0


class Goodbye(NamedTuple):
    """The session ends: its leases are released, its consumers end."""


class Cancel(NamedTuple):
    """Ends the wait of an earlier request, which is answered now with what there is. Has no reply."""

    correlation: int


class Done(NamedTuple):
    """It is done, and durable where the request changes durable state."""


class Document(NamedTuple):
    """A reply of variable shape: one msgpack value as payload."""

    payload: Any = b""


class Failure(NamedTuple):
    """The fields of an error reply, to any request."""

    code: int
    message: str
    hint: str
    retry_after: int | None
    detail: dict[str, Any]
