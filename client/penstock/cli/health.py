"""`penstock health`: does a broker answer? For people, and for HEALTHCHECK lines."""

import asyncio
from uuid import UUID

from penstock.cli.command import Call, Command
from penstock_protocol.messages.session import Ping

TIMEOUT_SECONDS = 5.0


async def _health(call: Call) -> None:
    wire, clock = call.client.wire, asyncio.get_running_loop().time
    began = clock()
    await wire.request(Ping(), timeout=TIMEOUT_SECONDS)
    took_ms = (clock() - began) * 1000
    welcome = wire.welcome
    assert welcome is not None, "a connected client was welcomed"
    facts = {
        "status": "ok",
        "server": welcome.server,
        "node": str(UUID(bytes=welcome.node)),
        "boot": welcome.boot,
        "round_trip_ms": round(took_ms, 3),
    }
    if call.out.json:
        await call.out.objects([facts])
    else:
        await call.out.rows([name.replace("_", "-").upper() for name in facts], [list(facts.values())])


COMMANDS = (Command("health", "", "Ask the broker whether it serves.", _health),)
