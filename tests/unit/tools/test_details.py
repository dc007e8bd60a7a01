"""What parts, snapshots and messages say for people: every kind, and whatever stands in a batch."""

import json
from typing import Any

import msgpack
import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.unit.storage.one_node import OneNode
from tests.unit.tools.ground import TOPIC, copied, with_topic

from penstock_broker.queues import notes, schedules
from penstock_broker.storage.entries import PARK_FLAG, Kind, Part
from penstock_broker.tools.details import DETAILS, message_values, part_values
from penstock_broker.tools.dump import Wanted, as_text, chosen
from penstock_broker.tools.names import Names
from penstock_protocol.batch import ZSTD, BatchBuilder, BatchView, OnConflict
from penstock_protocol.batch import Kind as Column
from penstock_protocol.cuts import with_cells
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import encode_ranges

SILENT = {Kind.HANDED_OUT, Kind.STOP}
GROUP, OTHER = msgpack.packb("g"), msgpack.packb("h")
LATER = 60_000


def batch(*messages: tuple[bytes, list[tuple[Column, Any]]]) -> bytes:
    builder = BatchBuilder()
    for body, cells in messages:
        builder.add(body, cells)
    return builder.encode()


def node(**settings: Any) -> OneNode:
    made = OneNode()
    made.ask(q.CreateQueue("jobs", settings, "check"))
    return made


def enqueue(made: OneNode, *messages: tuple[bytes, list[tuple[Column, Any]]]) -> Any:
    return made.ask(q.Enqueue("jobs", memoryview(batch(*messages))))


def nack(made: OneNode, reason: str) -> None:
    made.ask(q.Nack("jobs", q.Outcome.RETRY, 0, reason, memoryview(encode_ranges(made.receive(1)))))


def shown(files: MemoryFiles, kind: Kind, **wanted: Any) -> list[dict[str, Any]]:
    found = list(chosen(files, Wanted(kinds=[kind.name], **wanted)))
    assert all(json.loads(json.dumps(record)) == record for record in found)
    assert all(as_text(record) for record in found)
    return [record for record in found if record["is"] == "part"]


def test_every_kind_that_says_something_is_described() -> None:
    assert DETAILS.keys() == set(Kind) - SILENT


def test_traits_of_a_batch_are_shown_by_message() -> None:
    made = node()
    now = made.clock.now().wall
    enqueue(
        made,
        (b"1", [(Column.MESSAGE_GROUP, GROUP), (Column.PRIORITY, 9), (Column.DEDUP_ID, OTHER)]),
        (b"2", [(Column.DELAY, LATER), (Column.TTL, 2 * LATER), (Column.JOB_KEY, GROUP)]),
        (b"3", [(Column.DEDUP_ID, OTHER)]),
    )
    (found,) = shown(copied(made), Kind.APPEND)
    assert found["groups"] == ["g", None, None]
    assert found["job_keys"] == [None, "g", None]
    assert found["dedup_ids"] == ["h", None, None]
    assert found["ranks"] == [0, 9, 9]
    assert found["due"] == [0, now + LATER, 0]
    assert found["expires"] == [0, now + 2 * LATER, 0]
    assert found["exceptions"] == [{"number": 2, "status": "duplicate", "offset": 0}]
    (ended,) = shown(copied(made), Kind.SETTLE)
    assert (ended["first"], ended["outcome"]) == (2, "duplicate")


def test_batch_of_a_producer_shows_its_sequence_before_its_traits() -> None:
    made = node()
    builder = BatchBuilder()
    builder.add(b"1", [(Column.PRIORITY, 5)])
    made.ask(q.Enqueue("jobs", memoryview(builder.encode(7, 0))))
    (found,) = shown(copied(made), Kind.APPEND)
    assert (found["producer"], found["sequence"], found["ranks"]) == (7, 0, [4])


