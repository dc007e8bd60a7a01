"""Micro-benchmarks remember earlier commits, and say when something got slower."""

import json
from pathlib import Path

import pytest

from penstock_loadtest.micro_history import History


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Three commits before this one."""
    path = tmp_path / "micro.jsonl"
    for commit, us in (("a", 9.0), ("b", 10.0), ("c", 50.0)):
        History(path, commit).keep({"encode": us})
    return path


def test_figure_stands_beside_the_median_of_commits_before(kept: Path) -> None:
    history = History(kept, "d")
    assert history.before("encode") == 10.0
    assert history.beside("encode", 11.0) == " 1.10 × before"
    assert not history.is_slower("encode", 11.0)


def test_notably_slower_is_said(kept: Path) -> None:
    history = History(kept, "d")
    assert history.is_slower("encode", 12.6)
    assert history.beside("encode", 12.6).endswith("SLOWER")


def test_same_commit_and_other_machines_do_not_count(kept: Path) -> None:
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert History(kept, "c").before("encode") == 9.5
    kept.write_text("".join(json.dumps({**line, "machine": "another"}) + "\n" for line in lines))
    assert History(kept, "d").before("encode") is None
    assert History(kept, "d").beside("encode", 1.0) == ""


def test_first_run_has_nothing_to_stand_beside(tmp_path: Path) -> None:
    assert History(tmp_path / "none.jsonl", "a").before("encode") is None
