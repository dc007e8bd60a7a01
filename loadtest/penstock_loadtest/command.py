"""`penstock loadtest`: which scenarios run on which systems, and what becomes of the results.

0 done    1 a message is missing or wrong, an SLO is missed, a run failed    2 typed wrong    3 no broker
"""

import asyncio
import json
import resource
import shlex
import signal
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from penstock.cli.arguments import count, duration, number, size
from penstock.cli.command import Failure, Parser, Usage
from penstock.errors import Disconnected, Error
from penstock_loadtest import results, slo, tables
from penstock_loadtest.adapter import Unsupported
from penstock_loadtest.broker import roomy
from penstock_loadtest.crew import RunFailed
from penstock_loadtest.page import page
from penstock_loadtest.payload import SIZE_MIN
from penstock_loadtest.run import Run, Target
from penstock_loadtest.scenarios import MIB, SCENARIOS, Scenario, scaled
from penstock_loadtest.systems import OWN, PEERS, SYSTEMS, System

USAGE = "penstock loadtest [compare|list] [SCENARIO …]"
ABOUT = """Puts a broker of its own, or a running one (--url), under load, verifies every message, and writes
results as JSON and as one HTML page. Without a scenario: all that are short. `penstock loadtest list` shows
them; `penstock loadtest compare` runs them on Penstock and other brokers in turn."""
COMPARE_SECONDS = 20.0
"""For how long a producer goes on in a comparison, by default: who is slower sends less, not longer."""
AMOUNTS = ("messages", "size", "batch", "in_flight", "producers", "consumers", "readers")
"""Fields of a flow that an option of the same name sets, in all flows of a scenario."""


def command(argv: Sequence[str]) -> int:
    """Run one command line; its exit code. Raises `Usage`, `Failure`."""
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))  # inherited by brokers and clients
    verb = next((word for word in argv if not word.startswith("-")), "")
    if verb == "list":
        print(tables.listing(), end="")
        return 0
    options = _options(argv, compare=verb == "compare")
    if options.compare:
        return _compare_files(*options.compare)
    with _sigterm_as_sigint():
        return _measure(options, argv)


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Brokers and clients that were started end with the harness, whichever of the two ends it."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# What was typed


def _options(argv: Sequence[str], *, compare: bool) -> Namespace:
    parser = Parser("penstock loadtest", USAGE, ABOUT, "")
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO")
    parser.add_argument("--url", metavar="URL", help="a running broker, instead of one of its own")
    parser.add_argument("--rate", type=count, metavar="N", help="messages/s on a fixed schedule (open loop)")
    parser.add_argument(
        "--seconds", type=duration, metavar="DURATION", help="the longest that producers go on"
    )
    parser.add_argument(
        "--scale", type=number, default=1.0, metavar="X", help="part of the scenario's messages"
    )
    for name in AMOUNTS:
        kind: Callable[[str], int] = size if name == "size" else _positive
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar="N", help=f"{name} of each flow"
        )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the broker"
    )
    parser.add_argument("--durability", metavar="MODE", help="of the broker: fsync, interval:50ms or os")
    parser.add_argument("--slo", type=_slo, default=[], metavar="DEMANDS", help="'p99<5ms,rate>100k'")
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="where results go, as PATH.json and PATH.html"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="flame graphs by py-spy, into this directory"
    )
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="two results")
    if compare:
        parser.add_argument(
            "--peers", type=_peers, default=PEERS, metavar="A,B", help=f"of {', '.join(PEERS)}"
        )
    options = parser.parse_intermixed_args(argv)
    options.systems = [OWN]
    if compare:
        options.scenario.remove("compare")
        options.seconds = options.seconds or COMPARE_SECONDS
        options.systems += options.peers
    _check(options)
    return options


def _check(options: Namespace) -> None:
    unknown = [name for name in options.scenario if name not in SCENARIOS]
    if unknown:
        raise Usage(f"there is no scenario {unknown[0]!r}; `penstock loadtest list` shows all")
    if options.url and (options.set or options.durability):
        raise Usage("--set and --durability are for a broker of its own, not for one at --url")
    if options.size is not None and not SIZE_MIN <= options.size <= 6 * MIB:
        raise Usage(f"--size is from {SIZE_MIN} bytes, what verification needs, to 6MiB")
    if options.scale <= 0:
        raise Usage("--scale is more than 0: 0.1 is a tenth of the messages")


def _positive(text: str) -> int:
    if not count(text):
        raise ArgumentTypeError("0 is too few")
    return count(text)


def _slo(text: str) -> list[slo.Term]:
    try:
        return slo.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def _peers(text: str) -> list[str]:
    names = PEERS if text == "all" else text.split(",")
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ArgumentTypeError(f"there is no peer {unknown[0]!r}; known are {', '.join(PEERS)}")
    return names


