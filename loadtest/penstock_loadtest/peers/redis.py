"""Redis Streams: redis-py with hiredis; XADD in pipelines of 100, XREADGROUP with the XACK of what came
before.

A queue is a stream with one group, a topic one with a group per reader; each key is a stream of its own.
Entries stay after XACK, as in any stream that is trimmed by length or age.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis

from penstock_loadtest.adapter import Adapter, Arrived
from penstock_loadtest.peers.coalesce import Coalescer, Item
from penstock_loadtest.peers.server import PeerServer, program

PIPELINE = 100
READ = 200
BLOCK_MS = 100
FIELD = b"b"


class Server(PeerServer):
    """redis-server with an append-only file; the setting is `appendfsync`."""

    PROGRAM = "redis-server"

    def launch(self) -> None:
        self.url = f"redis://127.0.0.1:{self.port}"
        (appendfsync,) = self._settings
        self.spawn(
            *(program(self.PROGRAM) or self.PROGRAM, "--bind", "127.0.0.1", "--port", str(self.port)),
            *(
                "--dir",
                str(self.directory),
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                appendfsync,
            ),
        )

    def ready(self) -> bool:
        try:
            return super().ready() and bool(redis.Redis.from_url(self.url).ping())
        except redis.RedisError:
            return False


class Streams(Adapter):
    """One stream per queue."""

    async def open(self) -> None:
        self._redis: Any = redis.Redis.from_url(self.url)
        self._redis.ping()
        self._streams = self.names()
        self._coalescer = Coalescer(self._send, PIPELINE)

    async def close(self) -> None:
        self._redis.close()

    async def create(self) -> None:
        for stream in self._streams:
            for reader in range(self.flow.readers):
                self._redis.xgroup_create(stream, f"reader-{reader}", "0", mkstream=True)

    async def delete(self) -> None:
        self._redis.unlink(*self._streams)

    async def publish(self, lane: int, bodies: list[bytes]) -> None:
        await self._coalescer.publish(lane, bodies)

    def _send(self, items: Sequence[Item]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for lane, bodies, _ in items:
            stream = self._streams[lane]
            for body in bodies:
                pipeline.xadd(stream, {FIELD: body})
        pipeline.execute()

    async def consume(self, reader: int, arrived: Arrived) -> None:
        group, streams = f"reader-{reader}", dict.fromkeys(self._streams, ">")
        consumer = f"consumer-{id(self)}"
        came: list[tuple[bytes, list[bytes]]] = []
        while not self.stopped or came:
            pipeline = self._redis.pipeline(transaction=False)
            for stream, ids in came:
                pipeline.xack(stream, group, *ids)
            pipeline.xreadgroup(group, consumer, streams, count=READ, block=BLOCK_MS)
            came = []
            for stream, entries in _streams(pipeline.execute()[-1]):
                came.append((stream, [each for each, _ in entries]))
                await arrived([fields[FIELD] for _, fields in entries], len(entries))
            await asyncio.sleep(0)


def _streams(reply: Any) -> list[Any]:
    """(stream, entries) of a reply of XREADGROUP, which is a map or a list by protocol and version."""
    if isinstance(reply, dict):
        return [(stream, [entry for part in parts for entry in part]) for stream, parts in reply.items()]
    return list(reply or ())
