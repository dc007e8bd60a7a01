"""The four routes, over a real socket."""

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from tests.unit.admin.test_metrics import QUEUES, node

from penstock_broker.admin import http
from penstock_broker.admin.metrics import Exposition
from penstock_broker.facts import NodeFacts
from penstock_broker.meters import Meters


class Site:
    """A served node; `reason` is why it is not ready."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.facts: NodeFacts = node(QUEUES)

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        async with self.session.request(method, self.url + path) as response:
            return response.status, await response.text()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    sock = socket.create_server(("127.0.0.1", 0))
    site.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    exposition = Exposition(lambda: site.facts, Meters(), 1)
    async with http.serving(sock, exposition, lambda: site.reason), aiohttp.ClientSession() as session:
        site.session = session
        yield site


async def test_metrics_are_in_the_text_format_of_prometheus(site: Site) -> None:
    async with site.session.get(site.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    assert 'penstock_queue_messages{state="ready"} 15.0' in text
    assert "penstock_metrics_truncated 1.0" in text


async def test_per_object_shows_one_family_whole(site: Site) -> None:
    status, text = await site.get("/metrics/per-object?family=penstock_queue_messages")
    assert status == 200
    assert 'penstock_queue_messages{queue="emails",state="ready"} 10.0' in text


@pytest.mark.parametrize("query", ["", "?family=", "?family=penstock_connections"])
async def test_per_object_without_a_known_family_names_those_there_are(site: Site, query: str) -> None:
    status, text = await site.get("/metrics/per-object" + query)
    assert status == 400
    assert "penstock_queue_messages" in text


async def test_ready_is_200_and_not_ready_is_503_with_the_reason(site: Site) -> None:
    assert await site.get("/readyz") == (200, '{"status": "ready"}')
    site.reason = "disk_full"
    assert await site.get("/readyz") == (503, '{"status": "not_ready", "reason": "disk_full"}')


async def test_node_that_is_not_ready_is_alive(site: Site) -> None:
    site.reason = "recovering"
    assert await site.get("/livez") == (200, '{"status": "alive"}')


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/metrics"), ("DELETE", "/livez"), ("GET", "/etc/passwd")]
)
async def test_nothing_else_is_served(site: Site, method: str, path: str) -> None:
    status, _ = await site.get(path, method)
    assert status in (404, 405)
