"""Results as one HTML page that needs nothing else: style, tables and charts stand in it."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any

from penstock_loadtest import charts
from penstock_loadtest.results import Line, all_lines, is_clean, lines
from penstock_loadtest.systems import OWN
from penstock_loadtest.tables import HEAD, ratios, row, run_notes, time_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2730; background: #fff;
  margin: 2rem auto; padding: 0 1rem; max-width: 82rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p { margin: .3rem 0; }
.faint, dt, th, figcaption { color: #5c6873; }
.bad { color: #b3261e; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dd { margin: 0; }
code { background: #f1f4f7; padding: .1rem .35rem; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .8rem 0; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #d5dae0; }
th, td { padding: .3rem .7rem .3rem 0; }
td { border-bottom: 1px solid #eceff2; }
.number { text-align: right; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(34rem, 1fr)); gap: .5rem 1.5rem; }
figure { margin: 0; }
figcaption { font-size: .85rem; }
svg { max-width: 100%; height: auto; }
"""
TEXT_COLUMNS = {"scenario", "flow", "system", "durability", "verified", "against", "its durability"}


def page(results: dict[str, Any]) -> str:
    """The page."""
    sections = "".join((*_comparison(results), *map(_section, results["runs"])))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Penstock load test, {escape(results["made"])}</title><style>{STYLE}</style></head><body>
<h1>Penstock load test</h1>
<p class="faint">{escape(results["made"])} · <code>{escape(results["command"])}</code></p>
{_definitions(results["machine"])}
<div class="wide">{_table(HEAD, map(row, all_lines(results)))}</div>
{_skipped(results)}
<p class="faint">Rates of flows with a given rate are marked with =. Receive: from the instant a message was
to be published until the consumer has it. Broker CPU: user and system time per message.</p>
{sections}</body></html>
"""


def _definitions(values: dict[str, str]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items())
    return f"<dl>{items}</dl>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    classes = ["" if name in TEXT_COLUMNS else ' class="number"' for name in head]
    cells = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(classes, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(classes, each, strict=True))
        + "</tr>"
        for each in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _skipped(results: dict[str, Any]) -> str:
    lines = (f"Skipped: {each['system']} {each['scenario']}: {each['why']}" for each in results["skipped"])
    return "".join(f'<p class="bad">{escape(line)}</p>' for line in lines)


def _comparison(results: dict[str, Any]) -> Iterator[str]:
    """A chart for every flow that several systems ran."""
    for (scenario, flow), found in groupby(sorted(all_lines(results), key=_key), key=_key):
        same = list(found)
        if len({line.system for line in same}) > 1 and not same[0].rate:
            yield f"<h2>{escape(scenario)}: {escape(flow)}, end to end</h2>{charts.bars(same, OWN)}"
    rows = [
        [
            *(ratio.own.scenario, ratio.own.flow, ratio.peer.system, ratio.peer.durability),
            *ratio.rates(),
            *(time_text(line.receive.get("p99")) for line in (ratio.peer, ratio.own)),
        ]
        for ratio in ratios(results)
    ]
    if rows:
        head = (
            "scenario",
            "flow",
            "against",
            "its durability",
            "publish",
            "receive",
            "p99 theirs",
            "p99 ours",
        )
        yield f'<h2>Penstock against each</h2><div class="wide">{_table(head, rows)}</div>'


def _key(line: Line) -> tuple[str, str]:
    return line.key


def _section(run: dict[str, Any]) -> str:
    drawn = [("Rate", charts.rates(run)), ("Latency by percentile", charts.latencies(run))]
    memory = charts.memory(run)
    if memory:
        drawn.append(("Memory of the broker, and the backlog", memory))
    figures = "".join(f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in drawn)
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    verified = sum(line.account["sent"] for line in lines(run))
    verdict = (
        f"All of {verified:,} messages verified."
        if is_clean(run)
        else '<span class="bad">Messages are missing or wrong: see the table.</span>'
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in run_notes(run))
    return f"""<h2>{escape(run["scenario"])} on {escape(run["system"])}</h2>
<p class="faint">{escape(run["about"])} · durability {escape(run["durability"])} · {escape(versions)} ·
{run["seconds"]:.1f} s. {verdict}</p>{notes}
<div class="charts">{figures}</div>
"""
