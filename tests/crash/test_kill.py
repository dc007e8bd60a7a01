"""Nothing confirmed is lost and nothing acked comes back, however often the broker is killed.

`python -m tests.crash.run` is the same by hand, with more cycles.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.crash import run as runs
from tests.crash.lives import Lives
from tests.crash.run import Era, Evidence, run
from tests.sim.checker import check
from tests.sim.history import Record

CYCLES, SEED = 40, 1


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """What the clients saw of a broker that was killed again and again; `run` has judged it."""
    return asyncio.run(run(tmp_path_factory.mktemp("kill"), CYCLES, SEED))


@pytest.mark.covers(
    *("enqueue", "receive/lease", "extend", "release", "nack/retry", "ack", "dead letter"),
    *("produce", "fetch", "offsets", "producer dedup", "archive", "checkpoint", "queue over a topic"),
    *("kill -9", "lost connection"),
)
def test_contract_holds_over_kill_9_under_load(evidence: Evidence) -> None:
    crashes = [record for record in evidence.records if record.get("f") == "crash"]
    assert len(crashes) >= CYCLES


def test_files_were_rolled_archived_and_checkpointed_meanwhile(evidence: Evidence) -> None:
    assert {"checkpoint-0", "checkpoint-1"} <= evidence.files
    assert any(name.startswith("segment-") for name in evidence.files)
    journal = [int(name.removeprefix("journal-")) for name in evidence.files if name.startswith("journal-")]
    assert max(journal) - len(journal) > 2 * CYCLES, "more files came and went than the starts need"


async def test_broker_that_confirms_nothing_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "CYCLE_SECONDS", 0.1)
    era = Era(Lives(tmp_path, Random(1)), 0, Random(1))
    with pytest.raises(AssertionError, match=r"only 0 confirms and 0 settles .* nothing came of .*p3"):
        await era.cycle()


# ---- The same history, doctored: what the checker would have found


def answered(evidence: Evidence, f: str) -> list[tuple[Record, Record]]:
    """Every operation of a kind that was done, as it was asked and answered."""
    ok = {record["op"]: record for record in evidence.records if record["type"] == "ok"}
    asked = (record for record in evidence.records if record["type"] == "invoke" and record["f"] == f)
    return [(record, ok[record["op"]]) for record in asked if record["op"] in ok]


def names_of(evidence: Evidence, doctored: list[Record], *places: str) -> set[str]:
    """What is found in all that concerns these queues or partitions, and what was made up."""
    known = {record["op"] for record in evidence.records if "op" in record and _place_of(record) in places}
    told = [
        record
        for record in evidence.records
        if (record["op"] in known if "op" in record else _place_of(record) in (None, *places))
    ]
    return {anomaly.name for anomaly in check([*told, *doctored])}


def _place_of(record: Record) -> str | None:
    return record.get("queue", record.get("log"))


@pytest.mark.parametrize(
    ("f", "anomaly"), [("enqueue", "lost"), ("produce", "unseen")], ids=["of a message", "of a record"]
)
def test_invented_confirm_is_flagged(evidence: Evidence, f: str, anomaly: str) -> None:
    asked, answer = max(answered(evidence, f), key=lambda pair: pair[1]["first"])
    end = answer["first"] + len(asked["values"])
    invented = [{**asked, "op": "ghost", "values": ["ghost-1"]}, {**answer, "op": "ghost", "first": end}]
    place = _place_of(asked)
    assert anomaly in names_of(evidence, invented, f"{place}", f"{place}.dead")


def test_redelivery_of_an_acked_message_is_flagged(evidence: Evidence) -> None:
    acked = {tuple(pair) for asked, answer in answered(evidence, "ack") for pair in asked["messages"]}
    asked, answer, message = next(
        (asked, answer, message)
        for asked, answer in answered(evidence, "receive")
        for message in answer["messages"]
        if (message["offset"], message["token"]) in acked
    )
    last = evidence.records[-1]["time"]
    again = {**message, "token": message["token"] + (1 << 60), "redelivered": True}
    doctored = [
        {**asked, "op": "ghost", "time": last + 1},
        {**answer, "op": "ghost", "time": last + 2, "messages": [again]},
    ]
    assert "resurrected" in names_of(evidence, doctored, asked["queue"], f"{asked['queue']}.dead")


def test_offset_that_goes_back_is_flagged(evidence: Evidence) -> None:
    asked, _ = max(answered(evidence, "commit"), key=lambda pair: pair[1]["time"])
    last = evidence.records[-1]["time"]
    reading = {key: asked[key] for key in ("type", "process", "log", "group")}
    doctored = [
        {**reading, "op": "ghost", "f": "committed", "time": last + 1},
        {"op": "ghost", "type": "ok", "time": last + 2, "offset": asked["offset"] - 1},
    ]
    assert "stale offset" in names_of(evidence, doctored, asked["log"])
