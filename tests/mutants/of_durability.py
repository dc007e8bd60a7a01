"""Bugs of the journal, of checkpoints and of a start: what is confirmed, and what of it comes back."""

from tests.mutants.mutant import BROKER, Mutant

JOURNAL, ENGINE = f"{BROKER}/storage/journal.py", f"{BROKER}/storage/engine.py"
RECOVERY, BLOCKS, ENTRIES = (f"{BROKER}/storage/{name}.py" for name in ("recovery", "blocks", "entries"))
CHECKPOINT, SAVER = f"{BROKER}/storage/checkpoint.py", f"{BROKER}/storage/saver.py"
OS_FILES = f"{BROKER}/storage/os_files.py"
OS_BULK = f"{BROKER}/storage/os_bulk.py"

SYNCS = "tests/unit/storage/test_syncs.py::test_"
FAULTS = "tests/unit/storage/test_faults.py::test_"
POINTS = "tests/unit/storage/test_crash_points.py::test_crash_"
ROT = "tests/unit/storage/test_rot.py::test_"
CHECKPOINTS = "tests/unit/storage/test_checkpoints.py::test_"
STARTS = "tests/unit/storage/test_starts.py::test_"
REVIEW = "tests/model/test_review_findings.py::test_"
FOUND = "tests/model/test_simulator_findings.py::test_"
OS = "tests/unit/storage/test_os_files.py::test_"
BULK = "tests/unit/storage/test_os_bulk.py::test_"
OS_SYNCS = "tests/unit/storage/test_os_syncs.py::test_"

