"""What dump shows of whole and of damaged files, and what it leaves out when asked to."""

from typing import Any

import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.unit.tools.ground import began, copied, flipped, page, with_topic

from penstock_broker.tools.command import Failed
from penstock_broker.tools.dump import Wanted, as_text, chosen


def shown(files: MemoryFiles, wanted: Wanted = Wanted()) -> list[dict[str, Any]]:  # noqa: B008
    return list(chosen(files, wanted))


def only(records: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    return [record for record in records if record["is"] == sort]


def test_every_part_is_shown_with_its_machine_by_name() -> None:
    records = shown(copied(began().receive_and_ack(2)))
    parts = [(part["kind"], part["of"], part["first"]) for part in only(records, "part")]
    assert ("CREATE", "catalogue", 0) in parts
    assert {part["file"] for part in only(records, "part")} == {
        each["file"] for each in only(records, "block")
    }
    assert [part for part in parts if part[0] == "APPEND"] == [("APPEND", "queue jobs", n) for n in range(7)]
    (settled,) = (part for part in only(records, "part") if part["kind"] == "SETTLE")
    assert (settled["messages"], settled["outcome"]) == (2, "acked")


def test_bodies_are_shown_if_they_are_asked_for() -> None:
    files = copied(began())
    assert only(shown(files), "message") == []
    found = only(shown(files, Wanted(bodies=True)), "message")
    assert [(each["offset"], each["body"]) for each in found] == [(n, str(n + 1)) for n in range(7)]


def test_old_messages_are_shown_from_their_segment() -> None:
    files = copied(with_topic().archive())
    found = shown(files, Wanted(files=["segment-*"], bodies=True))
    assert [each["body"] for each in only(found, "message")][:3] == ["a", "b", "c"]
    assert only(found, "block")[0]["of"] == "topic events/0"
    assert only(found, "damage") == []


def test_checkpoint_is_shown_machine_by_machine() -> None:
    found = shown(copied(began().receive_and_ack(1).checkpoint()), Wanted(files=["checkpoint-*"]))
    snapshots = {each["of"]: each for each in only(found, "snapshot")}
    assert snapshots["queue jobs"]["unsettled"] == 6
    assert snapshots["catalogue"]["queues"] == 1


def test_log_and_offsets_leave_out_everything_else() -> None:
    found = shown(copied(began()), Wanted(log="jobs", offsets=(2, 3), bodies=True))
    assert [(each["is"], each["first"]) for each in only(found, "part")] == [("part", 2), ("part", 3)]
    assert [each["body"] for each in only(found, "message")] == ["3", "4"]
    assert {each["sequence"] for each in only(found, "block")} == {4, 5}
    assert {each["is"] for each in found} == {"file", "block", "part", "message"}


def test_settle_of_several_ranges_is_found_by_any_of_them() -> None:
    node = began()
    ranges = node.receive(7)
    node.settle([ranges[0]._replace(first=first, messages=1) for first in (0, 4)])
    found = shown(copied(node), Wanted(kinds=["SETTLE"], log="jobs", offsets=(4, 4)))
    assert [each["ranges"] for each in only(found, "part")] == [[[0, 0], [4, 4]]]


def test_damaged_block_is_shown_as_such_with_why_and_the_rest_behind_it() -> None:
    node = began()
    name = node.core.engine.journal.files[1].name
    found = shown(flipped(node, name, page(2) + 4), Wanted(files=[name]))
    assert [each["is"] for each in found] == ["file", "block", "part", "damage", "block", "part"]
    damage = only(found, "damage")[0]
    assert (damage["at"], damage["length"]) == (page(2), page(1))
    assert "damaged" in damage["why"]


def test_damaged_body_is_shown_in_place_of_its_messages() -> None:
    node = began()
    name = node.core.engine.journal.files[1].name
    found = shown(flipped(node, name, page(2) + 80 + 24 + 48 + 33), Wanted(files=[name], bodies=True))
    assert [each["is"] for each in found].count("message") == 2
    assert only(found, "damage")[0]["why"] == "the batch fails its checksum"


def test_page_that_the_disk_cannot_read_is_damage() -> None:
    node = began()
    name = node.core.engine.journal.files[1].name
    files = copied(node)
    files.disk.spoil(name, page(2))
    assert "the disk cannot read it" in {each["why"] for each in only(shown(files), "damage")}


def test_every_record_has_a_line_of_text() -> None:
    node = began().archive().receive_and_ack(1).checkpoint().enqueue(b"\xff")
    name = node.core.engine.journal.files[-1].name
    for record in shown(flipped(node, name, page(1) + 4), Wanted(bodies=True)):
        text = as_text(record).lstrip("\n")
        assert text
        assert "\n" not in text


def test_pattern_that_fits_no_file_says_what_there_is() -> None:
    with pytest.raises(Failed, match="there are journal-000000000001"):
        shown(copied(began()), Wanted(files=["jornal-*"]))
