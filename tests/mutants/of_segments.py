"""Bugs of what moves, of what is given up, and of how it is read: archiver, segments, retention, space."""

from tests.mutants.mutant import BROKER, Mutant

ARCHIVER, ARCHIVE = f"{BROKER}/storage/archiver.py", f"{BROKER}/storage/archive.py"
EVACUATION, SEGMENT = f"{BROKER}/storage/evacuation.py", f"{BROKER}/storage/segment.py"
READS, LOG, NODE = (f"{BROKER}/storage/{name}.py" for name in ("reads", "log", "node"))
ENGINE, JOURNAL = f"{BROKER}/storage/engine.py", f"{BROKER}/storage/journal.py"
COMPACTION, COMPACTOR = f"{BROKER}/storage/compaction.py", f"{BROKER}/storage/compactor.py"
RETENTION, ROUNDS = f"{BROKER}/storage/retention.py", f"{BROKER}/topics/retention.py"

FREEING = "tests/unit/storage/test_freeing.py::test_file_"
SEGMENTS = "tests/unit/storage/test_segments.py::test_"
MOVES = "tests/unit/storage/test_moves.py::test_"
MISPLACED = "tests/unit/storage/test_misplaced.py::test_"
FAULTS = "tests/unit/storage/test_faults.py::test_"
ROT = "tests/unit/storage/test_rot.py::test_"
CHECKPOINTS = "tests/unit/storage/test_checkpoints.py::test_"
FOUND = "tests/model/test_simulator_findings.py::test_"
KEPT = "tests/model/test_retention.py::test_"
ROOM = "tests/unit/storage/test_room.py::test_"
RECYCLING = "tests/unit/storage/test_recycling.py::test_"
COMPACTED = "tests/model/test_compaction.py::test_"
PLACES = "tests/unit/storage/test_retention.py::test_"

