"""What each verb does: decode is done, so check, ask a machine for its plan, append, answer."""

from collections.abc import Callable
from typing import Any

from penstock_broker.handlers import (
    admin,
    groups,
    messages,
    producers,
    queues,
    schedules,
    session,
    topics,
    transfers,
)
from penstock_protocol import verbs

_MODULES = {
    **{"admin": admin, "groups": groups, "messages": messages, "queues": queues, "schedules": schedules},
    "producers": producers,
    **{"session": session, "topics": topics, "transfers": transfers},
}


def _handler(name: str) -> Callable[[Any, Any, Any], None]:
    module, function = name.split(".")
    found: Callable[[Any, Any, Any], None] = getattr(_MODULES[module], function)
    return found


HANDLERS = {verb.code: _handler(verb.handler) for verb in verbs.VERBS if verb.handler}
"""Verb code → handler(core, call, request); built from the verb table, so a missing one fails at import."""
