"""The load test against the real broker: small runs end to end, and runs in which something is wrong."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.integration.command import PENSTOCK
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock_loadtest import run as running
from penstock_loadtest.broker import Broker
from penstock_loadtest.crew import RunFailed
from penstock_loadtest.results import is_clean
from penstock_loadtest.run import Run, Target
from penstock_loadtest.scenarios import Flow, Scenario

ROOT = Path(__file__).parents[2]
SMALL = Flow(size=200, batch=10, in_flight=4, messages=3_000, warm_up=500, style="messages")


def loadtest(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PENSTOCK, "loadtest", *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)


async def outcome(broker: BrokerProcess, flow: Flow, adapter: str = "penstock_loadtest.own:Penstock") -> Any:
    """The result of one run on a broker that is there."""
    target = Target("penstock", adapter, broker.url, "", None, {})
    scenario = Scenario("small", "a few messages", (flow,))
    return await Run(target, scenario, seconds=60, tell=lambda sample: None).result()


def test_skeleton_bears_the_same_load_and_is_verified_the_same_way(tmp_path: Path) -> None:
    command = ("compare", "queue", "one-at-a-time", "--peers", "skeleton", "--scale", "0.002", "--out", "r")
    done = loadtest(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [(row["scenario"], row["system"]) for row in results] == [
        (scenario, system) for scenario in ("queue", "one-at-a-time") for system in ("penstock", "skeleton")
    ]
    assert all(is_clean(row) for row in results)


def test_broker_of_its_own_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    done = loadtest(
        tmp_path, "queue", "--messages", "20000", "--scale", "0.001", "--out", "r", "--slo", "lost<1"
    )
    assert done.returncode == 0, done.stderr
    assert "durability fsync" in done.stdout
    (measured,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    flow = measured["flows"][0]
    assert flow["published"]["messages"] == flow["received"][0]["messages"] == 20_000
    assert flow["received"][0]["latency"]["count"] == 20_000
    assert flow["received"][0]["account"]["sent"] == 20_500
    assert measured["broker"]["user_us"] > 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert list((tmp_path / "bench-results").iterdir()) == []


def test_missed_slo_is_exit_1(broker: BrokerProcess, tmp_path: Path) -> None:
    done = loadtest(tmp_path, "queue", "--scale", "0.001", "--url", broker.url, "--slo", "p50<1us")
    assert done.returncode == 1
    assert "p50<1us is missed" in done.stderr


def test_no_broker_is_one_line_and_exit_3(tmp_path: Path) -> None:
    done = loadtest(tmp_path, "queue", "--url", "penstock://127.0.0.1:9")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


@pytest.mark.parametrize(
    "flow",
    [
        SMALL,
        SMALL._replace(style="batches", producers=2, consumers=2),
        SMALL._replace(kind="topic", readers=2),
        SMALL._replace(kind="topic", lanes=5),
        SMALL._replace(lanes=5, messages=5_000),
        SMALL._replace(style="handler", batch=1, in_flight=50),
        SMALL._replace(drain="after"),
        SMALL._replace(rate=5_000.0),
    ],
    ids=[
        "queue",
        "two and two",
        "two groups",
        "keys",
        "five queues",
        "handler",
        "drained after",
        "open loop",
    ],
)
async def test_flow_comes_through_whole(broker: BrokerProcess, flow: Flow) -> None:
    result = await outcome(broker, flow)
    assert is_clean(result)
    (made,) = result["flows"]
    assert made["durability"] == "fsync"
    assert made["published"]["messages"] == flow.messages
    for received in made["received"]:
        drained = flow.warm_up if flow.drain == "after" else 0
        assert received["messages"] == flow.messages + drained
        assert received["account"]["sent"] == flow.messages + flow.warm_up
        assert received["account"]["duplicates"] == 0


async def test_open_loop_keeps_to_its_rate(broker: BrokerProcess) -> None:
    result = await outcome(broker, SMALL._replace(batch=1, rate=1_000.0, messages=1_000, warm_up=0))
    published = result["flows"][0]["published"]
    assert published["seconds"] >= 0.99
    assert published["latency"]["count"] == 1_000


async def test_what_it_made_on_a_running_broker_is_removed(broker: BrokerProcess) -> None:
    await outcome(broker, SMALL._replace(lanes=3, messages=300, warm_up=0))
    await outcome(broker, SMALL._replace(kind="topic", messages=300, warm_up=0))
    async with penstock.connect(broker.url) as client:
        assert await client.list_queues() == []
        assert await client.list_topics() == []


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client processes find the spoiling consumers; what is lost is not waited for in vain."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(running, "QUIET_SECONDS", 2.0)


@pytest.mark.usefixtures("spoilt")
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("Losing", {"lost": 1}),
        ("Repeating", {"duplicates": 2}),
        ("Swapping", {"misordered": 1}),
        ("Damaging", {"corrupt": 1, "lost": 1}),
        ("Refusing", {"failed": 10}),
    ],
)
async def test_fault_is_found(start_broker: StartBroker, how: str, expected: dict[str, int]) -> None:
    result = await outcome(start_broker().wait_ready(), SMALL, f"tests.integration.spoiling:{how}")
    account = result["flows"][0]["received"][0]["account"]
    wrong = {name: count for name, count in account.items() if count and name not in ("sent", "received")}
    assert wrong == expected
    assert is_clean(result) == (how == "Repeating")


@pytest.mark.usefixtures("spoilt")
async def test_consumer_that_breaks_ends_the_run_in_one_line(broker: BrokerProcess) -> None:
    with pytest.raises(RunFailed, match=r"^consumer 0 failed: ValueError: the consumer$"):
        await outcome(broker, SMALL, "tests.integration.spoiling:Dying")


async def test_broker_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LEAVE_SECONDS_MAX", 1.0)
    killed = False

    def kill(sample: dict[str, Any]) -> None:
        nonlocal killed
        if sample["flows"][0][0] and not killed:
            killed = True
            broker.kill()

    flow = SMALL._replace(rate=2_000.0, messages=100_000, warm_up=0)
    with Broker(directory=str(tmp_path)) as broker:
        target = Target("penstock", "penstock_loadtest.own:Penstock", broker.url, "", broker, {})
        with pytest.raises(RunFailed, match=r"^penstock is gone$"):
            await Run(target, Scenario("small", "", (flow,)), seconds=60, tell=kill).result()
    assert killed