def test_notes_are_shown_row_by_row_and_found_by_their_offsets() -> None:
    made = node()
    enqueue(made, (b"1", []))
    enqueue(made, (b"2", []))
    (first,) = made.receive(1)
    made.ask(q.Checkpoint("jobs", LATER, memoryview(encode_ranges([first]) + b"page 3")))
    made.ask(q.Nack("jobs", q.Outcome.RETRY, 0, "no address", memoryview(encode_ranges([first]))))
    checkpoint, attempt = shown(copied(made), Kind.NOTED)
    assert checkpoint["notes"] == [{"what": "checkpoint", "first": 0, "messages": 1, "data": "page 3"}]
    assert attempt["notes"][0] | {"start": 0, "end": 0} == {
        **{"what": "attempt", "first": 0, "messages": 1, "consumer": "", "start": 0, "end": 0},
        **{"outcome": "nacked", "error": "no address"},
    }
    assert len(shown(copied(made), Kind.NOTED, log="jobs", offsets=(0, 0))) == 2
    assert shown(copied(made), Kind.NOTED, log="jobs", offsets=(1, 1)) == []


def test_settle_that_parks_a_group_says_so_and_the_group_that_goes_on_is_named() -> None:
    made = node(max_attempts=1, group_failure="park")
    enqueue(made, (b"1", [(Column.MESSAGE_GROUP, GROUP)]))
    nack(made, "no address")
    made.ask(q.Resume("jobs", "g"))
    (settled,) = shown(copied(made), Kind.SETTLE)
    assert (settled["outcome"], settled["parks"]) == ("dead-lettered", True)
    (resumed,) = shown(copied(made), Kind.RESUMED)
    assert resumed["group"] == "g"


def test_dead_letter_is_shown_with_where_it_comes_from_and_its_history() -> None:
    made = node(max_attempts=1)
    enqueue(made, (b"1", [(Column.MESSAGE_GROUP, GROUP)]))
    nack(made, "no address")
    _, dead = shown(copied(made), Kind.APPEND)
    assert (dead["from"], dead["groups"]) == ("jobs:0", ["g"])
    files = copied(made)
    found = [each for each in chosen(files, Wanted(log="jobs.dead", bodies=True)) if each["is"] == "message"]
    assert found[0]["history"]["attempts"][0][3:] == ["nacked", "no address"]
    assert found[0]["message_group"] == "g"


def test_copies_of_settled_messages_are_shown_as_replayed() -> None:
    made = node(keep_settled=LATER)
    enqueue(made, (b"1", []))
    made.ask(q.Ack("jobs", memoryview(encode_ranges(made.receive(1)))))
    made.ask(q.Transfer("jobs", None, "settled", 10, 0, {}))
    _, copy = shown(copied(made), Kind.APPEND)
    assert copy["replayed"] is True


def test_message_that_was_moved_is_settled_as_such() -> None:
    made = node()
    made.ask(q.CreateQueue("others", {}, "check"))
    enqueue(made, (b"1", []))
    made.ask(q.Transfer("jobs", "others", "ready", 10, 0, {}))
    (settled,) = shown(copied(made), Kind.SETTLE)
    assert settled["outcome"] == "moved"


def test_snapshot_with_indexes_is_counted() -> None:
    made = node()
    held = [(Column.MESSAGE_GROUP, GROUP)]
    enqueue(made, (b"1", held), (b"2", held), (b"3", [(Column.DELAY, LATER)]))
    made.checkpoint()
    files = copied(made)
    found = [each for each in chosen(files, Wanted(files=["checkpoint-*"])) if each.get("of") == "queue jobs"]
    assert [(each["unsettled"], each["held"], each["delayed"]) for each in found] == [(3, 2, 1)]


def test_snapshot_of_a_queue_over_a_topic_has_no_log_and_is_named_by_partition() -> None:
    made = with_topic()
    made.ask(q.CreateQueue("work", {"source": TOPIC}, "check"))
    made.ask(q.Purge("work"))
    made.checkpoint()
    files = copied(made)
    found = [
        each for each in chosen(files, Wanted(files=["checkpoint-*"])) if each.get("of") == "queue work/0"
    ]
    assert [(each["settled"], "end" in each) for each in found] == [(7, False)]
    (settled,) = shown(files, Kind.SETTLE, log="work")
    assert (settled["of"], settled["first"]) == ("queue work/0", 0)


def test_run_of_a_schedule_is_shown_with_what_it_enqueued() -> None:
    ran = Part(bytes(16), Kind.FIRED, detail=schedules.FIRED.pack(LATER, 3, 0))
    left_out = Part(bytes(16), Kind.FIRED, detail=schedules.FIRED.pack(LATER, -1, 1))
    assert part_values(ran, Names()) == {"next_at": LATER, "missed": 0, "enqueued": 3}
    assert part_values(left_out, Names()) == {"next_at": LATER, "missed": 1}


