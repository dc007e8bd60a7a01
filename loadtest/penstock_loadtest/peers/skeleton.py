"""No broker at all: what asyncio and the disk can do here at most, under the same load, verified as all else.

It takes batches, makes them durable, hands them out and takes settles: no names, no leases, no checks, no
recovery, one receive buffer, one flusher thread, bytes written as they came. What a broker in Python reaches
of it is independent of how fast the machine is today.

    u32 length of what follows   u8 what   u32 messages   bodies …
    PUT ──► DONE when durable    SETTLE ──► DONE when durable    TAKE ──► GIVEN as soon as there is any

DONEs come in the order of what they answer, and so do GIVENs.
"""

import asyncio
import os
import struct
import sys
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from penstock_loadtest.adapter import Adapter, Arrived, Unsupported
from penstock_loadtest.agent import runner
from penstock_loadtest.peers.server import PeerServer

HEAD = struct.Struct("<IBI")
LENGTH_BYTES = 4
PUT, TAKE, SETTLE, DONE, GIVEN = range(5)
BUFFER_BYTES = 4 << 20
FILE_BYTES = 256 << 20
"""Of the journal, which is filled beforehand and written again and again."""
GIVEN_MESSAGES_MAX = 1_000
TAKERS = 4
"""As the load on Penstock has it."""
VECTORS_MAX = 1_000


class Server(PeerServer):
    """A process of its own, as every server."""

    PROGRAM = sys.executable

    def versions(self) -> dict[str, str]:
        return {}

    def launch(self) -> None:
        self.url = f"skeleton://127.0.0.1:{self.port}"
        self.spawn(sys.executable, "-m", __name__, str(self.port), str(self.directory / "journal"))


class Frames(asyncio.BufferedProtocol):
    """Cuts what is read into frames; a body is valid until the call for it returns."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, what: int, messages: int, bodies: Sequence[bytes] = ()) -> None:
        """One frame."""
        size = HEAD.size - LENGTH_BYTES + sum(map(len, bodies))
        self.transport.writelines([HEAD.pack(size, what, messages), *bodies])

    def get_buffer(self, sizehint: int) -> memoryview:
        """Behind what is left of a frame."""
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand in every frame that is whole."""
        end, at = self._filled + nbytes, 0
        while end - at >= HEAD.size:
            length, what, messages = HEAD.unpack_from(self._buffer, at)
            behind = at + LENGTH_BYTES + length
            if behind > end:
                break
            self.received(what, messages, self._buffer[at + HEAD.size : behind])
            at = behind
        if at:
            self._buffer[: end - at] = self._buffer[at:end]
        self._filled = end - at

    @abstractmethod
    def received(self, what: int, messages: int, bodies: memoryview) -> None:
        """One frame."""


class Batch(NamedTuple):
    """Bodies that came together."""

    messages: int
    bodies: bytes


