"""Demands on a run: what can be said, what is met."""

import pytest
from tests.unit.loadtest.documents import run

from penstock_loadtest import slo


@pytest.mark.parametrize(
    "text",
    [
        "p99<25ms",
        "p50<=2.1ms,p50>=1900us",
        "max<1s",
        "rate>99k",
        "publish.rate>0.19M",
        "publish.p99.9<11ms",
        "lost<1, duplicates<1",
    ],
)
def test_met_demand_is_silent(text: str) -> None:
    assert slo.missed(slo.parse(text), run(rate=100_000, milliseconds=2)) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("p99.9<5ms", "20.02 ms"),
        ("rate>100k", "100,000"),
        ("publish.rate>=1M", "200,000"),
        ("publish.p50<500us", "1.00 ms"),
    ],
)
def test_missed_demand_says_by_how_much(text: str, value: str) -> None:
    (line,) = slo.missed(slo.parse(text), run(rate=100_000, milliseconds=2))
    assert line.startswith(f"{text} is missed by penstock queue queue")
    assert line.endswith(value)


def test_every_reader_has_to_meet_it() -> None:
    assert len(slo.missed(slo.parse("lost<1"), run(readers=3, account={"lost": 2}))) == 3


def test_what_was_not_measured_is_not_met() -> None:
    nothing = run()
    nothing["flows"][0]["received"][0]["latency"] = {}
    assert slo.missed(slo.parse("p99<1s"), nothing)[0].endswith("not measured")


@pytest.mark.parametrize(
    "text",
    ["", "p99", "p99<", "p98<5ms", "p99<5", "p99<5k", "rate>5ms", "p99=5ms", "rate>100k,,", "x.p99<5ms"],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like p99<5ms,rate>100k"):
        slo.parse(text)
