"""Two links and the bytes between them, in memory: what a connection is without a socket.

Nothing moves by itself. `wire.server.receive(7)` lets seven bytes arrive; what they complete comes back.
"""

from random import Random
from typing import Any

from penstock_protocol.checksum import Buffer
from penstock_protocol.link import Link, Received, Role
from penstock_protocol.messages.session import MAGIC, Hello, Welcome
from penstock_protocol.verbs import BY_REQUEST, Verb


class End:
    """One side of a wire. `incoming`: bytes on their way to it."""

    def __init__(self, role: Role) -> None:
        self.link = Link(role)
        self.incoming = bytearray()
        self.peer: End = self

    def request(self, message: Any, correlation: int = 0) -> None:
        """Send a request, or a push with correlation 0."""
        self.send(self.link.request(message, correlation))

    def reply(self, verb: Verb, correlation: int, message: Any) -> None:
        """Send a reply; an `Error` becomes an error reply."""
        self.send(self.link.reply(verb, correlation, message))

    def send(self, buffers: list[Buffer]) -> None:
        """Put bytes on their way to the other end."""
        for buffer in buffers:
            self.peer.incoming += buffer

    def receive(self, size: int | None = None) -> list[Received]:
        """Let `size` bytes (None: all) arrive; the messages they complete."""
        piece = bytes(self.incoming[:size])
        del self.incoming[: len(piece)]
        return list(self.link.receive(piece)) if piece else []

    def receive_in_pieces(self, random: Random, largest: int = 64) -> list[Received]:
        """Let everything arrive in pieces of 1 … `largest` bytes."""
        received = []
        while self.incoming:
            received += self.receive(random.randint(1, largest))
        return received


class Wire:
    """A client's end and a server's end, before the handshake."""

    def __init__(self) -> None:
        self.client = End(Role.CLIENT)
        self.server = End(Role.SERVER)
        self.client.peer, self.server.peer = self.server, self.client

    def shake_hands(self, *, session: bytes = bytes(16), producer_id: int = 1) -> Hello:
        """Exchange HELLO and a Welcome of no particular content; what the server was told."""
        self.client.request(Hello(MAGIC, 1, 1, session, producer_id, "test"), 1)
        (asked,) = self.server.receive()
        assert isinstance(asked.message, Hello)
        self.server.reply(BY_REQUEST[Hello], 1, Welcome(1, "test", bytes(16), 1, False, 1 << 20, 0, {}))
        self.client.receive()
        return asked.message

    def cut(self) -> None:
        """The connection is lost: whatever is on its way never arrives."""
        self.client.incoming.clear()
        self.server.incoming.clear()
