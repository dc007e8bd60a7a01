"""The fake disk loses exactly what a real one may lose, and nothing else."""

import errno
import threading
from random import Random

import pytest
from tests.fakes.disk import SECTOR_BYTES, Disk
from tests.fakes.memory_files import MemoryFiles

from penstock_broker.storage.files import (
    Copy,
    Damaged,
    Drop,
    Extent,
    Job,
    Load,
    Prepare,
    Step,
    StorageError,
    Write,
)
from penstock_protocol.checksum import crc32

SIZE = 8 * SECTOR_BYTES
OLD, NEW = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES


def prepared(name: str = "a", **of_disk: int) -> MemoryFiles:
    files = MemoryFiles(Disk(**of_disk))
    files.run(Prepare(name, SIZE, b"header", None))
    return files


def after_calls(files: MemoryFiles, job: Job, count: int) -> None:
    steps = files.steps(job)
    for _ in range(count):
        next(steps)


def test_prepared_file_is_zero_filled_behind_its_header_and_survives_a_power_cut() -> None:
    files = prepared().crash()
    assert files.names() == {"a": SIZE}
    assert files.read("a", 0, SIZE) == b"header".ljust(SIZE, b"\0")


def test_write_job_survives_a_power_cut() -> None:
    files = prepared()
    files.run(Write("a", SECTOR_BYTES, (b"one ", memoryview(b"two"))))
    assert files.crash().read("a", SECTOR_BYTES, 7) == b"one two"


def test_power_cut_before_the_sync_keeps_any_subset_of_sectors() -> None:
    files = prepared()
    after_calls(files, Write("a", 0, (OLD * 3,)), 2)
    after_calls(files, Write("a", 0, (NEW * 3,)), 1)
    subsets = [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)]
    found = [files.crash(subset).read("a", 0, 3 * SECTOR_BYTES) for subset in subsets]
    assert found == [b"".join(NEW if i in subset else OLD for i in range(3)) for subset in subsets]


def test_unchanged_sectors_are_nothing_to_lose() -> None:
    files = prepared()
    after_calls(files, Write("a", 0, (b"header",)), 1)
    assert files.disk.unsynced() == []


def test_random_power_cut_tears_some_sectors() -> None:
    files = prepared()
    after_calls(files, Write("a", 0, (OLD,)), 2)
    after_calls(files, Write("a", 0, (NEW,)), 1)
    random = Random(1)
    found = {files.crash(random).read("a", 0, SECTOR_BYTES) for _ in range(300)}
    assert {OLD, NEW} < found
    assert all(data == data.rstrip(b"o").ljust(SECTOR_BYTES, b"o") for data in found)


def test_killed_process_loses_nothing_written() -> None:
    files = prepared()
    after_calls(files, Write("a", 0, (NEW,)), 1)
    assert files.kill().read("a", 0, SECTOR_BYTES) == NEW


def test_new_name_is_lost_until_the_directory_is_synced() -> None:
    files = MemoryFiles()
    after_calls(files, Prepare("a", SIZE, b"", None), 3)
    assert files.names() == {"a": SIZE}
    assert files.crash().names() == {}
    assert files.crash([0]).names() == {"a": SIZE}


def test_unsynced_rename_is_undone_or_done_never_half() -> None:
    files = prepared("old").kill()
    after_calls(files, Prepare("new", SIZE, b"HEADER", "old"), 2)
    crashed = [files.crash(keep) for keep in ((), (0,), (1,), (0, 1))]
    found = {(name, life.read(name, 0, 6)) for life in crashed for name in life.names()}
    assert found == {("old", b"header"), ("new", b"header"), ("old", b"HEADER"), ("new", b"HEADER")}


def test_unsynced_unlink_is_undone() -> None:
    files = prepared()
    after_calls(files, Drop("a"), 1)
    assert files.names() == {}
    assert files.crash().names() == {"a": SIZE}
    assert files.crash([0]).names() == {}


