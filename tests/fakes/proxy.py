"""A way to the broker that a test can cut: `async with Proxy(broker.address) as proxy: … proxy.url`."""

import asyncio


class Proxy:
    """Carries bytes both ways over sockets of its own."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """What `penstock.connect` takes."""
        assert self._server is not None
        return "penstock://{}:{}".format(*self._server.sockets[0].getsockname())

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self._open.set()
        await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        """End every connection at once; what is on its way is lost."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def close(self) -> None:
        """Cut, and let nobody through until `reopen`."""
        self._open.clear()
        self.cut()

    def reopen(self, target: tuple[str, int] | None = None) -> None:
        """Let connections through again, to another address if one is given."""
        self._target = target or self._target
        self._open.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._remember(asyncio.current_task())
        self._writers.add(writer)
        await self._open.wait()
        if writer.transport.is_closing():
            return
        broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        self._writers.add(broker_writer)
        for source, sink in ((reader, broker_writer), (broker_reader, writer)):
            self._remember(asyncio.ensure_future(self._carry(source, sink)))

    def _remember(self, task: "asyncio.Task[None] | None") -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except OSError:
            sink.transport.abort()
        sink.close()
