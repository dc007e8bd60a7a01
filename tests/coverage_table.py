"""The table of what is tried under which fault, made from the `covers` marks of the tests.

python -m tests.coverage_table [--check]

It writes TABLE; with --check it only says, by its exit code, whether that is what the tests say.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

TABLE = Path(__file__).parent / "COVERAGE.md"
FEATURES = (
    *("enqueue", "receive/lease", "extend", "release", "nack/retry", "delay", "ack", "dead letter", "purge"),
    *("produce", "fetch", "offsets", "producer dedup", "create/alter/delete", "retention", "compaction"),
    *("keep_settled", "durability modes", "archive", "evacuation", "checkpoint"),
    *("ttl", "priority", "message groups", "fair tenants", "dedup id", "job key", "overflow", "at most once"),
    *("progress of work", "dead-letter history", "cancel/reschedule", "move/redrive/replay", "reply"),
    *("schedules", "throw-away queues", "pause", "queue over a topic", "delivery rates"),
    *("group members", "named producers", "filters"),
)
FAULTS = (
    *("kill -9", "power cut", "restart", "torn write", "failed write/sync", "read error", "stalled disk"),
    *("disk full", "rot", "checkpoint damaged", "index damaged", "second broker", "clock jump"),
    "lost connection",
)
HEAD = """# What is tried under which fault

Made from the `covers` marks of the tests: `make coverage-table`; a house test compares. A row is a feature, a
column a fault; where they meet stand the tests, named below.

"""


class Marks:
    """Collects the marks of all tests: (feature, fault) → names of test functions."""

    def __init__(self) -> None:
        self.tests: dict[tuple[str, str], set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Called by pytest when it has found all tests."""
        for item in items:
            for mark in item.iter_markers("covers"):
                self.add(item.nodeid.partition("[")[0], mark.args)

    def add(self, test: str, words: Iterable[str]) -> None:
        """A test that tries each feature among the words under each fault among them."""
        unknown = [word for word in words if word not in FEATURES and word not in FAULTS]
        if unknown:
            raise pytest.UsageError(f"{test} covers {unknown}: see FEATURES and FAULTS")
        for feature in FEATURES:
            for fault in FAULTS:
                if feature in words and fault in words:
                    self.tests[feature, fault].add(test)


def table(tests: dict[tuple[str, str], set[str]]) -> str:
    """The file, as text."""
    names = sorted(set().union(*tests.values()))
    numbers = {name: str(number) for number, name in enumerate(names, 1)}

    def cell(feature: str, fault: str) -> str:
        return " ".join(sorted((numbers[name] for name in tests.get((feature, fault), ())), key=int)) or "–"

    rows = [["", *FAULTS], ["---"] * (len(FAULTS) + 1)]
    rows += [[feature, *(cell(feature, fault) for fault in FAULTS)] for feature in FEATURES]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    legend = [f"{numbers[name]}. `{name}`" for name in names]
    return HEAD + "\n".join(lines) + "\n\n" + "\n".join(legend) + "\n"


def collected() -> str:
    """The table, from the tests as they are."""
    marks = Marks()
    root = Path(__file__).parents[1]
    code = pytest.main(
        ["--collect-only", "-qq", "-p", "no:cacheprovider", str(root / "tests")], plugins=[marks]
    )
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"the tests cannot be collected: {code!r}")
    return table(marks.tests)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.coverage_table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if it differs")
    given = parser.parse_args(argv)
    text = collected()
    if given.check:
        return text != TABLE.read_text("utf-8")
    TABLE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
