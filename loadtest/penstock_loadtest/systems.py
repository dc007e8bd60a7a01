"""Every system that can be put under load: what serves, what speaks to it, and what its confirm means."""

import importlib
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from penstock_loadtest.broker import Broker, Usage

OWN = "penstock"


class Server(Protocol):
    """What is running."""

    url: str

    def pids(self) -> list[int]:
        """Its processes."""
        ...

    def usage(self) -> Usage:
        """What they used so far."""
        ...


class System(NamedTuple):
    """One row of the table. `settings` are the server's; `clients` are distributions of Python."""

    name: str
    durability: str
    adapter: str
    clients: tuple[str, ...]
    server: str = ""
    settings: tuple[str, ...] = ()

    def server_class(self) -> Any:
        """The class of its server."""
        module, _, name = self.server.partition(":")
        return getattr(importlib.import_module(module), name)

    def missing(self) -> str | None:
        """Why it cannot be run here, if so."""
        for client in self.clients:
            if not find_spec(MODULES.get(client, client)):
                return f"its client {client} is not installed: pip install 'penstock[peers]'"
        why: str | None = self.server_class().missing() if self.server else None
        return why

    def start(self, settings: tuple[str, ...] = ()) -> AbstractContextManager[Any]:
        """A context manager that starts a server on entering and stops it on leaving."""
        if not self.server:
            return Broker(settings=settings)
        server: AbstractContextManager[Any] = self.server_class()(*self.settings)
        return server

    def versions(self, server: Any) -> dict[str, str]:
        """Of what takes part, server and clients."""
        clients = {client: installed(client) for client in self.clients}
        return {**server.versions(), **clients} if self.server and server else clients


MODULES = {"nats-py": "nats", "confluent-kafka": "confluent_kafka"}
"""Distributions whose module is called otherwise."""


def installed(distribution: str) -> str:
    """Its version; `-` if it is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "-"


def _peer(
    name: str, durability: str, clients: tuple[str, ...], place: str, adapter: str, *settings: str
) -> System:
    module = f"penstock_loadtest.peers.{place}"
    return System(name, durability, f"{module}:{adapter}", clients, f"{module}:Server", settings)


PIKA, REDIS, KAFKA = ("pika",), ("redis", "hiredis"), ("confluent-kafka",)
SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(OWN, "fsync", "penstock_loadtest.own:Penstock", ("penstock", "uvloop", "msgpack")),
        _peer("skeleton", "fsync", ("uvloop",), "skeleton", "Raw"),
        _peer("rabbitmq-classic", "confirm after fsync", PIKA, "rabbitmq", "Classic"),
        _peer("rabbitmq-quorum", "confirm after fsync, 1 replica", PIKA, "rabbitmq", "Quorum"),
        _peer("nats", "page cache, fsync every 2 min", ("nats-py",), "nats", "JetStream"),
        _peer("redis-everysec", "page cache, fsync every 1 s", REDIS, "redis", "Streams", "everysec"),
        _peer("redis-always", "fsync", REDIS, "redis", "Streams", "always"),
        _peer("beanstalkd", "page cache, fsync every 50 ms", (), "beanstalkd", "Tubes", "50"),
        _peer("beanstalkd-fsync", "fsync", (), "beanstalkd", "Tubes", "0"),
        _peer("kafka", "page cache, acks=all, 1 replica", KAFKA, "kafka", "Topics"),
        _peer("kafka-fsync", "fsync, acks=all, 1 replica", KAFKA, "kafka", "Topics", "fsync"),
    )
}
PEERS = [name for name in SYSTEMS if name != OWN]
