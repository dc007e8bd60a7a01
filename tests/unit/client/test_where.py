"""Filters as users write them, and what `fetch` makes of replies without records."""

import asyncio
from typing import Any

import pytest
from tests.fakes.topic_broker import Broker

from penstock import Where
from penstock.errors import Invalid
from penstock.where import where_to_wire
from penstock_protocol.messages.topics import Fetch, Fetched


def test_conditions_go_over_the_wire_flat() -> None:
    where = Where(key="eu.*", headers={"type": "order*", "version": 2, "gone": None})
    assert where_to_wire(where) == {
        "key": "eu.*",
        "header:type": "order*",
        "header:version": 2,
        "header:gone": None,
    }


@pytest.mark.parametrize("where", [None, {}, {"headers": {}}])
def test_nothing_to_fit_is_no_filter(where: Any) -> None:
    assert where_to_wire(where) is None


@pytest.mark.parametrize(
    "where",
    [
        {"keys": "a"},
        {"key": 1},
        {"key": "a\\"},
        {"headers": {"h": ["a"]}},
        {"headers": {"h": "*" * 17}},
        "eu.*",
        {"headers": "type"},
    ],
    ids=["unknown", "no text", "a lone backslash", "a list", "too many stars", "a text", "a name"],
)
async def test_what_cannot_be_asked_is_not_asked(where: Any) -> None:
    broker = Broker()
    with pytest.raises(Invalid):
        await broker.topic().fetch(0, 0, where=where)
    assert broker.wire.asked == []


async def test_fetch_goes_on_behind_what_does_not_fit_up_to_the_end() -> None:
    broker = Broker()
    broker.append(*[b"x"] * 30)
    broker.wire.answers[Fetch] = lambda f: Fetched(0, 0, 30, min(f.offset + 10, 30), memoryview(b""))
    records = await broker.topic().fetch(0, 0, where={"key": "eu"})
    assert (len(records), records.next_offset) == (0, 30)
    asked = broker.wire.of(Fetch)
    assert [(f.offset, f.wait, f.where) for f in asked] == [(n, 0, {"key": "eu"}) for n in (0, 10, 20)]


async def test_time_in_which_nothing_fitted_counts_as_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    now = asyncio.get_running_loop().time()
    passed = 0.0

    def answer(request: Fetch) -> Fetched:
        nonlocal passed
        passed += 1.0
        return Fetched(0, 0, request.offset + 5, request.offset + 5, memoryview(b""))

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now + passed)
    broker.wire.answers[Fetch] = answer
    records = await broker.topic().fetch(0, 0, wait=2.5, where={"key": "eu"})
    assert (len(records), records.next_offset) == (0, 15)
    assert [f.wait for f in broker.wire.of(Fetch)] == [2_500, 1_500, 500]