def test_checkpoint_that_is_no_text_is_shown_in_base64() -> None:
    part = Part(bytes(16), Kind.NOTED, detail=notes.encode([("checkpoint", 0, 1, b"\xff")]))
    assert part_values(part, Names())["notes"][0]["data_base64"] == "/w=="


def test_death_that_waits_for_room_is_shown_with_its_reason() -> None:
    part = Part(bytes(16), Kind.NOTED, detail=notes.encode([("dead", 3, 2, "rejected", "bad")]))
    said = {"what": "dead", "first": 3, "messages": 2, "reason": "rejected", "text": "bad"}
    assert part_values(part, Names()) == {"notes": [said]}


def test_settle_with_every_flag_has_an_outcome() -> None:
    part = Part(bytes(16), Kind.SETTLE, 0, 1, PARK_FLAG | 0x100 | 1)
    assert part_values(part, Names()) == {"outcome": "dead-lettered", "parks": True}


def test_every_column_of_a_message_is_shown() -> None:
    texts = {
        Column.MESSAGE_GROUP: "g", Column.DEDUP_ID: "d", Column.REPLY_TO: "answers",
        Column.CORRELATION_ID: "c-1", Column.CONTENT_TYPE: "text/plain", Column.JOB_KEY: "j",
    }  # fmt: skip
    cells = [(column, msgpack.packb(text)) for column, text in texts.items()]
    numbers = {Column.DELAY: 1, Column.TTL: 2, Column.PRIORITY: 3, Column.AT: 4, Column.TIMESTAMP: 5}
    conflict = (Column.ON_CONFLICT, OnConflict.RUN_AFTER)
    data = batch((b"1", [*cells, *numbers.items(), conflict]), (b"2", []))
    data = with_cells(BatchView(data), Column.HISTORY, [msgpack.packb({"attempts": []}), b""])
    data = with_cells(BatchView(data), Column.CHECKPOINT, [msgpack.packb(b"page 3"), b""])
    first, second = message_values(10, memoryview(data))
    assert first == {
        **{"offset": 10, "body": "1", "on_conflict": "run_after", "checkpoint": "page 3"},
        **{column.name.lower(): value for column, value in {**texts, **numbers}.items()},
        "history": {"attempts": []},
    }
    assert second == {"offset": 11, "body": "2"}


def test_compressed_bodies_are_not_shown_but_how_long_they_are_is() -> None:
    builder = BatchBuilder()
    for body in (b"north " * 20, b"south " * 10):
        builder.add(body, [(Column.KEY, msgpack.packb(b"k"))])
    data = memoryview(builder.encode(0, 0, ZSTD, lambda _: b"squeezed"))
    assert message_values(10, data) == [
        {"offset": 10, "key": "k", "body_compressed": "zstd", "body_bytes": 120},
        {"offset": 11, "key": "k", "body_compressed": "zstd", "body_bytes": 60},
    ]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        (Column.HEADERS, b"\xc1", {"headers": {"malformed": "c1"}}),
        (Column.HEADERS, b"\x01", {"headers": 1}),
        (Column.HEADERS, msgpack.packb({b"\xff": [b"\x01"]}), {"headers": {"ff": ["01"]}}),
        (Column.HEADERS, b"\xd4\x01\x02", {"headers": [1, "02"]}),
        (Column.HEADERS, b"\xd6\xff\0\0\0\1", {"headers": "Timestamp(seconds=1, nanoseconds=0)"}),
        (Column.KEY, b"\xc1", {"key_malformed": "c1"}),
        (Column.KEY, b"\x05", {"key_malformed": "05"}),
        (Column.REPLY_TO, b"\xc1", {"reply_to": {"malformed": "c1"}}),
        (Column.ON_CONFLICT, 9, {"on_conflict": 9}),
    ],
    ids=[
        *("no msgpack as headers", "a number as headers", "bytes as a header", "extension", "instant"),
        *("no msgpack as key", "a number as key", "no msgpack as text", "a word that nobody knows"),
    ],
)  # fmt: skip
def test_cell_that_nobody_looked_at_is_shown_all_the_same(
    column: Column, cell: Any, expected: dict[str, Any]
) -> None:
    (found,) = message_values(0, memoryview(batch((b"1", [(column, cell)]))))
    assert found == {"offset": 0, "body": "1"} | expected
    assert json.loads(json.dumps(found)) == found