def test_content_of_a_file_whose_name_was_lost_does_not_come_back_under_another() -> None:
    files = MemoryFiles()
    after_calls(files, Prepare("a", SIZE, b"first", None), 1)
    files.run(Drop("a"))
    files.run(Prepare("a", SIZE, b"second", None))
    assert files.crash().read("a", 0, 6) == b"second"


def test_crashes_try_none_all_prefixes_and_subsets() -> None:
    files = prepared()
    after_calls(files, Write("a", 0, (NEW * 4,)), 1)
    states = dict(files.disk.crashes(Random(1), samples=5))
    assert len(states) == 2 + 3 + 5
    for kept in range(1, 4):
        data = states[f"the first {kept} of 4 kept"].read("a", 0, 4 * SECTOR_BYTES)
        assert data.count(b"n") == kept * SECTOR_BYTES


def test_same_seed_gives_the_same_crash() -> None:
    files = prepared()
    after_calls(files, Write("a", 0, (bytes(range(256)) * 16,)), 1)
    first, second = (files.crash(Random(7)).read("a", 0, SIZE) for _ in range(2))
    assert first == second


def test_lying_sync_loses_what_was_confirmed() -> None:
    files = prepared()
    files.disk.honest = False
    files.run(Write("a", 0, (NEW,)))
    assert files.crash().read("a", 0, 6) == b"header"


