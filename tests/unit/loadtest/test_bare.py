"""What a load test measures of the machine itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.loadtest.documents import document, run

from penstock_loadtest import bare, tables
from penstock_loadtest.latency import Latencies


async def test_each_instant_of_the_schedule_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bare, "PACED_SECONDS", 0.2)
    found = bare.both(await bare.bare(500.0), await bare.bare(500.0))
    assert found["paced"]["count"] == 2 * 100
    assert found["paced"]["p50"] <= found["paced"]["max"]


async def test_instants_that_pass_during_a_sync_share_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    synced: list[int] = []

    def takes_ten_instants(fd: int, number: int) -> None:
        synced.append(number)
        now[0] += 10_000_000

    @contextmanager
    def takes_long_to_make() -> Iterator[int]:
        now[0] += 50_000_000
        yield -1

    monkeypatch.setattr(bare, "_file", takes_long_to_make)
    monkeypatch.setattr(bare, "PACED_SECONDS", 0.03)
    monkeypatch.setattr(bare, "_make_durable", takes_ten_instants)
    monkeypatch.setattr(bare.time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(bare, "Ticker", AlwaysTicking)
    found = bare.both(await bare.bare(1_000.0), await bare.bare(1_000.0))
    assert synced == [0, 1, 11, 21] * 2
    assert found["paced"]["count"] == 60
    assert found["paced"]["max"] == pytest.approx(19_000, rel=0.01)  # instant 1, which waited for the next


def test_on_a_schedule_both_measurements_count() -> None:
    before, after = ({"paced": encoded([milliseconds] * 10)} for milliseconds in (1.0, 3.0))
    assert bare.both(before, after)["paced"]["count"] == 20
    assert bare.both(before, after)["paced"]["max"] == pytest.approx(3_000, rel=0.01)


def test_of_single_calls_the_better_measurement_counts() -> None:
    worse, better = ({"sync": {"p50": 100.0}, "echo": {"p50": echo}} for echo in (90.0, 80.0))
    assert bare.both(worse, better) is better


def test_the_disk_alone_stands_beside_what_was_measured() -> None:
    paced = run(scenario="latency", milliseconds=2.0)
    paced["bare"] = {"paced": {"p50": 250.0, "p99": 1_500.0, "p99.9": 40_000.0}}
    (note,) = tables.run_notes(paced)
    assert "confirm p50 1 ms" in note
    assert "before and after: p50 250 µs, p99 1.5 ms, p99.9 40 ms" in note
    assert note in tables.results_table(document(paced))


class AlwaysTicking:
    """A ticker whose next tick is always there."""

    def __init__(self, begin: int, interval: int) -> None:
        pass

    def __enter__(self) -> "AlwaysTicking":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    async def tick(self) -> None:
        """Return at once."""


def encoded(milliseconds: list[float]) -> str:
    latencies = Latencies()
    for each in milliseconds:
        latencies.add(round(each * 1e6))
    return latencies.encode()
