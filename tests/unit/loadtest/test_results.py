"""Results: kept, read again, compared, shown."""

import json
import re
from pathlib import Path

import pytest
from tests.unit.loadtest.documents import document, run

from penstock_loadtest import results, tables
from penstock_loadtest.page import page


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    made = document(run())
    results.save(made, tmp_path / "a.json")
    assert results.load(tmp_path / "a.json") == json.loads(json.dumps(made))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', "\xff"])
def test_file_that_holds_no_results_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(results.Unreadable, match=re.escape(str(tmp_path / "b.json"))):
        results.load(tmp_path / "b.json")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(results.Unreadable, match="No such file"):
        results.load(tmp_path / "c.json")


def test_change_is_new_over_old_of_the_same_flow() -> None:
    old, new = document(run(rate=100_000)), document(run(rate=150_000), run(scenario="topic"))
    found = {change.what: change.ratio for change in results.changes(old, new)}
    assert found["receive/s"] == pytest.approx(1.5)
    assert found["confirm p99"] == pytest.approx(1.0)
    assert {change.line.scenario for change in results.changes(old, new)} == {"queue"}


def test_ratio_is_ours_over_theirs() -> None:
    (ratio,) = tables.ratios(document(run(rate=400_000), run("redis-always", rate=50_000)))
    assert ratio.peer.system == "redis-always"
    assert ratio.rates() == ["8.0 ×", "8.0 ×"]


def test_peer_that_received_nothing_has_no_ratio() -> None:
    dead = run("nats")
    dead["flows"][0]["received"][0]["rate"] = 0.0
    (ratio,) = tables.ratios(document(run(), dead))
    assert ratio.rates() == ["1.0 ×", "-"]


@pytest.mark.parametrize(
    ("account", "clean", "said"),
    [
        ({}, True, "all 1,000"),
        ({"duplicates": 2}, True, "2 duplicates"),
        ({"lost": 1, "misordered": 3}, False, "1 lost, 3 misordered"),
        ({"failed": 100}, False, "100 failed"),
    ],
    ids=str,
)
def test_verdict_names_what_is_wrong(account: dict[str, int], clean: bool, said: str) -> None:
    found = run(account=account)
    assert results.is_clean(found) == clean
    assert tables.verdict(found["flows"][0]["received"][0]["account"]) == said
    assert said in tables.results_table(document(found))


def test_what_was_skipped_is_shown() -> None:
    made = {**document(run()), "skipped": [{"system": "kafka", "scenario": "queue", "why": "no java"}]}
    assert "skipped: kafka queue: no java" in tables.results_table(made)
    assert "Skipped: kafka queue: no java" in page(made)


def test_long_run_says_how_memory_went() -> None:
    long = run()
    long["samples"] = [
        {"at": at * 60.0, "flows": [[0, 0]], "rss_anon": (50 + at) << 20, "descriptors": 40}
        for at in range(61)
    ]
    assert "from 80.0 to 110.0 MiB (+60.0 MiB/h), descriptors from 40 to 40" in tables.results_table(
        document(long)
    )


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (None, "-"),
        (1.234, "1.23 µs"),
        (999, "999 µs"),
        (1_500, "1.5 ms"),
        (12_345, "12.3 ms"),
        (2.5e6, "2.5 s"),
    ],
)
def test_time_is_shown_with_three_digits(microseconds: float | None, text: str) -> None:
    assert tables.time_text(microseconds) == text


def test_page_needs_nothing_but_itself() -> None:
    text = page(document(run(), run("redis-always", rate=50_000), run(scenario="topic", readers=2)))
    assert not re.findall(r"<script|<link|<img|@import|url\((?!#)", text)
    outside = set(re.findall(r"""(?:src|href)=["']([^"'#][^"']*)""", text))
    assert outside == set()
    assert text.count("<svg") == 3 * 3 + 1
    assert "1 KiB &amp; more" in text


def test_page_says_that_something_is_missing() -> None:
    assert "Messages are missing or wrong" in page(document(run(account={"lost": 1})))
    assert "Messages are missing or wrong" not in page(document(run()))
