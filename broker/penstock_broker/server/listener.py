"""The door: binds the port, lets peers in up to the limits, and looks after those that wait too long."""

import asyncio
import socket
from collections import Counter

from penstock_broker.meters import Meters
from penstock_broker.server.assembly import Assembly
from penstock_broker.server.connection import Peer
from penstock_broker.server.logs import PeerLog
from penstock_broker.server.loop import Turns

RECEIVE_BYTES = 512 << 10
"""The one receive buffer: frames of ordinary batches arrive whole, and it stays in the CPU's cache."""
BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket that has its port and does not listen yet. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def address_of(sock: socket.socket) -> str:
    """`host:port`, as in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listener:
    """Accepts connections, at most `connections_max` and, of one address before HELLO, at most
    `connections_per_address_max`, and knows them all."""

    def __init__(
        self,
        turns: Turns,
        meters: Meters,
        log: PeerLog,
        *,
        connections_max: int,
        connections_per_address_max: int,
    ) -> None:
        self.turns = turns
        self.meters = meters
        self._log = log
        self._connections_max = connections_max
        self._connections_per_address_max = connections_per_address_max
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.assembly = Assembly()
        self._peers: set[Peer] = set()
        self._strangers: Counter[str] = Counter()
        """Host → its connections before HELLO."""
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()

    async def open(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket. Raises `OSError` if another process listens there."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self, self._buffer), sock=sock, backlog=BACKLOG)

    def close(self) -> None:
        """Accept nobody any more; who is there stays."""
        if self._server is not None:
            self._server.close()

    async def part(self, seconds: float) -> None:
        """Close every connection behind what was written, within `seconds`; then drop the rest."""
        for peer in list(self._peers):
            peer.part()
        self._judge_empty()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            for peer in list(self._peers):
                peer.drop("stopping")

    def look(self, mono: int) -> None:
        """Look at the peers whose time has come. `mono`: monotonic ms."""
        for peer in [peer for peer in self._peers if peer.due <= mono]:
            peer.look(mono)

    # ---- From peers

    def admit(self, peer: Peer) -> str | None:
        """Let a new peer in, or name the limit that is reached."""
        if len(self._peers) >= self._connections_max:
            return "connections_max"
        if self._strangers[peer.host] >= self._connections_per_address_max:
            return "connections_per_address_max"
        self._peers.add(peer)
        self._strangers[peer.host] += 1
        self._empty.clear()
        return None

    def greeted(self, peer: Peer) -> None:
        """A peer has said HELLO."""
        self._strangers[peer.host] -= 1
        if not self._strangers[peer.host]:
            del self._strangers[peer.host]

    def forget(self, peer: Peer, *, greeted: bool) -> None:
        """The socket of a peer is gone, if it was ever let in."""
        if peer in self._peers:
            self._peers.remove(peer)
            if not greeted:
                self.greeted(peer)
            self._judge_empty()

    def count_drop(self, host: str, reason: str, **facts: str) -> None:
        """Count and log a connection that the broker ends."""
        self.meters.dropped[reason] += 1
        self._log.warning("connection_dropped", host, reason=reason, **facts)

    def _judge_empty(self) -> None:
        if not self._peers:
            self._empty.set()
