"""Micro-benchmarks of earlier commits, a line of JSON per run: {commit, made, machine, us: {name: µs}}.

Only runs on the same machine and Python are compared; a tree with changes is kept as `COMMIT+`.
"""

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from penstock_loadtest.broker import roomy
from penstock_loadtest.machine import machine

RUNS_COMPARED = 5
SLOWER = 1.25
"""times as long as before is worth a word: less is noise."""


class History:
    """What was measured before, at most the latest `RUNS_COMPARED` runs."""

    def __init__(self, path: Path | None = None, commit: str | None = None) -> None:
        self._path = path or Path(roomy()) / "micro.jsonl"
        self._commit = _commit() if commit is None else commit
        self._machine = f"{machine()['cores']}, Python {platform.python_version()}"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        runs = [run for run in map(json.loads, lines) if self._is_before(run)]
        self._runs: list[dict[str, float]] = [run["us"] for run in runs[-RUNS_COMPARED:]]

    def _is_before(self, run: dict[str, str]) -> bool:
        return run["machine"] == self._machine and run["commit"] != self._commit

    def before(self, name: str) -> float | None:
        """µs in the runs before, None if there were none."""
        values = [run[name] for run in self._runs if name in run]
        return median(values) if values else None

    def is_slower(self, name: str, now: float) -> bool:
        """Whether it takes notably longer than before."""
        before = self.before(name)
        return before is not None and now > SLOWER * before

    def beside(self, name: str, now: float) -> str:
        """A remark beside a figure."""
        before = self.before(name)
        if before is None:
            return ""
        return f"{now / before:5.2f} × before{'  SLOWER' if self.is_slower(name, now) else ''}"

    def keep(self, figures: dict[str, float]) -> None:
        """Add a run."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        run = {"commit": self._commit, "made": made, "machine": self._machine, "us": figures}
        with self._path.open("a") as file:
            file.write(json.dumps(run) + "\n")


def _commit() -> str:
    """Of the tree; `+` if it has changes, `-` where there is no repository."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "-"
