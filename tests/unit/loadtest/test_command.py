"""`penstock loadtest`: what is typed wrong is said in one line, before anything is started."""

from pathlib import Path

import pytest
from tests.unit.loadtest.documents import document, run

from penstock.cli import main
from penstock_loadtest import command, results
from penstock_loadtest.systems import PEERS, SYSTEMS


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["nowhere"], "there is no scenario 'nowhere'"),
        (["compare", "nowhere"], "there is no scenario 'nowhere'"),
        (["queue", "--slo", "p99<5x"], "'p99<5x' is no demand"),
        (["queue", "--size", "10"], "--size is from 40 bytes"),
        (["queue", "--rate", "fast"], "'fast' is not a number"),
        (["queue", "--messages", "0"], "0 is too few"),
        (["queue", "--scale", "0"], "--scale is more than 0"),
        (["queue", "--readers", "2"], "a queue has one reader"),
        (["queue", "--peers", "nats"], "unrecognized arguments: --peers"),
        (["compare", "queue", "--peers", "nots"], "there is no peer 'nots'"),
        (["queue", "--url", "penstock://127.0.0.1:1", "--set", "a.b=c"], "--set and --durability are for"),
        (["--compare", "one.json", "two.json"], "one.json: No such file"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_wrong_input_is_one_line_and_exit_2(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_run", None)
    assert main(["loadtest", *typed]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_list_shows_scenarios_and_systems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "list"]) == 0
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines() if line} >= {"queue", "soak", *SYSTEMS}


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("a", 100_000.0), ("b", 150_000.0)):
        results.save(document(run(rate=rate)), tmp_path / f"{name}.json")
    assert main(["loadtest", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    shown = capsys.readouterr().out
    assert any(
        line.split()[3:] == ["receive/s", "100,000", "150,000", "1.50", "×"] for line in shown.splitlines()
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Instead of a run, a made-up result; systems in the order they were asked for."""
    asked: list[str] = []

    def pretend(system: SystemLike, scenario: object, options: object) -> dict[str, object]:
        asked.append(system.name)
        if system.name == "nats":
            raise command._Skipped("nats-server is not installed")
        return run(system.name, rate=100_000.0, account={"lost": int(system.name == "kafka")})

    monkeypatch.setattr(command, "_run", pretend)
    monkeypatch.chdir(tmp_path)
    return asked


class SystemLike:
    """What `_run` is given."""

    name: str


def test_met_slo_is_exit_0(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "queue", "--slo", "rate>99k,lost<1"]) == 0
    assert runs == ["penstock"]


def test_missed_slo_is_exit_1(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "queue", "--slo", "rate>100k"]) == 1
    assert "rate>100k is missed by penstock queue" in capsys.readouterr().err


def test_peer_that_is_not_there_is_named_and_the_others_run(
    runs: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["loadtest", "compare", "queue", "--peers", "nats,redis-always", "--out", "r"]) == 0
    assert runs == ["penstock", "nats", "redis-always"]
    out, err = capsys.readouterr()
    assert "skipped: nats queue: nats-server is not installed" in err
    assert "skipped: nats queue: nats-server is not installed" in out
    assert "1.0 ×" in out
    assert (tmp_path / "r.json").exists()
    assert "not installed" in (tmp_path / "r.html").read_text()


def test_lost_message_is_exit_1(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "compare", "queue", "--peers", "kafka"]) == 1
    assert "queue on kafka: messages are missing or wrong" in capsys.readouterr().err


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_says_its_durability_and_what_it_needs(name: str) -> None:
    system = SYSTEMS[name]
    assert system.durability
    missing = system.missing()
    assert missing is None or "install" in missing
