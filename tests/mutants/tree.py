"""A copy of the source in a directory of its own, in which mutants live and killers run.

The copy stands first on the path of what runs there, of the processes that tests start too; the tree that
people work in is never changed.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.util import cache_from_source
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

from tests.mutants.mutant import ROOT, Mutant, mutated

PACKAGES = ("broker", "client", "protocol", "loadtest")
SIMULATED_OPS = 600
SECONDS_MAX = 120
"""For one test of a killer. A mutant that makes it hang is not killed: what hangs is named by nobody."""
OURS = r"(Import|ModuleNotFound|Syntax|Indentation|Name|UnboundLocal|Attribute|Type)Error\b"
"""How a mutant fails that was not made with care: it breaks the program, and any test would notice."""


class Verdict(Enum):
    """What a killer says."""

    PASSED = "passed"
    FAILED = "failed"
    BROKE = "broke"
    """It did not come to a judgement: a name that does not exist, a type that does not fit, a hang."""


class Tree:
    """One copy."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in (*PACKAGES, "tests"):
            copytree(ROOT / name, directory / name, ignore=ignore_patterns("__pycache__", ".*"))
        copy(ROOT / "pyproject.toml", directory)

    @contextmanager
    def with_bug(self, mutant: Mutant) -> Iterator[None]:
        """The mutant is in the tree for a while. Raises `Rotten`."""
        path = self._directory / mutant.file
        whole = path.read_text("utf-8")
        try:
            self._write(path, mutated(mutant, whole))
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        # Compiled code counts as fresh by second and size, and most bugs are younger and no longer than that.
        Path(cache_from_source(str(path))).unlink(missing_ok=True)

    def run(self, killers: Iterable[str]) -> tuple[Verdict, str]:
        """Run killers here, up to the first that does not pass; what they say, and on which grounds."""
        tests = [killer for killer in killers if "::" in killer]
        if tests:
            verdict = self._run_tests(tests)
            if verdict[0] is not Verdict.PASSED:
                return verdict
        for killer in killers:
            if killer not in tests:
                verdict = self._run_seed(killer.removeprefix("seed "))
                if verdict[0] is not Verdict.PASSED:
                    return verdict
        return Verdict.PASSED, ""

    def _run_tests(self, tests: list[str]) -> tuple[Verdict, str]:
        report = self._directory / "report.xml"
        report.unlink(missing_ok=True)
        options = ["-q", "-x", f"--timeout={SECONDS_MAX}", f"--junitxml={report}", "-p", "no:cacheprovider"]
        done = self._python("-m", "pytest", *options, "-p", "no:randomly", "-p", "no:xdist", *tests)
        if done.returncode == 0:
            return Verdict.PASSED, ""
        cases = list(xml.parse(report).iter("testcase")) if report.exists() else []
        failures = [found for case in cases if (found := case.find("failure")) is not None]
        if done.returncode != 1 or not failures:
            return Verdict.BROKE, done.stdout[-2_000:] + done.stderr[-2_000:]
        why = failures[0].get("message", "")
        broke = re.match(rf"{OURS}|Failed: Timeout", why) is not None
        return Verdict.BROKE if broke else Verdict.FAILED, f"{cases[-1].get('name')}: {why}"

    def _run_seed(self, seed: str) -> tuple[Verdict, str]:
        done = self._python("-m", "tests.sim.run", "--seed", seed, "--ops", str(SIMULATED_OPS))
        if done.returncode == 0:
            return Verdict.PASSED, ""
        broke = done.returncode != 1 or re.search(rf"^\s*{OURS}", done.stdout, re.MULTILINE)
        return Verdict.BROKE if broke else Verdict.FAILED, done.stdout[:2_000] + done.stderr[-2_000:]

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        paths = [str(self._directory / package) for package in PACKAGES]
        environment["PYTHONPATH"] = os.pathsep.join([*paths, str(self._directory)])
        environment["HYPOTHESIS_PROFILE"] = "ci"
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self._directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
