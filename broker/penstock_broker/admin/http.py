"""Metrics and health over HTTP: four GET routes, nothing else is accepted.

`/livez` says that the event loop turns; `/readyz` that clients are served in full. No payloads here, and
no names but those of queues, topics and groups.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from socket import socket

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from penstock_broker.admin.metrics import PER_OBJECT, Exposition

BODY_BYTES_MAX = 4 << 10
SHUTDOWN_SECONDS = 0.5
HEADERS = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}


class Routes:
    """The handlers. `why_not_ready`: one word, or None when ready."""

    def __init__(self, exposition: Exposition, why_not_ready: Callable[[], str | None]) -> None:
        self._exposition = exposition
        self._why_not_ready = why_not_ready

    def table(self) -> list[web.RouteDef]:
        """Every path that exists."""
        return [
            web.get("/metrics", self.metrics),
            web.get("/metrics/per-object", self.per_object),
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
        ]

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """All families; the event loop is left to others after each."""
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        for text in self._exposition.texts():
            await response.write(text)
            await asyncio.sleep(0)
        await response.write_eof()
        return response

    async def per_object(self, request: web.Request) -> web.Response:
        """The one family named by `?family=`, for every object."""
        try:
            text = self._exposition.per_object(request.query.get("family", ""))
        except KeyError:
            return _json(400, error="pass ?family=NAME", families=PER_OBJECT)
        return web.Response(body=text, headers=HEADERS)

    async def livez(self, _: web.Request) -> web.Response:
        """200: the event loop turns."""
        return _json(200, status="alive")

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when clients are served in full, else 503 with the reason."""
        reason = self._why_not_ready()
        return _json(200, status="ready") if reason is None else _json(503, status="not_ready", reason=reason)


@asynccontextmanager
async def serving(
    sock: socket, exposition: Exposition, why_not_ready: Callable[[], str | None]
) -> AsyncIterator[None]:
    """Serve on a bound socket until the block ends. Raises `OSError` if another process listens there."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes(Routes(exposition, why_not_ready).table())
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield
    finally:
        await runner.cleanup()


def _json(code: int, **content: object) -> web.Response:
    return web.Response(status=code, text=json.dumps(content), content_type="application/json")
