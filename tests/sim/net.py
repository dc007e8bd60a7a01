"""Links between clients and the node: each way in order, with latency, cut at any moment.

A link carries request objects, not bytes. What the node sent and the client has not got yet is kept as the
node gave it, views of journal files included, as a socket would.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from penstock_broker.outputs import Send
from penstock_broker.session import Connection

if TYPE_CHECKING:
    from tests.sim.clients import Ask, Client
    from tests.sim.world import World


class Link:
    """One connection of a client, from its side and from the node's."""

    def __init__(self, world: World, client: Client) -> None:
        self._world = world
        self.client = client
        self.life = world.node.life
        self.up = True
        self._inbox: deque[tuple[int, Ask]] = deque()
        self._outbox: deque[tuple[float, Send]] = deque()
        self.connection: Connection = world.node.core.connected(self)

    def send(self, correlation: int, ask: Ask) -> None:
        """The client asks something."""
        self._inbox.append((correlation, ask))
        self._world.after(self._latency(), self._arrive)

    def _arrive(self) -> None:
        """Whichever request was sent first arrives: the order is kept."""
        if self.up:
            self._world.node.handle(self.connection, *self._inbox.popleft())

    def deliver(self, send: Send) -> None:
        """The node answers, or pushes."""
        self._outbox.append((self._world.time(), send))
        self._world.after(self._latency(), self._reach)

    def _reach(self) -> None:
        if self.up:
            since, send = self._outbox.popleft()
            self.client.received(send, since)

    def close(self) -> None:
        """The node closes behind what it sent."""
        if self.up:
            while self._outbox and self.up:
                self._reach()
            self.cut()

    def cut(self) -> None:
        """The link is gone, with everything on its way; each side notices in its own time."""
        if not self.up:
            return
        self.up = False
        self._inbox.clear()
        self._outbox.clear()
        self.client.lost()
        self._world.soon(self._world.plan.notice_ms, self._noticed, self._world.time())

    def _noticed(self, since: float) -> None:
        """Until now the node may have answered into the void, and handed out messages."""
        self.client.recorder.note("noticed", since=since)
        self._world.node.disconnected(self.life, self.connection)

    def _latency(self) -> int:
        return round(self._world.random.expovariate(1 / self._world.plan.latency_ms))
