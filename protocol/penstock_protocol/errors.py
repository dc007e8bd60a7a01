"""Every error that crosses the wire, once: the classes below are the table.

Each wire error states its code, whether repeating the same request can succeed, and what to do
about it. `TABLE` maps codes to classes, for the decoder and for the documentation. Names and
meanings are fixed once released; codes are never reused.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

TABLE: dict[int, type["Error"]] = {}
"""Wire code → error class, in the order of declaration."""


class ProtocolError(Exception):
    """The peer broke the rules of the wire: answer if that is possible, then close."""


class Error(Exception):
    """Base of everything the client raises.

    `code`: the number on the wire (0: never sent, raised in the client alone). `retriable`: the same
    call may succeed later. `retry_after`: seconds the broker suggests to wait, or None.
    `detail`: facts to act on (`start` and `end` of `OffsetOutOfRange`, for instance).
    """

    code: ClassVar[int] = 0
    retriable: ClassVar[bool] = False
    advice: ClassVar[str] = "see the message"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        code = cls.__dict__.get("code", 0)
        if code:
            assert code not in TABLE, f"code {code} is taken"
            TABLE[code] = cls

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.advice
        self.retry_after = retry_after
        self.detail: dict[str, Any] = dict(detail or {})

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Refused(Error):
    """Definite: nothing was written and nothing of this request will ever appear."""


class NotFound(Refused):
    """No queue, topic or group of that name."""

    code = 1
    advice = "create it first: `penstock queue create NAME` or `penstock topic create NAME`"


class Conflict(Refused):
    """It exists with other settings, or the state is not the one the request expects."""

    code = 2
    advice = 'ask again with if_exists "keep" to leave it as it is, or "alter" to change its settings'


class Invalid(Refused):
    """A value outside its range, a malformed name, an unknown setting."""

    code = 3
    advice = "correct the value that the message names"


class TooLarge(Refused):
    """A message, batch or frame above its limit."""

    code = 4
    advice = "send less at once, or raise `limits.message_bytes` of the broker"


class QueueFull(Refused):
    """The queue holds max_messages or max_bytes."""

    code = 5
    retriable = True
    advice = "add workers, or raise it: `penstock queue alter NAME --max-messages N`"


class Busy(Refused):
    """A publish beyond its credit, or the node's publish pool or request window is used up."""

    code = 6
    retriable = True
    advice = "send it again after a short pause"


class DiskFull(Refused):
    """The disk has no room for publishes; settles and reads go on."""

    code = 7
    retriable = True
    advice = "free disk space or let workers drain the queues; publishing resumes by itself"


class Stale(Refused):
    """A fenced producer, a sequence older than the last 32, a commit of an old group generation. A late
    settle too, but no error reply says so: Settled does."""

    code = 8
    advice = "producer: take a new id; settle: it may be delivered again, extend earlier or expect it twice"


class OffsetOutOfRange(Refused):
    """The offset lies below the start or beyond the end of the partition (`detail`: start, end)."""

    code = 9
    advice = "take an offset from start to end; start is the earliest that is kept"


class Corrupt(Refused):
    """Stored bytes fail their checksum (`detail`: first, messages); other ranges are served."""

    code = 10
    advice = "restore the data directory from a backup; `penstock dump` shows what is readable"


class Unauthenticated(Refused):
    """No valid credentials."""

    code = 11
    advice = "give a token in the handshake; `penstock` takes it from $PENSTOCK_TOKEN"


class Forbidden(Refused):
    """The principal may not do that to this resource."""

    code = 12
    advice = "ask for the permission that the message names"


class Unroutable(Refused):
    """A mandatory publish matched no binding."""

    code = 13
    advice = "bind a queue or topic, or do not publish as mandatory"


class TransactionRefused(Refused):
    """One operation of a transaction was refused, so none was done (`detail`: index, cause)."""

    code = 14
    advice = "correct the operation at that index and send the transaction again"


class SequenceGap(Refused):
    """A producer's batch came before its predecessor (`detail`: expected)."""

    code = 15
    retriable = True
    advice = "send again, in order, from the expected sequence on"


class NotOwner(Refused):
    """Another node owns it (`detail`: address). Reserved for more than one node."""

    code = 16
    retriable = True
    advice = "send the request to the owner"


class Unsupported(Refused):
    """A verb or wire version that this broker does not know."""

    code = 17
    advice = "use a client and a broker of the same release"


class Closing(Refused):
    """The broker is draining before it stops."""

    code = 18
    retriable = True
    advice = "connect again in a moment"


class BadFrame(Refused):
    """The frame broke the rules of the wire; the connection closes behind this reply."""

    code = 19
    advice = "the client is faulty: compare it with the wire specification"


class Cancelled(Refused):
    """The wait was ended by CANCEL."""

    code = 20
    advice = "nothing to do"


class OutcomeUnknown(Error):
    """It may or may not have happened; `await error.retry()` repeats it under the same sequence."""

    advice = "await error.retry(), which cannot duplicate, or check before you repeat it"


class Disconnected(Error, ConnectionError):
    """Surely not sent: there was no connection."""

    retriable = True
    advice = "is the broker running? `penstock serve`"


class Timeout(Error, TimeoutError):
    """A read timed out; nothing was changed."""

    retriable = True
    advice = "pass a longer timeout="


class ClientClosed(Error):
    """The client object was closed."""

    advice = "use the client inside its `async with` block"


def from_wire(
    code: int, message: str, hint: str, retry_after_ms: int | None, detail: Mapping[str, Any]
) -> Error:
    """The error that an error reply stands for. An unknown code becomes a plain `Refused`."""
    cls = TABLE.get(code, Refused)
    retry_after = None if retry_after_ms is None else retry_after_ms / 1000
    return cls(message, hint=hint, retry_after=retry_after, detail=detail)


def markdown() -> str:
    """The error table as the documentation shows it."""
    rows = ["| code | name | retriable | means | what to do |", "|---|---|---|---|---|"]
    for code, cls in sorted(TABLE.items()):
        means = " ".join((cls.__doc__ or "").split())
        rows.append(
            f"| {code} | {cls.__name__} | {'yes' if cls.retriable else 'no'} | {means} | {cls.advice} |"
        )
    return "\n".join(rows)
