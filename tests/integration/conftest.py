"""The real broker as a process of its own, on free ports, with its data in a directory of the test."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.process import BrokerProcess

import penstock

StartBroker = Callable[..., BrokerProcess]


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """Start a broker: `start_broker(*flags, data=…, environ=…, script=…)`; killed at the end of the test."""
    started: list[BrokerProcess] = []

    def start(
        *flags: str,
        data: Path | None = None,
        environ: dict[str, str] | None = None,
        script: str | None = None,
    ) -> BrokerProcess:
        log = tmp_path / f"broker-{len(started)}.log"
        broker = BrokerProcess(data or tmp_path / "data", log, flags, environ or {}, script)
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def broker(start_broker: StartBroker) -> BrokerProcess:
    """A broker that serves."""
    return start_broker().wait_ready()


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[penstock.Client]:
    """A client of that broker."""
    async with penstock.connect(broker.url, timeout=20) as client:
        yield client