MUTANTS = (
    # ---- Who is told what, and when
    Mutant(
        "confirm before the sync",
        JOURNAL,
        "(self.written if within else self.durable)",
        "(self.end if within else self.end)",
        SYNCS + "fsync_is_one_job_that_writes_and_syncs",
    ),
    Mutant(
        "weak waiter released before the write",
        JOURNAL,
        "(self.written if within else self.durable)",
        "(self.end if within else self.durable)",
        SYNCS + "interval_is_released_by_the_write_and_synced_when_its_time_is_over",
    ),
    Mutant(
        "strict waiter released by a write alone",
        JOURNAL,
        "(self.released if within or synced else self._late)",
        "self.released",
        SYNCS + "who_waits_strictly_for_a_weak_entry_in_flight_has_a_sync_behind_it",
    ),
    Mutant(
        "strict waiter of what is written asks for no sync",
        JOURNAL,
        "        if block is None:\n            self._due = NOW\n",
        "        if block is None:\n            pass\n",
        SYNCS + "who_waits_strictly_for_a_weak_entry_that_is_written_has_a_sync_at_once",
    ),
    Mutant(
        "W taken at the end of a sync, not at its beginning",
        JOURNAL,
        "            self.durable = self.written\n            self._due = NEVER\n",
        "            self.durable = self.end\n            self._due = NEVER\n",
        SYNCS + "nothing_is_written_while_a_sync_runs_and_what_gathers_follows",
    ),
    Mutant(
        "W moved on by a write without a sync",
        JOURNAL,
        "synced = job.sync if isinstance(job, Write) else True",
        "synced = True",
        SYNCS + "interval_is_released_by_the_write_and_synced_when_its_time_is_over",
    ),
    Mutant(
        "block names what is written as durable",
        JOURNAL,
        "            block.start,\n            self.durable,\n",
        "            block.start,\n            self.written,\n",
        SYNCS + "blocks_name_what_is_durable_and_not_what_is_written",
    ),
    Mutant(
        "block names itself as durable",
        JOURNAL,
        "            block.start,\n            self.durable,\n",
        "            block.start,\n            block.start + size,\n",
        SYNCS + "blocks_name_what_is_durable_and_not_what_is_written",
    ),
    Mutant(
        "next file written before the rolled one is synced",
        JOURNAL,
        "            if file is not None and self.durable < self.written:\n"
        "                return Sync(file.name)\n",
        "",
        SYNCS + "file_is_synced_before_the_next_one_is_written_to",
    ),
    Mutant(
        "interval counted anew with every entry",
        JOURNAL,
        "                block.due = min(block.due, mono + block.within)\n",
        "                block.due = self._due = mono + block.within\n",
        SYNCS + "interval_begins_with_the_entry_that_waits_longest",
    ),
    Mutant(
        "mode of the last entry counts, not the strictest",
        JOURNAL,
        "block.within = min(block.within, within)",
        "block.within = within",
        SYNCS + "longer_interval_puts_no_sync_off",
    ),
    Mutant(
        "demanded sync only where the entry is written",
        JOURNAL,
        "            self._hurry(self._block_of(position))\n",
        "            self._due = NOW if position <= self.written else self._due\n",
        SYNCS + "demand_brings_a_sync_wherever_the_entry_is",
    ),
    Mutant(
        "failed sync ignored",
        ENGINE,
        "        if isinstance(result, BaseException):\n            raise StorageFailed(\n",
        "        if isinstance(result, ValueError):\n            raise StorageFailed(\n",
        FAULTS + "failed_write_stops_the_broker_and_confirms_nothing_more",
    ),
    # ---- System calls
    Mutant(
        "failed sync tried again",
        OS_FILES,
        "            if job.sync:\n                os.fdatasync(fd)\n",
        "            try:\n                os.fdatasync(fd)\n            except OSError:\n"
        "                os.fdatasync(fd)\n",
        OS_SYNCS + "failed_sync_is_an_error_and_is_not_tried_again",
    ),
    Mutant(
        "block not synced",
        OS_FILES,
        "            if job.sync:\n                os.fdatasync(fd)\n",
        "",
        OS_SYNCS + "what_a_job_changes_is_synced_before_it_is_done",
    ),
    Mutant(
        "name of a prepared file not synced",
        OS_FILES,
        "            os.fdatasync(fd)\n            os.fsync(self._directory)\n            self._maps",
        "            os.fdatasync(fd)\n            self._maps",
        OS_SYNCS + "what_a_job_changes_is_synced_before_it_is_done",
    ),
    Mutant(
        "name of a segment not synced",
        OS_FILES,
        "        os.fsync(self._directory)  # an older file, too: who made it may not have come so far\n",
        "",
        OS_SYNCS + "what_a_job_changes_is_synced_before_it_is_done",
    ),
    Mutant(
        "unlinked name not synced",
        OS_FILES,
        "        os.unlink(job.name, dir_fd=self._directory)\n        os.fsync(self._directory)\n",
        "        os.unlink(job.name, dir_fd=self._directory)\n",
        OS_SYNCS + "what_a_job_changes_is_synced_before_it_is_done",
    ),
    Mutant(
        "steps of a copy not synced",
        OS_BULK,
        "        os.fdatasync(self._fd)\n        return end",
        "        return end",
        OS_SYNCS + "copy_syncs_each_step_before_the_next_begins",
    ),
    Mutant(
        "bulk through the cache synced only at its end",
        OS_BULK,
        "            if self._direct is None:\n                os.fdatasync(self._fd)\n",
        "",
        BULK + "where_nothing_can_be_written_past_the_cache_it_goes_through_it",
    ),
    Mutant(
        "end of a bulk write forgotten",
        OS_BULK,
        "        self._write(done, high)\n",
        "",
        BULK + "pieces_stand_one_behind_the_other_and_nothing_else_is_changed",
    ),
    Mutant(
        "gap between extents not read over",
        OS_BULK,
        "            self._into.append(self._gap[:gap])\n",
        "            pass\n",
        BULK + "extents_with_gaps_between_them_are_read_over_them",
    ),
    Mutant(
        "short read taken for a whole one",
        OS_BULK,
        "            if got < size:\n",
        "            if not got:\n",
        BULK + "source_that_ends_too_early_is_damage_or_zeros",
    ),
    Mutant(
        "half-made file kept",
        OS_FILES,
        "            self._descriptors.forget(name)\n"
        "            os.unlink(name, dir_fd=self._directory)\n            raise\n",
        "            self._descriptors.forget(name)\n            raise\n",
        OS + "failed_prepare_says_why_and_leaves_no_file",
    ),
    Mutant(
        "prepared file with holes",
        OS_FILES,
        "            self._zero_fill(job.name, fd, job.size)\n",
        "            os.ftruncate(fd, job.size)\n",
        OS + "prepared_file_has_its_header_and_zeros_and_no_holes",
    ),
    Mutant(
        "directory not locked",
        OS_FILES,
        "            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            fcntl.flock(self._locked, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
        OS + "second_lock_is_refused_in_one_line_with_directory_and_process",
    ),
    # ---- Checkpoints
    Mutant(
        "checkpoint published ahead of W",
        SAVER,
        "        if self._waiting or durable < self.needs:\n",
        "        if self._waiting:\n",
        CHECKPOINTS + "checkpoint_waits_until_all_it_reflects_is_durable",
    ),
    Mutant(
        "checkpoint header written before what it names",
        CHECKPOINT,
        "        Step(0, (bytes(PAGE_BYTES),)),\n",
        "        Step(0, (page,)),\n",
        POINTS + "while_a_checkpoint_is_written_leaves_the_other_one",
    ),
    Mutant(
        "checkpoint slot not emptied first",
        CHECKPOINT,
        "        Step(0, (bytes(PAGE_BYTES),)),\n",
        "",
        POINTS + "while_a_checkpoint_is_written_leaves_the_other_one",
    ),
    Mutant(
        "newest checkpoint written over",
        CHECKPOINT,
        "current is None or current.name == SLOTS[1]",
        "current is None or current.name == SLOTS[0]",
        POINTS + "while_a_checkpoint_is_written_leaves_the_other_one",
    ),
    Mutant(
        "snapshot taken without its checksum",
        CHECKPOINT,
        "    return data if len(data) == row.length and crc32(data) == row.crc else None\n",
        "    return data if len(data) == row.length else None\n",
        ROT + "both_snapshots_of_a_queue_damaged_make_it_corrupt_and_the_node_serves",
    ),
    Mutant(
        "directory of a checkpoint taken without its checksum",
        CHECKPOINT,
        "or length % ROW_BYTES or crc32(directory) != crc:",
        "or length % ROW_BYTES:",
        ROT + "damaged_snapshot_falls_back_to_the_older_one_of_that_machine",
    ),
    Mutant(
        "replay from the newer checkpoint with an older snapshot",
        CHECKPOINT,
        "        yield older.oldest, None if before is None",
        "        yield newest.oldest, None if before is None",
        CHECKPOINTS + "older_snapshot_of_one_machine_is_brought_up_to_date_by_the_journal",
    ),
    Mutant(
        "snapshot of a corrupt machine overwritten with what it holds",
        SAVER,
        "            if machine.uuid not in self._roster.corrupt:\n",
        "            if machine.uuid:\n",
        REVIEW + "queue_whose_snapshots_are_damaged_stays_corrupt_and_keeps_its_bytes",
    ),
    Mutant(
        "changed machine copied from the last checkpoint",
        SAVER,
        "        if row is None or machine.changed_at > row.as_of:\n",
        "        if row is None:\n",
        CHECKPOINTS + "what_changed_since_the_last_checkpoint_is_in_the_next",
    ),
    Mutant(
        "part applied again that a snapshot reflects",
        f"{BROKER}/registry.py",
        "        reflected = self._as_of.get(part.target, 0) >= at.position\n",
        "        reflected = False\n",
        CHECKPOINTS + "machines_saved_at_different_positions_are_brought_up_to_date_each_from_its_own",
    ),
    # ---- Starts
    Mutant(
        "only the last unproven block written again",
        RECOVERY,
        "                self.unproven.append(block)\n",
        "                self.unproven = [block]\n",
        STARTS + "all_blocks_that_nothing_proves_are_there_after_two_power_cuts",
    ),
    Mutant(
        "unproven blocks not written again",
        ENGINE,
        "        if report.unproven:\n            self._write_again(report.unproven, fresh)\n",
        "        if report.unproven:\n",
        POINTS + "while_a_start_writes_changes_nothing",
    ),
    Mutant(
        "first unproven block written before those behind it",
        ENGINE,
        "        if pieces[1:]:\n",
        "        self._files.run(Write(file.name, file.used, pieces[0]))\n        if pieces[1:]:\n",
        STARTS + "start_cut_short_while_it_writes_blocks_again_loses_none_of_them",
    ),
    Mutant(
        "body of an unproven block not looked at",
        RECOVERY,
        "        if block.bad is None and not self._is_proven(header):\n",
        "        if block.bad is None and header.sequence < 0:\n",
        STARTS + "unproven_block_of_which_not_all_was_stored_is_cut_wherever_it_stands",
    ),
    Mutant(
        "journal cut at rot below W",
        RECOVERY,
        "        if stop is not None or ((lost or begun or later) and",
        "        if False and ((lost or begun or later) and",
        ROT + "damaged_block_that_a_later_one_proves_refuses_the_start_and_names_file_and_byte",
    ),
    Mutant(
        "largest W of the newest file not seen",
        RECOVERY,
        "            self.durable = max(self.durable, header.durable)\n",
        "            self.durable = max(self.durable, 0)\n",
        STARTS + "damage_in_the_last_file_below_the_largest_W_refuses_the_start",
    ),
    Mutant(
        "journal that ends below W accepted",
        RECOVERY,
        "        if end < self.durable:\n            raise StorageError(\n",
        "        if end < 0:\n            raise StorageError(\n",
        ROT + "journal_that_ends_before_what_a_checkpoint_proves_refuses_the_start",
    ),
    Mutant(
        "boot number not raised",
        ENGINE,
        "Journal(self.sizes, self._random, report.boot + 1)",
        "Journal(self.sizes, self._random, max(report.boot, 1))",
        STARTS + "settle_of_an_earlier_life_is_stale",
    ),
    Mutant(
        "boot of what was cut not seen",
        RECOVERY,
        "max((file.first.boot for file in found if file.first is not None), default=0)",
        "0",
        STARTS + "boot_number_is_larger_than_that_of_a_life_whose_file_is_cut",
    ),
    Mutant(
        "checksum of a block header not looked at",
        BLOCKS,
        "    if CRC.unpack_from(view, at + BLOCK.size)[0] != crc32(view[at : at + BLOCK.size]):\n"
        "        return None\n",
        "",
        ROT + "damaged_block_that_a_later_one_proves_refuses_the_start_and_names_file_and_byte",
    ),
    Mutant(
        "checksum of a part table not looked at",
        ENTRIES,
        "    if crc32(view[at + CRC_FROM : table_end]) != crc:\n",
        "    if crc < 0:\n",
        ROT + "damaged_block_that_a_later_one_proves_refuses_the_start_and_names_file_and_byte",
    ),
    Mutant(
        "body under another's length",
        BLOCKS,
        "                body[: BATCH.size] != stated or crc32(body[BATCH.size :]) != stored.body_crc\n",
        "                crc32(body[BATCH.size :]) != stored.body_crc\n",
        STARTS + "unproven_batch_whose_own_length_is_damaged_is_cut",
    ),
)
