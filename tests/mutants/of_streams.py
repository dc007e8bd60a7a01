"""Bugs of what topics have beyond queues: compressed batches, and tables."""

from tests.mutants.mutant import BROKER, PROTOCOL, Mutant

BATCH, CUTS = f"{PROTOCOL}/batch.py", f"{PROTOCOL}/cuts.py"
COMPRESSION, TABLE = "client/penstock/compression.py", "client/penstock/table.py"

SQUEEZED = "tests/unit/protocol/test_compressed.py::test_"
CLIENT = "tests/unit/client/test_compression.py::test_"
NODE = "tests/model/test_compressed_batches.py::test_"
TABLES = "tests/unit/client/test_table.py::test_"

MUTANTS = (
    Mutant(
        "compressed batch loses its codec when it is numbered again",
        BATCH,
        "[memoryview(batch)[HEADER_BYTES:]], flags, inflated)",
        "[memoryview(batch)[HEADER_BYTES:]])",
        SQUEEZED + "renumbered_compressed_batch_stays_compressed",
    ),
    Mutant(
        "compressed batch loses its codec when a column is added",
        CUTS,
        "    flags = batch.codec | (SPARSE if sparse else 0)\n",
        "    flags = SPARSE if sparse else 0\n",
        SQUEEZED + "cells_added_to_a_compressed_batch_leave_it_compressed",
    ),
    Mutant(
        "compressed batch cut again counts from the cut",
        CUTS,
        "        if Kind.START not in columns:\n",
        "        if True:\n",
        SQUEEZED + "cut_of_a_cut_of_a_compressed_batch_is_the_same_messages",
    ),
    Mutant(
        "compressed batch may inflate to anything",
        BATCH,
        "        if inflated > INFLATED_BYTES_MAX:\n",
        "        if False:\n",
        NODE + "bomb_is_refused_by_its_header",
    ),
    Mutant(
        "compressed batch may be of any ratio",
        BATCH,
        "        if not compressed < inflated <= COMPRESSION_RATIO_MAX * self.length:\n",
        "        if not compressed < inflated:\n",
        SQUEEZED + "compressed_batch_must_not_inflate_beyond_the_ratio",
    ),
    Mutant(
        "compressed batch hides a message above the limit",
        BATCH,
        "        if longest > message_bytes_max:\n",
        "        if False:\n",
        SQUEEZED + "message_above_the_limit_is_too_large_before_it_is_inflated",
    ),
    Mutant(
        "compressed batch enters a queue",
        f"{BROKER}/publishing.py",
        "        if batch.codec:\n",
        "        if False:\n",
        NODE + "queue_takes_no_compressed_batch",
    ),
    Mutant(
        "compressed batch is compacted into pieces, each with all of its bodies",
        f"{BROKER}/storage/compaction.py",
        "    piece = batch.count if batch.codec else PIECE_RECORDS\n",
        "    piece = PIECE_RECORDS\n",
        NODE + "compaction_takes_records_out_of_compressed_batches_and_leaves_the_bytes",
    ),
    Mutant(
        "compressed batch is believed to be as large as it says",
        COMPRESSION,
        "        if size > INFLATED_BYTES_MAX:\n",
        "        if False:\n",
        CLIENT + "a_batch_that_announces_more_than_a_reader_takes_is_not_even_tried",
    ),
    Mutant(
        "compressed batch may ask for any window",
        COMPRESSION,
        "            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}\n",
        "            options={}\n",
        CLIENT + "a_frame_that_needs_a_large_window_is_refused_by_its_header",
    ),
    Mutant(
        "compressed batch may have bytes behind its frame",
        COMPRESSION,
        "    if not decompressor.eof or decompressor.unused_data:\n",
        "    if not decompressor.eof:\n",
        CLIENT + "bodies_that_are_not_what_the_batch_says_are_corrupt",
    ),
    Mutant(
        "compressed batches have sequences of their own",
        "client/penstock/batching.py",
        "        place = address._replace(codec=0) if address.codec else address\n",
        "        place = address\n",
        CLIENT + "handles_of_one_topic_share_their_sequences_whatever_they_compress",
    ),
    Mutant(
        "a call passes those that wait for the number of partitions",
        "client/penstock/topic.py",
        "        if self._is_known() and not self._counting:\n",
        "        if self._is_known():\n",
        "tests/unit/client/test_topic.py::"
        "test_a_call_does_not_pass_those_that_wait_for_the_number_of_partitions",
    ),
    Mutant(
        "a call's batch put off until the end of the turn",
        "client/penstock/batching.py",
        "        elif not self._sent_at_once(batch):\n",
        "        else:\n",
        "tests/unit/client/test_bulk.py::test_the_broker_is_at_work_on_one_call_while_the_next_is_made",
    ),
    Mutant(
        "table: an older record of another partition wins",
        TABLE,
        "        if row is not None and row.partition != partition and row.time > time:\n",
        "        if False:\n",
        TABLES + "a_key_that_moved_to_a_new_partition_has_its_later_value",
    ),
    Mutant(
        "table: a dead key comes back from another partition",
        TABLE,
        "            if grave != partition and died_at > time:\n",
        "            if False:\n",
        TABLES + "rows_end_up_the_same_in_whatever_order_partitions_come",
    ),
    Mutant(
        "table: a failed reader is silent",
        TABLE,
        "            self._failure = error\n            self._end()\n",
        "            self._end()\n",
        TABLES + "a_failure_before_it_is_ready_ends_the_waiting",
    ),
    Mutant(
        "table: keys that went while nobody read stay",
        TABLE,
        "                unseen = {key for key, row in self._rows.live.items() if",
        "                unseen = {key for key, row in () if",
        TABLES + "a_partition_whose_next_offset_has_gone_is_read_anew",
    ),
    Mutant(
        "table: a slow watch forgets what it knew",
        TABLE,
        "            self._pending.setdefault(key, old)\n",
        "            self._pending[key] = old\n",
        TABLES + "a_slow_watch_is_told_once_per_key_from_what_it_knew_to_the_last",
    ),
    Mutant(
        "table: new partitions are not read",
        TABLE,
        "                await asyncio.sleep(self._refresh)\n",
        "                await asyncio.sleep(86_400)\n",
        TABLES + "partitions_that_the_topic_gets_are_read_too",
    ),
)
