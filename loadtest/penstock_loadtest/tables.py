"""Results as text: what a terminal shows, and what the page shows as a table, too."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TextIO

from penstock.cli.output import table
from penstock_loadtest.results import Change, Line, all_lines
from penstock_loadtest.scenarios import SCENARIOS
from penstock_loadtest.systems import OWN, SYSTEMS

HEAD = (
    *("scenario", "flow", "system", "durability", "publish/s", "receive/s"),
    *("confirm p50", "p99", "receive p50", "p99", "p99.9", "broker CPU", "verified"),
)


LONG_SECONDS = 300.0
"""From then on it is worth a line how memory went."""


def row(line: Line) -> list[str]:
    """The cells of a line under `HEAD`; a rate that was given is marked with =."""
    given = "=" if line.rate else ""
    return [
        *(line.scenario, line.flow, line.system, line.durability),
        *(f"{given}{line.publish_rate:,.0f}", f"{given}{line.receive_rate:,.0f}"),
        *(time_text(line.confirm.get(name)) for name in ("p50", "p99")),
        *(time_text(line.receive.get(name)) for name in ("p50", "p99", "p99.9")),
        "-" if line.broker_us is None else f"{line.broker_us:.2f} µs",
        verdict(line.account),
    ]


def verdict(account: dict[str, int]) -> str:
    """`all 2,000,000`, or what is wrong."""
    names = ("failed", "lost", "duplicates", "misordered", "corrupt", "phantom")
    wrong = [f"{account[name]:,} {name}" for name in names if account[name]]
    return ", ".join(wrong) or f"all {account['sent']:,}"


def time_text(microseconds: float | None) -> str:
    """In the unit that leaves three digits."""
    if microseconds is None:
        return "-"
    if microseconds < 10:
        return f"{microseconds:.2f} µs"
    if microseconds < 1_000:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1e3:.3g} ms" if microseconds < 999_500 else f"{microseconds / 1e6:.3g} s"


def results_table(results: dict[str, Any]) -> str:
    """Everything that was measured, and what was left out."""
    skipped = "".join(
        f"skipped: {each['system']} {each['scenario']}: {each['why']}\n" for each in results["skipped"]
    )
    notes = "".join(f"{note}\n" for run in results["runs"] for note in run_notes(run))
    return aligned(HEAD, map(row, all_lines(results))) + notes + skipped


def run_notes(run: dict[str, Any]) -> list[str]:
    """What some scenarios measure besides."""
    notes = [
        f"{run['scenario']}: a publish failed: {flow['failure']}" for flow in run["flows"] if flow["failure"]
    ]
    if run["bare"]:
        notes.append(f"{run['scenario']} on {run['system']}: {_beside_bare(run)}")
    if run["samples"] and run["samples"][-1]["at"] >= LONG_SECONDS and run["samples"][-1]["rss_anon"]:
        notes.append(f"{run['scenario']}: {_growth(run['samples'])}")
    if run["idle"]:
        idle = run["idle"]
        each = idle["rss_anon_each"]
        notes.append(
            f"{run['scenario']}: {idle['connections']:,} idle connections, opened in {idle['seconds']:.1f} s,"
            f" {'?' if each is None else f'{each / 1024:.1f} KiB'} of memory each; confirm p99"
            f" {time_text(idle['confirm_alone'].get('p99'))} without,"
            f" {time_text(idle['confirm_beside'].get('p99'))} with them"
        )
    return notes


def _beside_bare(run: dict[str, Any]) -> str:
    """What was measured, and beside it what the machine does without any broker."""
    confirm, bare = run["flows"][0]["published"]["latency"], run["bare"]
    if "paced" in bare:
        shown = ("p50", "p99", "p99.9")
        ours, disk = (
            ", ".join(f"{name} {time_text(found.get(name))}" for name in shown)
            for found in (confirm, bare["paced"])
        )
        return f"confirm {ours}; the disk alone on this schedule, before and after: {disk}"
    sync, echo = bare["sync"]["p50"], bare["echo"]["p50"]
    return (
        f"confirm p50 {time_text(confirm['p50'])} is {confirm['p50'] / (sync + echo):.2f} × bare:"
        f" fdatasync {time_text(sync)} + echo {time_text(echo)}"
    )


def _growth(samples: list[dict[str, Any]]) -> str:
    """What became of memory and descriptors in the second half of a long run."""
    half, last = samples[len(samples) // 2], samples[-1]
    hours = (last["at"] - half["at"]) / 3600
    grown = (last["rss_anon"] - half["rss_anon"]) / 2**20 / hours
    return (
        "in the second half RssAnon went from "
        f"{half['rss_anon'] / 2**20:.1f} to {last['rss_anon'] / 2**20:.1f} MiB"
        f" ({grown:+.1f} MiB/h), descriptors from {half['descriptors']} to {last['descriptors']}"
    )


class Ratio(NamedTuple):
    """Penstock against a peer, in one flow of one scenario."""

    own: Line
    peer: Line

    def rates(self) -> list[str]:
        """How many times the peer's rate: to publish, and end to end. `=` where the rate was given."""
        pairs = (
            (self.own.publish_rate, self.peer.publish_rate),
            (self.own.receive_rate, self.peer.receive_rate),
        )
        return ["=" if self.own.rate else f"{own / peer:.1f} ×" if peer else "-" for own, peer in pairs]


