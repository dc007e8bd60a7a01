"""beanstalkd: its own protocol on a plain socket, because no Python client pipelines, and that is what makes
it fast: puts in hundreds, reserves and deletes in hundreds.

A queue is a tube. There is nothing like a topic.
"""

import asyncio
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from penstock_loadtest.adapter import Adapter, Arrived, Unsupported
from penstock_loadtest.peers.coalesce import Coalescer, Item
from penstock_loadtest.peers.server import PeerServer, program

PIPELINE = 100
TIME_TO_RUN = 120
BODY_BYTES_MAX = 8 << 20


class Server(PeerServer):
    """beanstalkd with a binlog; the setting is the most ms between two syncs of it (0: every write)."""

    PROGRAM = "beanstalkd"
    VERSION = ("-v",)

    def launch(self) -> None:
        (interval,) = self._settings
        self.url = f"beanstalk://127.0.0.1:{self.port}"
        self.spawn(
            *(program(self.PROGRAM) or self.PROGRAM, "-l", "127.0.0.1", "-p", str(self.port)),
            *("-b", str(self.directory), "-f", interval, "-z", str(BODY_BYTES_MAX)),
        )


class Tubes(Adapter):
    """One tube per queue."""

    async def open(self) -> None:
        if self.flow.kind == "topic":
            raise Unsupported("beanstalkd has queues alone")
        address = urlsplit(self.url)
        self._socket = socket.create_connection((address.hostname or "", address.port or 0), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb", buffering=1 << 18)
        self._tubes = [name.encode() for name in self.names()]
        self._coalescer = Coalescer(self._send, PIPELINE)

    async def close(self) -> None:
        self._socket.close()

    async def create(self) -> None:
        """A tube is there when it is used, and gone when it is empty."""

    async def delete(self) -> None:
        """Nothing is left of an empty tube."""

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        await self._coalescer.publish(lane, bodies)

    def _send(self, items: Sequence[Item]) -> None:
        parts: list[bytes] = []
        messages = 0
        for lane, bodies, _ in items:
            parts.append(b"use %s\r\n" % self._tubes[lane])
            for body in bodies:
                parts += (b"put 0 0 %d %d\r\n" % (TIME_TO_RUN, len(body)), body, b"\r\n")
            messages += len(bodies)
        self._socket.sendall(b"".join(parts))
        for _ in range(messages + len(items)):
            line = self._line()
            if not line.startswith((b"INSERTED", b"USING")):
                raise OSError(f"beanstalkd answered {line.decode()!r}")

    async def consume(self, reader: int, arrived: Arrived) -> None:
        self._socket.sendall(b"".join(b"watch %s\r\n" % tube for tube in self._tubes) + b"ignore default\r\n")
        for _ in range(len(self._tubes) + 1):
            self._line()
        jobs: list[bytes] = []
        while not self.stopped or jobs:
            # The first reserve waits, so that the others are answered at once.
            reserves = b"reserve-with-timeout 1\r\n" + b"reserve-with-timeout 0\r\n" * (PIPELINE - 1)
            self._socket.sendall(b"".join(b"delete %s\r\n" % job for job in jobs) + reserves)
            for _ in jobs:
                line = self._line()
                if line != b"DELETED":
                    raise OSError(f"beanstalkd answered {line.decode()!r}")
            found = [job for job in (self._reserved() for _ in range(PIPELINE)) if job]
            jobs = [job for job, _ in found]
            if found:
                await arrived([body for _, body in found], len(found))
            await asyncio.sleep(0)

    def _reserved(self) -> tuple[bytes, bytes] | None:
        """The next job, None at a time-out."""
        line = self._line()
        if line in (b"TIMED_OUT", b"DEADLINE_SOON"):
            return None
        word, job, size = line.split()
        if word != b"RESERVED":
            raise OSError(f"beanstalkd answered {line.decode()!r}")
        body = self._replies.read(int(size) + 2)
        return job, body[:-2]

    def _line(self) -> bytes:
        line = self._replies.readline()
        if not line:
            raise ConnectionError("beanstalkd closed the connection")
        return line.rstrip()
