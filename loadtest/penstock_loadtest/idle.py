"""Connections that are logged in and then do nothing, for what they cost the broker."""

import asyncio

import penstock

AT_ONCE = 50
"""Connections that are being opened at the same time."""


class Idle:
    """Holds clients of the broker at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: list[penstock.Client] = []

    async def open(self, connections: int) -> None:
        """That many more."""
        left = iter(range(connections))

        async def connect() -> None:
            for _ in left:
                self._clients.append(await penstock.connect(self._url, connect_timeout=30.0))

        await asyncio.gather(*(connect() for _ in range(AT_ONCE)))

    async def close(self) -> None:
        """All of them."""
        await asyncio.gather(*(client.close() for client in self._clients))