class Journal:
    """Makes bytes durable, whatever came meanwhile at a time, in a thread."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        for at in range(0, FILE_BYTES, BUFFER_BYTES):
            os.pwrite(self._file, bytes(BUFFER_BYTES), at)
        os.fsync(self._file)
        self._at = 0
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._then: list[Callable[[], None]] = []
        self._busy = False
        self._writes: SimpleQueue[tuple[list[bytes], list[Callable[[], None]]]] = SimpleQueue()
        Thread(target=self._flush, daemon=True).start()

    def append(self, data: bytes, then: Callable[[], None]) -> None:
        """Call `then` when `data` is durable."""
        self._gathered.append(data)
        self._then.append(then)
        self._begin()

    def _begin(self) -> None:
        if self._gathered and not self._busy:
            self._busy = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        data, self._gathered = self._gathered[:VECTORS_MAX], self._gathered[VECTORS_MAX:]
        then, self._then = self._then[:VECTORS_MAX], self._then[VECTORS_MAX:]
        self._writes.put((data, then))

    def _flush(self) -> None:
        while True:
            data, then = self._writes.get()
            size = sum(map(len, data))
            if self._at + size > FILE_BYTES:
                self._at = 0
            os.pwritev(self._file, data, self._at)
            os.fdatasync(self._file)
            self._at += -(-size // 4096) * 4096
            self._loop.call_soon_threadsafe(self._written, then)

    def _written(self, then: list[Callable[[], None]]) -> None:
        self._busy = False
        self._begin()
        for each in then:
            each()


class Peer(Frames):
    """One connection of the server."""

    def __init__(self, journal: Journal, batches: deque[Batch], takers: deque["Peer"]) -> None:
        super().__init__()
        self._journal = journal
        self._batches = batches
        self._takers = takers

    def received(self, what: int, messages: int, bodies: memoryview) -> None:
        """A request."""
        if what == TAKE:
            self._takers.append(self)
            self._hand_out()
        elif what == PUT:
            batch = Batch(messages, bytes(bodies))
            self._journal.append(batch.bodies, lambda: self._put(batch))
        else:
            self._journal.append(HEAD.pack(0, what, messages), lambda: self.send(DONE, 0))

    def _put(self, batch: Batch) -> None:
        self.send(DONE, 0)
        self._batches.append(batch)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._batches and self._takers:
            given = [self._batches.popleft()]
            messages = given[0].messages
            while self._batches and messages + self._batches[0].messages <= GIVEN_MESSAGES_MAX:
                given.append(self._batches.popleft())
                messages += given[-1].messages
            self._takers.popleft().send(GIVEN, messages, [batch.bodies for batch in given])


class Client(Frames):
    """One connection of a client."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: deque[asyncio.Future[None]] = deque()
        self.taking: deque[asyncio.Future[Batch | None]] = deque()

    def received(self, what: int, messages: int, bodies: memoryview) -> None:
        """A reply."""
        if what == DONE:
            self._asked.popleft().set_result(None)
        else:
            self.taking.popleft().set_result(Batch(messages, bytes(bodies)))

    def ask(self, what: int, messages: int, bodies: Sequence[bytes] = ()) -> asyncio.Future[None]:
        """PUT or SETTLE."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self.send(what, messages, bodies)
        return future

    def take(self) -> asyncio.Future[Batch | None]:
        """TAKE."""
        future: asyncio.Future[Batch | None] = asyncio.get_running_loop().create_future()
        self.taking.append(future)
        self.send(TAKE, 0)
        return future


class Raw(Adapter):
    """One queue."""

    async def open(self) -> None:
        if self.flow.kind == "topic" or self.flow.lanes > 1:
            raise Unsupported("the skeleton has one queue alone")
        address = urlsplit(self.url)
        connect = asyncio.get_running_loop().create_connection
        _, self._client = await connect(Client, address.hostname or "", address.port or 0)

    async def close(self) -> None:
        self._client.transport.close()

    async def create(self) -> None:
        """It is there."""

    async def delete(self) -> None:
        """Everything was taken."""

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        await self._client.ask(PUT, len(bodies), bodies)

    async def consume(self, reader: int, arrived: Arrived) -> None:
        await asyncio.gather(*(self._take(arrived) for _ in range(TAKERS)))

    async def _take(self, arrived: Arrived) -> None:
        while not self.stopped and (batch := await self._client.take()) is not None:
            await arrived((batch.bodies,), batch.messages)
            await self._client.ask(SETTLE, batch.messages)

    def stop(self) -> None:
        super().stop()
        while self._client.taking:
            self._client.taking.popleft().set_result(None)


async def serve(port: int, path: str) -> None:
    """Until the process is ended."""
    journal, batches, takers = Journal(path), deque[Batch](), deque[Peer]()
    server = await asyncio.get_running_loop().create_server(
        lambda: Peer(journal, batches, takers), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    runner()(serve(int(sys.argv[1]), sys.argv[2]))
