"""What the service manager is told."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from penstock_broker.server.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_state_reaches_the_socket_of_the_manager(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.send("READY=1")
    notifier.send("STOPPING=1")
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_abstract_address_begins_with_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel picks an abstract address
        listening.settimeout(5)
        Notifier("@" + listening.getsockname()[1:].decode("ascii")).send("WATCHDOG=1")
        assert listening.recv(100) == b"WATCHDOG=1"


def test_nobody_to_tell_is_not_an_error() -> None:
    with structlog.testing.capture_logs() as lines:
        Notifier(None).send("READY=1")
    assert lines == []


def test_manager_that_cannot_be_reached_is_logged(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        Notifier(str(tmp_path / "nobody")).send("READY=1")
    assert [(line["event"], line["state"]) for line in lines] == [("notify_failed", "READY=1")]


def test_manager_that_does_not_read_never_holds_the_node_up(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    with structlog.testing.capture_logs() as lines:
        for _ in range(2_000):
            notifier.send("WATCHDOG=1")
    assert {line["event"] for line in lines} == {"notify_failed"}
