"""Publishes that a test starts, and what of them is on its way."""

import asyncio

from penstock_protocol.messages.session import Ping


def start(coroutine):
    return asyncio.ensure_future(coroutine)


async def quiet(server, client):
    """Nothing more comes: a round trip later there is still no request."""
    await client.wire.request(Ping())
    assert server.requests.empty()
