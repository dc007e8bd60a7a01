"""The charts of the page, as SVG that stands in the page itself. Drawn by matplotlib, without its windows."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from penstock_loadtest.latency import CURVE_FROM, curve, merged
from penstock_loadtest.results import Line
from penstock_loadtest.tables import time_text

INK, FAINT = "#4a5560", "#d5dae0"
COLOURS = ("#0b6bcb", "#e07b00", "#2a9d63", "#b0357d", "#7a5bd0", "#8c6d31")
FEW = 5
"""Points that make no line."""
OWN_COLOUR, PEER_COLOUR = COLOURS[0], "#9aa7b4"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "penstock",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


mpl.rcParams.update(STYLE)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _amount(value: float, _: object = None) -> str:
    """1,500,000 as 1.5M."""
    for worth, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= worth:
            return f"{value / worth:g}{unit}"
    return f"{value:g}"


def rates(run: dict[str, Any]) -> str:
    """Messages per second over the time of a run, confirmed and received, of every flow."""
    figure, axes = _figure(6, 2.6)
    samples = run["samples"]
    times = [sample["at"] for sample in samples[1:]]
    colours = iter(COLOURS * 2)
    for number, flow in enumerate(run["flows"]):
        prefix = f"{flow['flow']['name']}: " if len(run["flows"]) > 1 else ""
        readers = len(flow["received"])
        names = ["confirmed", *("received" if readers == 1 else f"reader {n}" for n in range(readers))]
        for column, name in enumerate(names):
            values = [
                (new["flows"][number][column] - old["flows"][number][column]) / (new["at"] - old["at"])
                for old, new in pairwise(samples)
            ]
            marker = "o" if len(times) < FEW else None
            axes.plot(times, values, color=next(colours), label=prefix + name, marker=marker)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds, warm-up included")
    axes.set_ylabel("messages/s")
    axes.yaxis.set_major_formatter(FuncFormatter(_amount))
    axes.legend(fontsize=8, loc="best")
    return _svg(figure)


def latencies(run: dict[str, Any]) -> str:
    """Latency by percentile, the axis stretched towards 100 %."""
    figure, axes = _figure(6, 2.6)
    colours = iter(COLOURS * 2)
    for flow in run["flows"]:
        prefix = f"{flow['flow']['name']}: " if len(run["flows"]) > 1 else ""
        _curve(axes, flow["published"], f"{prefix}publish → confirm", next(colours))
        for reader, received in enumerate(flow["received"]):
            which = f" {reader}" if len(flow["received"]) > 1 else ""
            _curve(axes, received, f"{prefix}publish → receive{which}", next(colours))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left=CURVE_FROM)
    ticks = [2.0, 10.0, 100.0, 1e3, 1e4, 1e5]
    axes.set_xticks(ticks, [f"{100 * (1 - 1 / tick):g}%" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: time_text(value)))
    axes.set_xlabel("percentile")
    axes.legend(fontsize=8, loc="best")
    return _svg(figure)


def _curve(axes: Axes, measured: dict[str, Any], label: str, colour: str) -> None:
    points = curve(merged([measured["histogram"]]))
    axes.plot([ratio for ratio, _ in points], [value for _, value in points], color=colour, label=label)


def memory(run: dict[str, Any]) -> str | None:
    """Memory of the broker and messages behind, over time; None where the broker's processes are not seen."""
    samples = [sample for sample in run["samples"] if sample["rss_anon"]]
    if not samples:
        return None
    figure, axes = _figure(6, 2.2)
    times = [sample["at"] for sample in samples]
    axes.plot(
        times, [sample["rss_anon"] / 2**20 for sample in samples], color=COLOURS[3], label="RssAnon, MiB"
    )
    axes.set_ylabel("MiB")
    axes.set_xlabel("seconds, warm-up included")
    behind = axes.twinx()
    backlog = [sum(max(0, flow[0] - min(flow[1:])) for flow in sample["flows"]) for sample in samples]
    behind.plot(times, backlog, color=COLOURS[4], linewidth=1, label="messages behind")
    behind.set_ylim(bottom=0)
    behind.grid(visible=False)
    behind.yaxis.set_major_formatter(FuncFormatter(_amount))
    axes.set_ylim(0, 1.2 * max(sample["rss_anon"] for sample in samples) / 2**20)
    axes.legend(handles=[*axes.get_lines(), *behind.get_lines()], fontsize=8, loc="lower right")
    return _svg(figure)


def bars(lines: Sequence[Line], own: str) -> str:
    """Rates end to end of one scenario on several systems, fastest first."""
    ordered = sorted(lines, key=lambda line: line.receive_rate)
    figure, axes = _figure(9, 0.5 + 0.34 * len(ordered))
    names = [f"{line.system} ({line.durability})" for line in ordered]
    values = [line.receive_rate for line in ordered]
    colours = [OWN_COLOUR if line.system == own else PEER_COLOUR for line in ordered]
    drawn = axes.barh(names, values, color=colours, height=0.62)
    axes.bar_label(drawn, labels=[f"{value:,.0f}/s" for value in values], padding=4, color=INK)
    axes.margins(x=0.14)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    return _svg(figure)
