"""The document that a load test leaves behind, and the comparison of two of them.

{"format": 1, "made": ISO time, "command": …, "machine": {…},
 "runs": [{system, scenario, about, durability, versions, seconds,
           flows: [{flow, failure, published: MEASURED, received: [MEASURED + {account}, …]}],
           broker, clients: {user_us, system_us (CPU µs per message), rss_anon, descriptors} or null,
           samples: [{at, flows: [[confirmed, seen by reader 0, …], …], rss_anon, descriptors}], bare, idle}],
 "skipped": [{system, scenario, why}]}

MEASURED = {messages, seconds, rate, latency: {p50 … max, count} in µs, histogram: HdrHistogram V2, base64}
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from penstock_loadtest.machine import machine

FORMAT = 1


class Unreadable(Exception):
    """A file that holds no results: one line why."""


def document(command: str) -> dict[str, Any]:
    """One without runs yet."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "format": FORMAT,
        "made": made,
        "command": command,
        "machine": machine(),
        "runs": [],
        "skipped": [],
    }


def save(results: dict[str, Any], path: Path) -> None:
    """Write it, indented where people read."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read one. Raises `Unreadable`."""
    try:
        results: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise Unreadable(f"{path} is not JSON: {error}") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise Unreadable(f"{path} holds no results of format {FORMAT}")
    return results


class Line(NamedTuple):
    """What one reader of one flow came to: a line of the table. Latencies in µs, rates in messages/s."""

    scenario: str
    flow: str
    system: str
    durability: str
    publish_rate: float
    receive_rate: float
    confirm: dict[str, float]
    receive: dict[str, float]
    broker_us: float | None
    account: dict[str, int]
    rate: float | None

    @property
    def key(self) -> tuple[str, str]:
        """What is compared with what: the same flow of the same scenario."""
        return self.scenario, self.flow


def lines(run: dict[str, Any]) -> Iterator[Line]:
    """Every reader of every flow of a run."""
    used = run["broker"]
    for flow in run["flows"]:
        for reader, received in enumerate(flow["received"]):
            name = flow["flow"]["name"]
            yield Line(
                run["scenario"],
                name if len(flow["received"]) == 1 else f"{name} {reader}",
                run["system"],
                run["durability"],
                flow["published"]["rate"],
                received["rate"],
                flow["published"]["latency"],
                received["latency"],
                used and used["user_us"] + used["system_us"],
                received["account"],
                flow["flow"]["rate"],
            )


def is_clean(run: dict[str, Any]) -> bool:
    """Whether nothing was lost, mixed up, made up or refused."""
    return all(
        not any(line.account[name] for name in ("lost", "misordered", "corrupt", "phantom", "failed"))
        for line in lines(run)
    )


def all_lines(results: dict[str, Any]) -> list[Line]:
    """Of every run."""
    return [line for run in results["runs"] for line in lines(run)]


class Change(NamedTuple):
    """A figure in two documents, and b / a."""

    line: Line
    what: str
    a: float
    b: float

    @property
    def ratio(self) -> float:
        """b / a; 0 if there is no a."""
        return self.b / self.a if self.a else 0.0


def changes(a: dict[str, Any], b: dict[str, Any]) -> list[Change]:
    """What both measured, in the order of b."""
    before = {(line.system, *line.key): line for line in all_lines(a)}
    return [
        change
        for line in all_lines(b)
        if (old := before.get((line.system, *line.key))) is not None
        for change in _changes(old, line)
    ]


def _changes(old: Line, new: Line) -> Iterator[Change]:
    yield Change(new, "publish/s", old.publish_rate, new.publish_rate)
    yield Change(new, "receive/s", old.receive_rate, new.receive_rate)
    for name, before, after in (
        ("confirm", old.confirm, new.confirm),
        ("receive", old.receive, new.receive),
    ):
        for percentile in ("p50", "p99", "p99.9"):
            if percentile in before and percentile in after:
                yield Change(new, f"{name} {percentile}", before[percentile], after[percentile])
    if old.broker_us and new.broker_us:
        yield Change(new, "broker CPU", old.broker_us, new.broker_us)
