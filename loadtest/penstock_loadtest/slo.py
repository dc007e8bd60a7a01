"""What is demanded of a run: `p99<5ms,rate>100k`.

    [publish.|receive.]METRIC  <  <=  >  >=  VALUE

METRIC is p50 p90 p99 p99.9 p99.99 max (of the latency), rate (messages/s), or lost duplicates misordered
corrupt phantom failed. A latency or rate alone is that of receive: from the publish to the consumer. Values
are like 800us 5ms 1s, 100k 1.5M or plain. It must hold for every flow and reader of every run of Penstock.
"""

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

TIMES = {"us": 1.0, "ms": 1e3, "s": 1e6}
AMOUNTS = {"": 1.0, "k": 1e3, "M": 1e6}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
LATENCIES = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
COUNTS = ("lost", "duplicates", "misordered", "corrupt", "phantom", "failed")
TERM = re.compile(r"(?:(publish|receive)\.)?([a-z0-9.]+?)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)(us|ms|s|k|M|)")
EXAMPLE = "write it like p99<5ms,rate>100k or publish.p99.9<=20ms,lost<1"


class Term(NamedTuple):
    """One demand; `value` in µs for a latency."""

    text: str
    of: str
    metric: str
    comparison: str
    value: float


def parse(text: str) -> list[Term]:
    """The demands of a text. Raises `ValueError` that says what to write."""
    return [_term(part.strip()) for part in text.split(",")]


def _term(text: str) -> Term:
    found = TERM.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no demand: {EXAMPLE}")
    of, metric, comparison, number, unit = found.groups()
    known = TIMES if metric in LATENCIES else AMOUNTS
    if metric not in (*LATENCIES, *COUNTS, "rate") or unit not in known:
        raise ValueError(f"{text!r} is no demand: {EXAMPLE}")
    return Term(text, of or "receive", metric, comparison, float(number) * known[unit])


def missed(terms: list[Term], run: dict[str, Any]) -> list[str]:
    """A line for each demand that a run does not meet; what was not measured is not met."""
    return [
        f"{term.text} is missed by {run['system']} {run['scenario']} {where}: {_shown(term, value)}"
        for term in terms
        for where, value in _values(term, run)
        if value is None or not COMPARISONS[term.comparison](value, term.value)
    ]


def _values(term: Term, run: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    for flow in run["flows"]:
        name = flow["flow"]["name"]
        for reader, received in enumerate(flow["received"]):
            if term.metric in COUNTS:
                yield f"{name}, reader {reader}", received["account"][term.metric]
            elif term.of == "receive":
                yield f"{name}, reader {reader}", _of(received, term.metric)
        if term.of == "publish" and term.metric not in COUNTS:
            yield f"{name}, publish", _of(flow["published"], term.metric)


def _of(measured: dict[str, Any], metric: str) -> float | None:
    value: float | None = measured["rate"] if metric == "rate" else measured["latency"].get(metric)
    return value


def _shown(term: Term, value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value / 1e3:,.2f} ms" if term.metric in LATENCIES else f"{value:,.0f}"
