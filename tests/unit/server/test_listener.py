"""The door, over real sockets of this machine."""

import asyncio
import errno
import socket

import pytest
from tests.unit.server.scripted import HELLO, ScriptedCore

from penstock_broker.server.listener import Listener, address_of, bind
from penstock_protocol.link import Link, Role


def test_port_0_picks_a_free_port_and_tells_it() -> None:
    with bind("127.0.0.1", 0) as sock:
        host, _, port = address_of(sock).rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) == sock.getsockname()[1] > 0


def test_ipv6_address_is_written_as_in_a_url() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with bind("::1", 0) as sock:
        assert address_of(sock).startswith("[::1]:")


def test_bound_port_refuses_clients_until_it_is_open() -> None:
    with bind("127.0.0.1", 0) as sock, pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname(), timeout=5)


def test_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use") as failure:
        bind("127.0.0.1", taken.getsockname()[1])
    assert failure.value.errno == errno.EADDRINUSE


async def test_accepted_peer_is_served_and_a_closed_door_lets_nobody_in(
    listener: Listener, core: ScriptedCore
) -> None:
    sock = bind("127.0.0.1", 0)
    host, port = sock.getsockname()
    await listener.open(sock)
    handled = asyncio.Event()
    core.answer = lambda *_: handled.set()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"".join(Link(Role.CLIENT).request(HELLO, 1)))
    await asyncio.wait_for(handled.wait(), 5)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
    await listener.part(5)
    assert await reader.read() == b""
    assert core.named("disconnected") == [()]
    writer.close()
