"""Publishes of one turn share pipelines, in order."""

import asyncio
from collections.abc import Sequence

import pytest

from penstock_loadtest.peers.coalesce import Coalescer, Item


async def test_concurrent_calls_share_pipelines_of_bounded_size() -> None:
    sent: list[list[bytes]] = []

    def send(items: Sequence[Item]) -> None:
        sent.append([body for item in items for body in item.bodies])

    coalescer = Coalescer(send, 4)
    await asyncio.gather(*(coalescer.publish(0, [b"%d" % n, b"+"]) for n in range(5)))
    assert sent == [[b"0", b"+", b"1", b"+"], [b"2", b"+", b"3", b"+"], [b"4", b"+"]]


async def test_failure_reaches_every_call_of_its_pipeline_and_no_other() -> None:
    def send(items: Sequence[Item]) -> None:
        if any(item.lane == 1 for item in items):
            raise OSError("gone")

    coalescer = Coalescer(send, 1)
    first, second = asyncio.ensure_future(coalescer.publish(1, [b"a"])), coalescer.publish(2, [b"b"])
    await second
    with pytest.raises(OSError, match="gone"):
        await first
