"""The connection itself: handshake, ping, goodbye, and ending a wait."""

from typing import TYPE_CHECKING

from penstock_broker.queues.handout import Waiter
from penstock_broker.queues.queue import Queue
from penstock_protocol import WIRE_VERSION
from penstock_protocol.errors import Invalid, Unsupported
from penstock_protocol.limits import BATCH_BYTES_MAX, BATCH_COUNT_MAX, FRAME_BYTES_MAX, PRODUCER_ID_NAMED_MIN
from penstock_protocol.messages.session import MAGIC, Cancel, Done, Goodbye, Hello, Ping, Pong, Welcome

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core

SESSION_NAME_BYTES = 16


def hello(core: "Core", call: "Call", request: Hello) -> None:
    """The handshake. A peer that speaks no common version is refused and closed."""
    if request.magic != MAGIC or len(request.session) != SESSION_NAME_BYTES:
        raise Invalid("HELLO needs the magic and a session name of 16 bytes")
    if not request.version_min <= WIRE_VERSION <= request.version_max:
        raise Unsupported(
            f"this broker speaks wire version {WIRE_VERSION}, "
            f"the client {request.version_min} to {request.version_max}"
        )
    if request.producer_id >= PRODUCER_ID_NAMED_MIN:
        raise Invalid(
            "a client claims producer ids below 2^62", hint="one with a name comes from OPEN_PRODUCER"
        )
    resumed = core.presence.join(call.connection, request.session, request.producer_id, request.client)
    settings = core.settings
    limits = {
        "frame_bytes": FRAME_BYTES_MAX,
        "batch_bytes": BATCH_BYTES_MAX,
        "batch_count": BATCH_COUNT_MAX,
        "message_bytes": settings.message_bytes_max,
        "requests": settings.requests_max,
        "session_grace_ms": settings.session_grace_ms,
        "ping_ms": settings.ping_ms,
    }
    node = core.registry.node.id
    boot = core.engine.journal.boot
    core.answer(
        call,
        Welcome(
            WIRE_VERSION,
            settings.server_name,
            node,
            boot,
            resumed,
            settings.credit_bytes,
            call.now.wall,
            limits,
        ),
        0,
    )


def ping(core: "Core", call: "Call", request: Ping) -> None:
    """A sign of life."""
    core.answer(call, Pong(call.now.wall), 0)


def goodbye(core: "Core", call: "Call", request: Goodbye) -> None:
    """The session ends now, not after its grace."""
    core.answer(call, Done(), 0)
    if call.connection.session is not None:
        core.end(call.connection.session, call.now)
    core.presence.part(call.connection, "goodbye")


def cancel(core: "Core", call: "Call", request: Cancel) -> None:
    """Answer a waiting request now. One that waits no more was, or will be, answered anyway."""
    target, wait = call.connection.waits.get(request.correlation, (None, None))
    if isinstance(target, Queue):
        assert isinstance(wait, Waiter)
        target.unpark(wait)
        core.deliveries.answer_nothing(wait)
    elif target is not None:
        del call.connection.waits[request.correlation]  # a part that is on its way is the last
        if target.unpark(wait):
            core.deliveries.answer_fetch(target, wait.call, wait.request, call.now)
