"""The first signal stops, the second ends."""

import asyncio
import signal

import pytest

from penstock_broker.server import signals


@pytest.mark.parametrize("first", signals.STOP)
@pytest.mark.parametrize("second", signals.STOP)
async def test_first_signal_stops_and_each_later_one_ends(
    first: signal.Signals, second: signal.Signals
) -> None:
    loop = asyncio.get_running_loop()
    said: list[str] = []
    arrived = asyncio.Event()

    def say(word: str) -> None:
        said.append(word)
        arrived.set()

    signals.install(loop, lambda: say("stop"), lambda: say("end"))
    try:
        for number in (first, second, first):
            arrived.clear()
            signal.raise_signal(number)
            await asyncio.wait_for(arrived.wait(), 5)
    finally:
        for number in signals.STOP:
            loop.remove_signal_handler(number)
    assert said == ["stop", "end", "end"]