def ratios(results: dict[str, Any]) -> list[Ratio]:
    """Against every peer of the same document."""
    lines = all_lines(results)
    own = {line.key: line for line in lines if line.system == OWN}
    return [Ratio(own[line.key], line) for line in lines if line.system != OWN and line.key in own]


def ratios_table(results: dict[str, Any]) -> str:
    """How many times as fast as each peer, durability of both beside it."""
    head = (
        "scenario",
        "flow",
        "against",
        "its durability",
        "ours",
        "publish",
        "receive",
        "p99 theirs",
        "ours",
    )
    rows = [
        [
            *(
                ratio.own.scenario,
                ratio.own.flow,
                ratio.peer.system,
                ratio.peer.durability,
                ratio.own.durability,
            ),
            *ratio.rates(),
            *(time_text(line.receive.get("p99")) for line in (ratio.peer, ratio.own)),
        ]
        for ratio in ratios(results)
    ]
    return aligned(head, rows) if rows else ""


def changes_table(changes: Sequence[Change]) -> str:
    """Two documents beside each other."""
    rows = [
        [
            *(change.line.scenario, change.line.flow, change.line.system, change.what),
            *(_figure(change, value) for value in (change.a, change.b)),
            f"{change.ratio:.2f} ×",
        ]
        for change in changes
    ]
    return aligned(("scenario", "flow", "system", "figure", "a", "b", "b / a"), rows)


def _figure(change: Change, value: float) -> str:
    return f"{value:,.0f}" if change.what.endswith("/s") else time_text(value)


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as text."""
    return table(head, [list(each) for each in rows])


def listing() -> str:
    """What there is to run, and on what."""
    scenarios = [[each.name, "named only" if each.long else "", each.about] for each in SCENARIOS.values()]
    systems = [[each.name, each.durability, each.missing() or "ready"] for each in SYSTEMS.values()]
    return f"{aligned(('scenario', '', 'what'), scenarios)}\n{aligned(('system', 'durability', ''), systems)}"


class Progress:
    """One line that is written over on a terminal, a line every few seconds elsewhere."""

    def __init__(self, title: str, stream: TextIO = sys.stderr) -> None:
        self._title = title
        self._stream = stream
        self._live = stream.isatty()
        self._every = 0.5 if self._live else 10.0
        self._last: dict[str, Any] | None = None

    def __call__(self, sample: dict[str, Any]) -> None:
        """Show a sample of a run."""
        last = self._last
        if last is not None and sample["at"] - last["at"] < self._every:
            return
        self._last = sample
        if last is None:
            return
        seconds = sample["at"] - last["at"]
        flows = [
            f"{(new[0] - old[0]) / seconds:,.0f} in {(min(new[1:]) - min(old[1:])) / seconds:,.0f} out/s,"
            f" {new[0] - min(new[1:]):,} behind"
            for new, old in zip(sample["flows"], last["flows"], strict=True)
        ]
        memory = f", {sample['rss_anon'] / 2**20:.0f} MiB" if sample["rss_anon"] else ""
        text = f"{self._title} {sample['at']:.0f} s: {' | '.join(flows)}{memory}"
        self._stream.write(f"\r\x1b[K{text}" if self._live else f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave no half line behind."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
