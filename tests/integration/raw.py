"""A client of one socket and no cleverness: what a test says is what goes over the wire."""

import os
import socket
from collections import deque
from types import TracebackType
from typing import Any

from penstock_protocol.batch import BatchBuilder, BatchView
from penstock_protocol.errors import Error
from penstock_protocol.link import Link, Received, Role
from penstock_protocol.messages.queues import CreateQueue, Enqueue, Receive
from penstock_protocol.messages.session import MAGIC, Hello
from penstock_protocol.slices import decode_slices

SECONDS = 20


class RawClient:
    """Connected, and greeted unless told otherwise."""

    def __init__(self, address: tuple[str, int], *, hello: bool = True) -> None:
        self.socket = socket.create_connection(address, timeout=SECONDS)
        self._link = Link(Role.CLIENT)
        self._arrived: deque[Received] = deque()
        self._correlation = 0
        if hello:
            try:
                self.welcome = self.ask(Hello(MAGIC, 1, 1, os.urandom(16), 0, "raw"))
            except BaseException:
                self.socket.close()
                raise

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, message: Any) -> int:
        """Send a request; its correlation id."""
        self._correlation += 1
        self.socket.sendall(b"".join(self._link.request(message, self._correlation)))
        return self._correlation

    def next(self) -> Received | None:
        """The next message of the broker; None when it has closed."""
        while not self._arrived:
            data = self.socket.recv(1 << 20)
            if not data:
                return None
            self._arrived.extend(self._link.receive(data))
        return self._arrived.popleft()

    def ask(self, message: Any) -> Any:
        """Send a request and wait for its reply; an error reply is raised. `ConnectionError` when closed."""
        correlation = self.send(message)
        received = self.next()
        if received is None:
            raise ConnectionError("the broker closed the connection")
        if isinstance(received.message, Error):
            raise received.message
        assert received.correlation == correlation
        return received.message

    def create_queue(self, name: str, **settings: Any) -> None:
        """Create a queue, or leave the one there is."""
        self.ask(CreateQueue(name, settings, "keep"))

    def enqueue(self, queue: str, *bodies: bytes) -> Any:
        """Enqueue one batch; the confirm."""
        builder = BatchBuilder()
        builder.extend(bodies)
        return self.ask(Enqueue(queue, builder.encode()))

    def receive(self, queue: str, messages: int = 10, wait: int = 0) -> list[bytes]:
        """The bodies of up to so many messages, in order."""
        delivery = self.ask(Receive(queue, messages, wait))
        out: list[bytes] = []
        for _, batch in decode_slices(memoryview(delivery.payload), delivery.slices):
            view = BatchView(batch)
            starts = [0, *view.ends()]
            out += [bytes(view.bodies()[a:b]) for a, b in zip(starts, view.ends(), strict=False)]
        return out
