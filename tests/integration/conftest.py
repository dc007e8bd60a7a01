"""The real broker as a process of its own, on free ports, with its data in a directory of the test; and the
brokers that people come from, to be asked the same. Where one of these is not installed, what asks it is
skipped, and the run says so."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from tests.integration import streams
from tests.integration.command import Cli
from tests.integration.process import BrokerProcess
from tests.integration.sides import Penstock

import penstock

StartBroker = Callable[..., BrokerProcess]
NOT_ASKED = "not asked"


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


# Others


@pytest.fixture
def q(request: pytest.FixtureRequest) -> str:
    """A queue name of the test's own, for servers that serve all: pages have tests of one name."""
    name: str = getattr(request.node, "originalname", request.node.name)
    page = request.module.__name__.rpartition(".")[2].removeprefix("test_coming_from_")
    return f"{page}_{name.removeprefix('test_')}"[:70]


def _serving(server: Any, folder: Path) -> Iterator[Any]:
    missing = server.missing()
    if missing:
        pytest.skip(f"{NOT_ASKED}: {missing}")
    with chdir(folder), server() as serving:
        yield serving


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A RabbitMQ."""
    pytest.importorskip("pika", reason=f"{NOT_ASKED}: pika is not installed: pip install 'penstock[peers]'")
    from tests.integration.rabbitmq_side import Server

    yield from _serving(Server, tmp_path_factory.mktemp("rabbitmq"))


@pytest.fixture(scope="session")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """moto's SQS."""
    for module in ("boto3", "moto"):
        pytest.importorskip(
            module, reason=f"{NOT_ASKED}: {module} is not installed: pip install boto3 'moto[server]'"
        )
    from tests.integration.sqs_side import Moto

    yield from _serving(Moto, tmp_path_factory.mktemp("sqs"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Kafka, if it is asked for: with the JVMs of two workers it takes a minute."""
    if "ASK_KAFKA" not in os.environ:
        pytest.skip(f"{NOT_ASKED}: make kafka asks it")
    pytest.importorskip(
        "confluent_kafka", reason=f"{NOT_ASKED}: confluent-kafka is not there: pip install 'penstock[peers]'"
    )
    from tests.integration.kafka_side import Server

    yield from _serving(Server, tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """The broker that is compared with others: as theirs, one for all tests."""
    folder = tmp_path_factory.mktemp("beside")
    broker = BrokerProcess(folder / "data", folder / "log", (), {}, None)
    try:
        yield broker.wait_ready()
    finally:
        broker.kill()


@pytest.fixture
def cli_of() -> Iterator[Callable[[BrokerProcess], Cli]]:
    """The command line, told where a broker is; what it started is killed at the end."""
    made: list[Cli] = []

    def make(broker: BrokerProcess) -> Cli:
        made.append(Cli(broker))
        return made[-1]

    yield make
    for process in (process for cli in made for process in cli.started):
        process.kill()
        process.communicate()


@pytest.fixture
def cli(cli_of: Callable[[BrokerProcess], Cli], broker: BrokerProcess) -> Cli:
    """The command line and a broker that serves it."""
    return cli_of(broker)


async def _penstock(request: pytest.FixtureRequest) -> AsyncIterator[Penstock]:
    url = request.getfixturevalue("beside").url
    async with penstock.connect(url, timeout=20) as client:
        yield Penstock(client, url)


@pytest.fixture(params=["penstock", "rabbitmq"])
async def beside_rabbitmq(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Penstock, then RabbitMQ."""
    if request.param == "penstock":
        async for side in _penstock(request):
            yield side
        return
    url = request.getfixturevalue("rabbitmq").url
    from tests.integration.rabbitmq_side import RabbitMQ

    rabbitmq = RabbitMQ(url)
    yield rabbitmq
    rabbitmq.close()


@pytest.fixture(params=["penstock", "sqs"])
async def beside_sqs(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Penstock, then SQS."""
    if request.param == "penstock":
        async for side in _penstock(request):
            yield side
        return
    url = request.getfixturevalue("sqs").url
    from tests.integration.sqs_side import Sqs

    sqs = Sqs(url)
    yield sqs
    sqs.close()


@pytest.fixture(params=["penstock", "kafka"])
async def beside_kafka(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Penstock, then Kafka, in the words for topics."""
    if request.param == "penstock":
        url = request.getfixturevalue("beside").url
        async with penstock.connect(url, timeout=20) as client:
            yield streams.Penstock(client, url)
        return
    url = request.getfixturevalue("kafka").url
    from tests.integration.kafka_side import Kafka

    yield Kafka(url)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the brokers that were not asked."""
    skipped = [report.longrepr for report in terminalreporter.getreports("skipped")]
    reasons = [where[2] for where in skipped if isinstance(where, tuple | list) and NOT_ASKED in where[2]]
    for reason in sorted(set(reasons)):
        terminalreporter.write_line(f"{reasons.count(reason)} tests {reason.removeprefix('Skipped: ')}")
