"""Latencies survive the way through a histogram, and what was not sent in time is not forgotten."""

import numpy as np
import pytest

from penstock_loadtest.latency import CURVE_FROM, PENDING_MAX, Latencies, curve, merged, summary

MS = 1_000_000


def test_percentiles_are_those_of_the_values() -> None:
    latencies = Latencies()
    latencies.add_all(np.arange(1, 1_001) * MS)
    shown = summary(merged([latencies.encode()]))
    for name, exact in (("p50", 500e3), ("p90", 900e3), ("p99", 990e3), ("p99.9", 999e3), ("max", 1000e3)):
        assert shown[name] == pytest.approx(exact, rel=0.002), name
    assert shown["count"] == 1_000


def test_one_by_one_is_the_same_as_all_at_once() -> None:
    values = np.random.default_rng(1).integers(1_000, 5_000 * MS, PENDING_MAX + 17)
    one, all_at_once = Latencies(), Latencies()
    for value in values.tolist():
        one.add(value)
    all_at_once.add_all(values)
    assert summary(merged([one.encode()])) == summary(merged([all_at_once.encode()]))


def test_dropped_bits_cost_no_digit() -> None:
    exact = merged([])
    latencies = Latencies()
    values = np.random.default_rng(2).integers(1_000, 3_000 * MS, 2_000)
    latencies.add_all(values)
    for value in values.tolist():
        exact.record_value(value // 1_000)
    assert summary(merged([latencies.encode()])) == summary(exact)


def test_stall_stands_for_the_calls_that_were_not_made() -> None:
    stalled, forgetful = Latencies(expected_us=1_000), Latencies()
    for latencies in (stalled, forgetful):
        latencies.add_all(np.array([1 * MS] * 99 + [100 * MS]))
    assert summary(merged([forgetful.encode()]))["p90"] == pytest.approx(1_000, rel=0.002)
    shown = summary(merged([stalled.encode()]))
    assert shown["count"] == 99 + 100
    assert shown["p90"] == pytest.approx(80_000, rel=0.02)


def test_merging_adds() -> None:
    parts = []
    for value in (1, 2, 3):
        latencies = Latencies()
        latencies.add(value * MS)
        parts.append(latencies.encode())
    assert summary(merged(parts))["count"] == 3


def test_nothing_measured_has_neither_summary_nor_curve() -> None:
    assert summary(merged([])) == {}
    assert curve(merged([])) == []


def test_curve_rises_from_a_fifth_to_the_last_value() -> None:
    latencies = Latencies()
    latencies.add_all(np.arange(1, 10_001) * MS)
    points = curve(merged([latencies.encode()]))
    assert points[0][0] == pytest.approx(CURVE_FROM)
    assert points[0][1] == pytest.approx(2_000e3, rel=0.01)
    assert points[-1] == (pytest.approx(10_000), pytest.approx(10_000e3, rel=0.01))
    assert [value for _, value in points] == sorted(value for _, value in points)
