"""A client over a real socket, of a broker that answers as the test says."""

import pytest
from tests.fakes.scripted_server import ScriptedServer

import penstock


@pytest.fixture
async def server():
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client(server):
    client = await penstock.connect(server.url)
    yield client
    await client.close(0)


@pytest.fixture
def queue(client):
    return client.queue("jobs")
