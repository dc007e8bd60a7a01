"""Disks to spoil for the tests of this folder. Where none can be had they are skipped, and the run says so in
a line that begins with `NOT RUN`; `make gate` fails over such a line."""

from collections.abc import Iterator

import pytest

from tests.disk.disks import MIB, Disk, NoDisks, disk, probe

NEEDS = "needs root"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where there is none."""
    needing = [item for item in items if item.get_closest_marker("root")]
    try:
        if needing:
            probe()
    except NoDisks as why:
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=f"{NEEDS} and loop devices: {why}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out."""
    skipped = terminalreporter.getreports("skipped")
    left_out = [report.nodeid for report in skipped if "root" in report.keywords]
    if left_out:
        terminalreporter.write_line(f"NOT RUN ({NEEDS}): {', '.join(left_out)}")


@pytest.fixture
def small_disk() -> Iterator[Disk]:
    """32 MiB of ext4."""
    with disk(32 * MIB) as small:
        yield small