MUTANTS = (
    # ---- A journal file freed one condition early
    Mutant(
        "file freed with something alive in it",
        ARCHIVER,
        "                if self._oldest_young() < end:\n                    return\n",
        "",
        FREEING + "with_something_alive_stays",
    ),
    Mutant(
        "file freed before both checkpoints reflect it",
        ARCHIVER,
        "            if self._host.covered < end or self._host.is_read(file.name):\n",
        "            if self._host.is_read(file.name):\n",
        FREEING + "that_the_older_checkpoint_does_not_reflect_stays",
    ),
    Mutant(
        "file freed before W has passed what settled it",
        ARCHIVER,
        "            if journal.durable < self._free_mark or not self._host.unmap(file.name):\n",
        "            if not self._host.unmap(file.name):\n",
        FREEING + "stays_until_it_is_durable_that_nothing_in_it_is_alive",
    ),
    Mutant(
        "file freed while a job reads it",
        ARCHIVER,
        "            if self._host.covered < end or self._host.is_read(file.name):\n",
        "            if self._host.covered < end:\n",
        FREEING + "that_a_job_reads_stays",
    ),
    Mutant(
        "file freed while a view of it is alive",
        ARCHIVER,
        "            if journal.durable < self._free_mark or not self._host.unmap(file.name):\n",
        "            if journal.durable < self._free_mark:\n",
        FREEING + "of_which_a_view_is_alive_stays",
    ),
    Mutant(
        "no file goes as long as one run follows the other",
        ARCHIVER,
        "            self._free(jobs)  # first: while a run is made, nothing goes\n"
        "            self._begin(wall)\n",
        "            self._begin(wall)\n            self._free(jobs)\n",
        "tests/unit/storage/test_freeing.py::test_files_go_while_one_run_follows_the_other",
    ),
    # ---- Runs
    Mutant(
        "archive recorded before the copy is done",
        ARCHIVER,
        "            self._run, self._writing, self._left = None, run, len(run.copies)\n",
        "            self._run, self._writing, self._left = None, run, len(run.copies)\n"
        "            self._record(run, self._host.journal.time)\n",
        MOVES + "nothing_says_that_a_message_was_moved_before_its_copy_is_done",
    ),
    Mutant(
        "failed run recorded",
        ARCHIVER,
        "        if self._broken:  # what",
        "        if self._left:  # what",
        FAULTS + "failed_archive_run_leaves_the_journal_to_serve_and_is_made_again",
    ),
    Mutant(
        "segment written before it is durable that it was begun",
        ARCHIVER,
        "        if self._host.journal.durable >= position:\n            self._run, self._writing",
        "        if position >= 0:\n            self._run, self._writing",
        MOVES + "segment_is_written_when_it_is_durable_that_it_was_begun",
    ),
    Mutant(
        "unreadable batch given up at the first try",
        ARCHIVER,
        "or_zeros = self._unread >= READ_TRIES",
        "or_zeros = True",
        MOVES + "batch_that_cannot_be_read_once_is_moved_later_as_it_is",
    ),
    Mutant(
        "segment of deleted logs alone recorded for them",
        ARCHIVER,
        "        parts = [part for part in run.parts if self._owners.get(part.target) is not None]\n",
        "        parts = list(run.parts)\n",
        MOVES + "queue_that_is_deleted_while_it_is_moved_is_gone",
    ),
    Mutant(
        "batch with one settled message not copied",
        ARCHIVE,
        "                if owner.is_alive(row.base, row.messages):\n",
        "                if owner.alive(row.base, row.messages) == row.messages:\n",
        MOVES + "batch_of_which_one_message_is_left_is_archived",
    ),
    Mutant(
        "open segment written over from its beginning",
        ARCHIVE,
        "        return Target(number, node.segments[number].size)\n",
        "        return Target(number, 0)\n",
        SEGMENTS + "segment_is_appended_to_until_it_is_full_then_sealed",
    ),
    Mutant(
        "open segment written over below its recorded size",
        ARCHIVE,
        "        size = entries.SIZE.pack(target.end)\n",
        "        size = entries.SIZE.pack(target.start)\n",
        SEGMENTS + "segment_is_appended_to_until_it_is_full_then_sealed",
    ),
    Mutant(
        "full segment never sealed",
        NODE,
        "                self.segments[before] = self.segments[before]._replace(sealed=True)\n",
        "                pass\n",
        SEGMENTS + "segment_is_appended_to_until_it_is_full_then_sealed",
    ),
    # ---- Evacuation
    Mutant(
        "segment dropped before its DROPPED is durable",
        ARCHIVER,
        "            if position <= self._host.journal.durable and not self._host.is_read(name):\n",
        "            if not self._host.is_read(name):\n",
        MOVES + "segment_is_unlinked_when_it_is_durable_that_it_is_not_needed",
    ),
    Mutant(
        "segment dropped while it is read",
        ARCHIVER,
        "            if position <= self._host.journal.durable and not self._host.is_read(name):\n",
        "            if position <= self._host.journal.durable:\n",
        MOVES + "segment_that_a_job_reads_stays_until_it_has",
    ),
    Mutant(
        "segment dropped that a run is writing",
        ARCHIVER,
        "if not self._use.of(n) and n not in held]",
        "if not self._use.of(n)]",
        MOVES + "segment_that_a_run_is_writing_stays",
    ),
    Mutant(
        "segments dropped though a machine is corrupt",
        ARCHIVER,
        "        if self.quiet or self._owners.corrupt:\n            return\n        run =",
        "        if self.quiet:\n            return\n        run =",
        MOVES + "segment_that_a_queue_may_need_whose_snapshots_are_damaged_stays",
    ),
    Mutant(
        "evacuated into the segment that is left",
        ARCHIVE,
        "    if number not in (None, leave) and",
        "    if number is not None and",
        MOVES + "open_segment_is_evacuated_into_another",
    ),
    Mutant(
        "batch with one settled message left behind by an evacuation",
        EVACUATION,
        "            if owner.is_alive(row.base, row.messages):\n",
        "            if owner.alive(row.base, row.messages) == row.messages:\n",
        MOVES + "batch_of_which_one_message_is_left_is_evacuated",
    ),
    Mutant(
        "what was moved still counts where it was",
        LOG,
        "        for index in range(low, high):\n            self._count(Stretch(*old.row(index)), -1)\n",
        "        for index in range(low, high):\n            Stretch(*old.row(index))\n",
        SEGMENTS + "message_that_is_stuck_pins_no_segment",
    ),
    Mutant(
        "leftover of a dropped segment kept",
        ENGINE,
        "                self._pending.append(Drop(name))\n\n    def flush",
        "                self._pending += ()\n\n    def flush",
        FOUND + "segment_dropped_before_a_crash_but_not_from_the_disk_goes_at_the_next_start",
    ),
    # ---- Reading
    Mutant(
        "index trusted without its checksum",
        SEGMENT,
        "    if crc32(data[end : end + INDEX.size], crc32(data[:end])) != crc or blocks",
        "    if crc < 0 or blocks",
        SEGMENTS + "damaged_index_is_made_again_from_the_blocks",
    ),
    Mutant(
        "index of another stretch trusted",
        SEGMENT,
        "    if magic != INDEX_MAGIC or version != VERSION or owner != log or number != segment:\n",
        "    if magic != INDEX_MAGIC or version != VERSION:\n",
        MISPLACED + "index_of_another_stretch_is_made_again",
    ),
    Mutant(
        "block of another log served",
        SEGMENT,
        "crc32(data[: BLOCK.size])) != crc or owner != log or number != segment:",
        "crc32(data[: BLOCK.size])) != crc or number != segment:",
        MISPLACED + "block_of_another_log_is_corrupt",
    ),
    Mutant(
        "block of another place of the log served",
        READS,
        "        if rows is None or rows[0].base != block.first:\n",
        "        if rows is None:\n",
        MISPLACED + "block_of_the_same_log_from_another_place_is_corrupt",
    ),
    Mutant(
        "table of a segment block trusted without its checksum",
        SEGMENT,
        "    if crc32(table, crc32(data[: BLOCK.size])) != crc or owner",
        "    if crc < 0 or owner",
        ROT + "damaged_segment_makes_its_messages_corrupt",
    ),
    Mutant(
        "bytes served without their checksum",
        READS,
        "    if data[:BATCH_CRC_FROM] != stated or crc32(data[BATCH_CRC_FROM:]) != crc:\n",
        "    if data[:BATCH_CRC_FROM] != stated:\n",
        ROT + "damaged_body_makes_its_message_corrupt_and_leaves_the_others",
    ),
    Mutant(
        "bytes served that begin as another batch",
        READS,
        "    if data[:BATCH_CRC_FROM] != stated or crc32(data[BATCH_CRC_FROM:]) != crc:\n",
        "    if crc32(data[BATCH_CRC_FROM:]) != crc:\n",
        ROT + "damaged_body_makes_its_message_corrupt_and_leaves_the_others",
    ),
    # ---- Retention
    Mutant(
        "TRIMMED not journalled",
        ROUNDS,
        "        self._journal.append([Part(p.uuid, Kind.TRIMMED, start) for p, start in starts.items()]"
        ", wall=wall)\n",
        "        for partition, start in starts.items():\n            partition.log.trim(start)\n",
        KEPT + "what_went_stays_away_after_a_restart",
    ),
    Mutant(
        "records given up that are just young enough",
        RETENTION,
        "        if place.until >= before:\n",
        "        if place.until > before:\n",
        PLACES + "by_age_keeps_exactly_what_is_young_enough",
    ),
    Mutant(
        "age counted from a stretch's first record",
        RETENTION,
        "        if place.until >= before:\n",
        "        if place.since >= before:\n",
        PLACES + "place_with_something_young_enough_stays_whole",
    ),
    Mutant(
        "topic cut below its size limit",
        RETENTION,
        "    while oldest and oldest[0][2].length <= surplus and places_max:\n",
        "    while oldest and surplus > 0 and places_max:\n",
        KEPT + "topic_never_falls_below_its_size_limit",
    ),
    # ---- Space
    Mutant(
        "settles refused on a full disk",
        ENGINE,
        "        if publish:\n            self._admit()\n",
        "        self._admit()\n",
        FAULTS + "full_disk_refuses_publishes_and_lets_settles_go_on",
    ),
    Mutant(
        "reserve used by publishes",
        ENGINE,
        "        left = self.space.free + journal.spare_bytes - reserve\n",
        "        left = self.space.free + journal.spare_bytes\n",
        FOUND + "publishers_that_fill_the_disk_within_a_second_leave_room_for_settles",
    ),
    Mutant(
        "space judged once a second alone",
        ENGINE,
        "        if journal.end > self._look_from:\n            self._judge_space()\n",
        "",
        FOUND + "publishers_that_fill_the_disk_within_a_second_leave_room_for_settles",
    ),
    Mutant(
        "checkpoint that only the page cache shows believed",
        ENGINE,
        "        self._prove_checkpoint(report)\n",
        "",
        CHECKPOINTS + "checkpoint_that_a_kill_left_unsynced_is_made_sure_before_the_other_is_written_over",
    ),
    # ---- Room in files
    Mutant(
        "publish taken without a file for it",
        JOURNAL,
        "            if padded(needed) > room.published and not self.ample:\n",
        "            if self.full:\n",
        ROOM + "what_was_taken_is_written_on_a_disk_that_fills_at_any_time",
    ),
    Mutant(
        "last spare given to publishes",
        JOURNAL,
        "most if len(spares) > 1 else here if spares else here - self.settings.file_min",
        "most",
        ROOM + "publishes_leave_a_file_to_what_frees_space",
    ),
    Mutant(
        "large file given to small blocks",
        JOURNAL,
        "        if not alone and not self.full:\n            spares = ",
        "        if self.end < 0:\n            spares = ",
        ROOM + "large_publish_gets_the_file_that_was_made_for_it_however_many_small_ones_come",
    ),
    Mutant(
        "most freed files dropped",
        JOURNAL,
        "self.bytes + kept + size > self.settings.budget:",
        "self.bytes + kept + size > self.settings.budget // 4:",
        RECYCLING + "after_one_budget_of_bytes_no_file_is_filled_anew",
    ),
    # ---- Compaction
    Mutant(
        "first record of a key kept, not the last",
        COMPACTION,
        "        return self._offsets.get(digest, 0) > offset\n",
        "        return self._offsets.get(digest, offset) < offset\n",
        COMPACTED + "last_record_of_each_key_is_left_at_its_offset",
    ),
    Mutant(
        "tombstone gone with what it took away",
        COMPACTION,
        "        return self.horizon if wall >= self.since + tombstone_retention else 0\n",
        "        return self.horizon\n",
        COMPACTED + "tombstone_outlives_what_it_took_away_and_then_goes",
    ),
    Mutant(
        "records at new offsets",
        COMPACTOR,
        "    return Batch(row.base + delta, span, row.time, *origin, view.crc, view.length, view.view)\n",
        "    return Batch(row.base, span, row.time, *origin, view.crc, view.length, view.view)\n",
        COMPACTED + "last_record_of_each_key_is_left_at_its_offset",
    ),
)
