"""Records survive a file, a killed writer leaves a torn line, a body tells whether it is whole."""

from itertools import count
from pathlib import Path

import pytest
from tests.sim.checker import Anomaly, check
from tests.sim.history import NEVER, Record, Recorder, line_of, load, operations, payload, value_of


def recorded(process: str = "p") -> tuple[Recorder, list[Record]]:
    records: list[Record] = []
    times = count(1.0)
    return Recorder(process, lambda: next(times), records.append), records


def test_operation_spans_from_its_invoke_to_its_ending() -> None:
    recorder, records = recorded()
    first = recorder.invoke("enqueue", queue="q", values=["a"])
    second = recorder.invoke("enqueue", queue="q", values=["b"])
    recorder.ok(first, first=0)
    recorder.refused(second, "QueueFull")
    ops = list(operations(records))
    assert [(op.start, op.end, op.outcome) for op in ops] == [(1.0, 3.0, "ok"), (2.0, 4.0, "refused")]
    assert ops[0].answer["first"] == 0


@pytest.mark.parametrize("ended", [True, False], ids=["said to be unknown", "without an ending"])
def test_unknown_operation_never_ends(ended: bool) -> None:
    recorder, records = recorded()
    op = recorder.invoke("enqueue", queue="q", values=["a"])
    if ended:
        recorder.unknown(op, "Disconnected")
    (found,) = operations(records)
    assert (found.outcome, found.end, found.possible, found.ok) == ("unknown", NEVER, True, False)


def test_ending_without_a_beginning_is_refused() -> None:
    recorder, records = recorded()
    recorder.ok("p-7")
    with pytest.raises(AssertionError, match="never begun"):
        list(operations(records))


def test_operation_cannot_end_twice() -> None:
    recorder, records = recorded()
    op = recorder.invoke("purge", queue="q")
    recorder.ok(op)
    recorder.unknown(op, "Timeout")
    with pytest.raises(AssertionError, match="two unknown records"):
        list(operations(records))


def test_unknown_note_is_refused() -> None:
    recorder, records = recorded()
    recorder.note("earthquake")
    with pytest.raises(ValueError, match="no note is called earthquake"):
        check(records)


def test_history_survives_its_files_and_a_torn_last_line(tmp_path: Path) -> None:
    for process in ("p", "c"):
        recorder, records = recorded(process)
        recorder.ok(recorder.invoke("receive", queue="q", wait=0.0), messages=[])
        torn = line_of({"op": "torn", "values": ["a"]})[:-5]
        (tmp_path / process).write_text("".join(map(line_of, records)) + torn)
    merged = load([tmp_path / "p", tmp_path / "c"])
    assert [record["op"] for record in merged] == ["p-1", "c-1", "p-1", "c-1"]
    assert check(merged) == []


def test_anomaly_says_where_it_is() -> None:
    recorder, records = recorded()
    recorder.ok(recorder.invoke("fetch", log="t/0", offset=0), records=[[0, "ghost"]])
    assert check(records) == [Anomaly("phantom", "t/0", "ghost at 0 was never sent")]


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_body_gives_back_its_value(size: int) -> None:
    body = payload("p1-17", size)
    assert value_of(body) == "p1-17"
    assert len(body) == max(size, len("p1-17\n") + 8)


def test_body_with_any_byte_wrong_gives_nothing() -> None:
    body = payload("p1-17", 64)
    damaged = [body[:i] + bytes([body[i] ^ 1]) + body[i + 1 :] for i in range(len(body))]
    assert {value_of(other) for other in [*damaged, body[:-1], body + b"x", b""]} == {None}
