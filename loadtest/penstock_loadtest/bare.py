"""What the machine can do without any broker: a write made durable, and a round trip over loopback.

`python -m penstock_loadtest.bare` is the process at the other end of the round trip; it prints its port.
"""

import asyncio
import os
import sys
import tempfile
import time
from typing import Any, cast

from penstock_loadtest.agent import runner
from penstock_loadtest.broker import roomy
from penstock_loadtest.latency import Latencies, merged, summary
from penstock_loadtest.scenarios import KIB, MIB

SYNCS = 2_000
ECHOES = 5_000
FILE_BYTES = 16 * MIB
BLOCK_BYTES = 4 * KIB
"""What a broker writes for a message of 1 KiB: a block of the disk."""


def cost(found: dict[str, Any]) -> float:
    """µs of one sync and one echo, by their medians."""
    total: float = found["sync"]["p50"] + found["echo"]["p50"]
    return total


async def bare() -> dict[str, Any]:
    """Latencies in µs of pwrite and fdatasync of a block (`sync`), and of 1 KiB there and back (`echo`)."""
    return {
        "sync": summary(merged([_syncs().encode()])),
        "echo": summary(merged([(await _echoes()).encode()])),
    }


def _syncs() -> Latencies:
    latencies = Latencies()
    block = os.urandom(BLOCK_BYTES)
    with tempfile.TemporaryFile(dir=roomy()) as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(FILE_BYTES), 0)
        os.fsync(fd)
        for at in range(SYNCS):
            began = time.monotonic_ns()
            os.pwrite(fd, block, at * BLOCK_BYTES % FILE_BYTES)
            os.fdatasync(fd)
            latencies.add(time.monotonic_ns() - began)
    return latencies


async def _echoes() -> Latencies:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock_loadtest.bare"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        loop = asyncio.get_running_loop()
        transport, caller = await loop.create_connection(Caller, "127.0.0.1", port)
        await caller.done
        transport.close()
        return caller.latencies
    finally:
        process.kill()
        await process.wait()


class Caller(asyncio.Protocol):
    """Sends 1 KiB, waits for it to come back, and again."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.done = asyncio.get_running_loop().create_future()
        self._data = os.urandom(KIB)
        self._left = ECHOES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the echo went away"))

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing:
            return
        self.latencies.add(time.monotonic_ns() - self._began)
        self._left -= 1
        if self._left:
            self._send()
        else:
            self.done.set_result(None)

    def _send(self) -> None:
        self._missing = len(self._data)
        self._began = time.monotonic_ns()
        self._transport.write(self._data)


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    runner()(_serve())