def _scenarios(options: Namespace) -> list[Scenario]:
    """Those asked for, with what options change of them."""
    names = options.scenario or [each.name for each in SCENARIOS.values() if not each.long]
    changed = {name: getattr(options, name) for name in AMOUNTS if getattr(options, name) is not None}
    if options.rate is not None:
        changed["rate"] = float(options.rate) or None
    if options.rate and options.seconds and "messages" not in changed:
        changed["messages"] = round(options.rate * options.seconds)
    made = []
    for scenario in (scaled(SCENARIOS[name], options.scale) for name in names):
        flows = tuple(flow._replace(**changed) for flow in scenario.flows)
        if any(flow.kind == "queue" and flow.readers > 1 for flow in flows):
            raise Usage(f"a queue has one reader; {scenario.name} has one: try --consumers, or a topic")
        made.append(scenario._replace(flows=flows))
    return made


# What is done


def _measure(options: Namespace, argv: Sequence[str]) -> int:
    scenarios = _scenarios(options)
    document = results.document(shlex.join(["penstock", "loadtest", *argv]))
    failed = False
    for scenario in scenarios:
        for name in options.systems:
            try:
                document["runs"].append(_run(SYSTEMS[name], scenario, options))
            except _Skipped as why:
                document["skipped"].append({"system": name, "scenario": scenario.name, "why": str(why)})
                print(f"skipped: {name} {scenario.name}: {why}", file=sys.stderr)
                failed = failed or name == OWN
    written = _write(document, options.out)
    text = f"{tables.results_table(document)}\n{tables.ratios_table(document)}".rstrip()
    print(json.dumps(document) if options.json else f"{_heading(document)}\n\n{text}")
    print(f"written: {written}.json and {written}.html", file=sys.stderr)
    own = [run for run in document["runs"] if run["system"] == OWN]
    misses = [line for run in own for line in slo.missed(options.slo, run)]
    for line in misses:
        print(f"penstock: {line}", file=sys.stderr)
    dirty = [run for run in document["runs"] if not results.is_clean(run)]
    for run in dirty:
        print(
            f"penstock: {run['scenario']} on {run['system']}: messages are missing or wrong", file=sys.stderr
        )
    return 1 if failed or misses or dirty else 0


class _Skipped(Exception):
    """A system did not run a scenario: one line why."""


def _run(system: System, scenario: Scenario, options: Namespace) -> dict[str, Any]:
    if why := system.missing():
        raise _Skipped(why)
    try:
        with _server(system, options) as server:
            url = options.url if server is None else server.url
            target = Target(
                system.name, system.adapter, url, system.durability, server, system.versions(server)
            )
            progress = tables.Progress(f"{scenario.name} on {system.name}")
            run = Run(
                target, scenario, seconds=options.seconds, tell=progress, profile=_profile(options, scenario)
            )
            try:
                return asyncio.run(run.result())
            finally:
                progress.end()
    except Unsupported as error:
        raise _Skipped(str(error)) from error
    except Exception as error:  # of a peer's client, whatever its base is
        if options.url and isinstance(error, Disconnected):
            raise Failure(f"{error.message} ({error.hint})", 3) from error
        if system.name == OWN and not isinstance(error, RunFailed | RuntimeError | OSError | Error):
            raise
        raise _Skipped(f"it failed: {type(error).__name__}: {error}".splitlines()[0]) from error


def _server(system: System, options: Namespace) -> AbstractContextManager[Any]:
    """The broker at --url, which is there already; else one of its own."""
    if system.name != OWN:
        return system.start()
    if options.url:
        return nullcontext()
    durability = [f"storage.durability={options.durability}"] if options.durability else []
    return system.start((*options.set, *durability))


def _profile(options: Namespace, scenario: Scenario) -> Path | None:
    directory: Path | None = options.profile
    return directory and directory / scenario.name


def _compare_files(a: Path, b: Path) -> int:
    try:
        found = [results.load(path) for path in (a, b)]
    except results.Unreadable as error:
        raise Usage(str(error)) from error
    changes = results.changes(*found)
    if not changes:
        raise Failure(f"{a} and {b} have no scenario in common")
    for name, each in zip("ab", found, strict=True):
        print(f"{name}: {each['made']}  {each['command']}")
    print(tables.changes_table(changes), end="")
    return 0


def _write(document: dict[str, Any], out: Path | None) -> Path:
    """Write both files; their path without the suffix."""
    path = out or Path(roomy()) / f"loadtest-{datetime.now():%Y%m%d-%H%M%S}"
    path.parent.mkdir(parents=True, exist_ok=True)
    results.save(document, path.with_name(f"{path.name}.json"))
    path.with_name(f"{path.name}.html").write_text(page(document))
    return path


def _heading(document: dict[str, Any]) -> str:
    def lines() -> Iterator[str]:
        yield f"penstock {version('penstock')}, {document['made']}"
        yield from (f"{name}: {value}" for name, value in document["machine"].items())
        seen: set[str] = set()
        for run in document["runs"]:
            if run["system"] not in seen:
                seen.add(run["system"])
                versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
                yield f"{run['system']}: durability {run['durability']}; {versions}"

    return "\n".join(lines())