def test_failed_sync_is_never_made_good_by_a_later_one() -> None:
    files = prepared()
    files.disk.fail(2, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.run(Write("a", 0, (NEW,)))
    files.run(Write("a", 4 * SECTOR_BYTES, (NEW,)))
    assert files.read("a", 0, SECTOR_BYTES) == NEW
    assert files.crash().read("a", 0, 6) == b"header"
    assert files.crash([0]).read("a", 0, SECTOR_BYTES) == NEW
    files.disk.drop_caches()
    assert files.read("a", 0, 6) == b"header"
    assert files.read("a", 4 * SECTOR_BYTES, SECTOR_BYTES) == NEW


def test_short_write_got_half_of_its_bytes_in() -> None:
    files = prepared()
    files.disk.fail(1, errno.ENOSPC, short=True)
    with pytest.raises(OSError, match="No space left"):
        files.run(Write("a", 0, (NEW,)))
    assert files.read("a", 0, SECTOR_BYTES).count(b"n") == SECTOR_BYTES // 2


def test_fault_hits_the_call_it_was_set_for_and_no_other() -> None:
    files = prepared()
    files.disk.fail(3, errno.EIO)
    files.run(Write("a", 0, (NEW,)))
    with pytest.raises(OSError, match="Input/output error"):
        files.run(Load("a", 0, 1))
    assert files.run(Load("a", 0, 1)) == b"n"


@pytest.mark.parametrize("call", [2, 3, 4])
@pytest.mark.parametrize("recycle", [None, "spare"])
def test_failed_prepare_leaves_no_file_behind(call: int, recycle: str | None) -> None:
    files = MemoryFiles()
    if recycle:
        files = prepared(recycle).kill()
    files.disk.fail(call, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        files.run(Prepare("a", SIZE, b"", recycle))
    assert files.names() == {}


def test_full_disk_refuses_growth_and_not_overwriting() -> None:
    files = prepared(capacity=SIZE + 100)
    with pytest.raises(OSError, match="No space left"):
        files.run(Copy("b", (Step(0, (bytes(101),)),)))
    files.run(Write("a", 0, (NEW,)))
    assert files.space() == (100, SIZE + 100)
    files.disk.taken = 100
    assert files.space().free == 0


def test_copy_gathers_bytes_and_extents_step_by_step() -> None:
    files = prepared()
    files.run(Write("a", 0, (b"0123456789",)))
    steps = (
        Step(0, (b"<", Extent("a", 2, 3, crc32(b"234")), b">")),
        Step(SECTOR_BYTES, (Extent("a", 0, 2),)),
    )
    assert files.run(Copy("b", steps)) == 7
    after = files.crash()
    assert after.read("b", 0, 5) == b"<234>"
    assert after.read("b", SECTOR_BYTES, 9) == b"01"


def test_copy_makes_each_step_durable_before_the_next_begins() -> None:
    files = prepared()
    after_calls(files, Copy("a", (Step(0, (NEW,)), Step(SECTOR_BYTES, (NEW,)))), 3)
    assert files.crash().read("a", 0, 2 * SECTOR_BYTES) == NEW + bytes(SECTOR_BYTES)


def test_copy_of_rotten_bytes_is_damaged() -> None:
    files = prepared()
    checksum = crc32(files.read("a", 0, 6))
    files.disk.flip("a", 3, 0x10)
    with pytest.raises(Damaged, match="fail their checksum"):
        files.run(Copy("b", (Step(0, (Extent("a", 0, 6, checksum),)),)))


def test_rot_is_in_the_cache_and_on_the_device() -> None:
    files = prepared()
    files.disk.flip("a", 0, 0xFF)
    files.disk.damage("a", 8, b"stray")
    for life in (files, files.crash()):
        assert life.read("a", 0, 13) == bytes([ord("h") ^ 0xFF]) + b"eader\0\0stray"
    files.disk.truncate("a", 10)
    assert files.crash().names() == {"a": 10}


def test_unreadable_sector_fails_alone() -> None:
    files = prepared()
    files.disk.spoil("a", SECTOR_BYTES + 5)
    for life in (files, files.crash()):
        assert life.read("a", 0, SECTOR_BYTES)[:6] == b"header"
        with pytest.raises(OSError, match="Input/output error"):
            life.read("a", 0, SECTOR_BYTES + 1)


def test_read_is_short_at_the_end_of_the_file() -> None:
    files = prepared()
    assert files.run(Load("a", SIZE - 3, 10)) == bytes(3)
    assert files.run(Load("a", SIZE + 3, 10)) == b""


def test_missing_file_is_an_os_error() -> None:
    files = MemoryFiles()
    for job in (Load("a", 0, 1), Drop("a"), Write("a", 0, (b"x",)), Prepare("b", 1, b"", "a")):
        with pytest.raises(FileNotFoundError):
            files.run(job)


def test_view_shows_what_is_written_and_cannot_be_written_through() -> None:
    files = prepared()
    view = files.view("a", 0, SECTOR_BYTES)
    files.run(Write("a", 0, (NEW,)))
    assert view == NEW
    with pytest.raises(TypeError):
        view[0] = 0


def test_view_needs_a_file_prepared_in_this_life() -> None:
    files = prepared().kill()
    with pytest.raises(AssertionError, match="not prepared in this life"):
        files.view("a", 0, 1)


def test_write_beyond_the_prepared_size_is_our_bug() -> None:
    files = prepared()
    with pytest.raises(AssertionError, match="beyond its prepared size"):
        files.run(Write("a", SIZE - 1, (b"xx",)))


def test_peek_is_cold_now_and_then_if_chance_says_so() -> None:
    disk = prepared().disk
    looks = [MemoryFiles(disk, random=Random(seed)).peek("a", 0, 6) for seed in range(50)]
    assert set(looks) == {None, b"header"}
    assert {MemoryFiles(disk).peek("a", 0, 6) for _ in range(50)} == {b"header"}


def test_lock_is_held_until_the_life_ends() -> None:
    files = prepared()
    files.lock()
    with pytest.raises(StorageError, match="in use"):
        MemoryFiles(files.disk).lock()
    files.kill().lock()


def test_ended_life_does_nothing_more() -> None:
    files = prepared()
    files.close()
    with pytest.raises(AssertionError, match="has ended"):
        files.run(Load("a", 0, 1))
    with pytest.raises(AssertionError, match="has ended"):
        files.read("a", 0, 1)


def test_stalled_device_begins_no_job_until_it_runs_again() -> None:
    files = prepared()
    files.disk.running.clear()
    thread = threading.Thread(target=files.run, args=[Write("a", 0, (NEW,))])
    thread.start()
    calls = len(files.disk.calls)
    assert files.read("a", 0, 6) == b"header"
    assert files.disk.calls[calls:] == [("read", "a")]
    files.disk.running.set()
    thread.join()
    assert files.read("a", 0, SECTOR_BYTES) == NEW
