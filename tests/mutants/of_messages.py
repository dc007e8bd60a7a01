"""Bugs of queues, topics, groups and the wire: who is told what, and whose a message is."""

from tests.mutants.mutant import BROKER, PROTOCOL, Mutant

CORE, CLOCK, PUBLISHING = (f"{BROKER}/{name}.py" for name in ("core", "clock", "publishing"))
DELIVERIES, BURIAL, PRESENCE = (f"{BROKER}/{name}.py" for name in ("deliveries", "burial", "presence"))
PRODUCERS, REGISTRY = f"{BROKER}/producers.py", f"{BROKER}/registry.py"
QUEUES, TOPICS, GROUPS = (f"{BROKER}/handlers/{name}.py" for name in ("queues", "topics", "groups"))
ADMIN, CONNECTION = f"{BROKER}/handlers/admin.py", f"{BROKER}/server/connection.py"
QUEUE, LEASES, STATES = (f"{BROKER}/queues/{name}.py" for name in ("queue", "leases", "states"))
HANDOUT, JUDGING, LOOKING = (f"{BROKER}/queues/{name}.py" for name in ("handout", "judging", "looking"))

SAID = "tests/model/test_answers.py::test_what_depends_on_a_change_is_said_when_the_change_is_durable"
ANSWER = "tests/model/test_answers.py::test_"
BEHIND = "tests/model/test_contract.py::test_what_was_answered_is_so_in_the_life_behind"
FOUND = "tests/model/test_simulator_findings.py::test_"
REVIEW = "tests/model/test_review_findings.py::test_"
MODES = "tests/unit/storage/test_modes.py::test_"
LEASE = "tests/unit/queues/test_leases.py::test_"
SETTLEMENT = "tests/model/test_settlement.py::TestSettlement::runTest"
FRAME = "tests/unit/protocol/test_frame.py::test_"
BATCH = "tests/unit/protocol/test_batch.py::test_"
SLICES = "tests/unit/protocol/test_slices.py::test_"
PEER = "tests/unit/server/test_connection.py::test_"

MUTANTS = (
    # ---- What is said
    Mutant(
        "duplicate answered before its original is durable",
        PUBLISHING,
        "                core.answer(call, again, target.changed_at, within)\n",
        "                core.answer(call, again, 0, within)\n",
        SAID + "[a duplicate]",
    ),
    Mutant(
        "message served above W",
        DELIVERIES,
        "        self._engine.wait(position, Answer(call, None, reading), queue.within)\n",
        "        self._engine.wait(0, Answer(call, None, reading), queue.within)\n",
        SAID + "[a message]",
    ),
    Mutant(
        "record served above W",
        DELIVERIES,
        "        self._engine.wait(partition.changed_at, Answer(call, None, reading), partition.within)\n",
        "        self._engine.wait(0, Answer(call, None, reading), partition.within)\n",
        SAID + "[a record]",
    ),
    Mutant(
        "Conflict answered early",
        CORE,
        "        if of_the_moment or retried or call.connection.session is None:\n",
        "        if error:\n",
        SAID + "[that a queue is another]",
    ),
    Mutant(
        "end of a partition told early",
        TOPICS,
        "        core.answer(call, t.OffsetReply(log.end))\n",
        "        core.answer(call, t.OffsetReply(log.end), 0)\n",
        SAID + "[the end of a partition]",
    ),
    Mutant(
        "committed offset told early",
        GROUPS,
        "    core.answer(call, Document(pack_document(rows)))\n",
        "    core.answer(call, Document(pack_document(rows)), 0)\n",
        SAID + "[a committed offset]",
    ),
    Mutant(
        "settle answered before it is durable",
        QUEUES,
        "    core.answer(call, q.Settled(messages, encode_ranges(stale)))\n",
        "    core.answer(call, q.Settled(messages, encode_ranges(stale)), 0)\n",
        SAID + "[that something was settled]",
    ),
    Mutant(
        "delivery overtakes one that tells of a failure",
        DELIVERIES,
        "        position = call.connection.behind(self._position(queue, grants), queue.within)\n",
        "        position = self._position(queue, grants)\n",
        REVIEW + "delivery_that_waits_for_a_failure_to_be_durable_is_not_overtaken",
    ),
    Mutant(
        "nack answered before its dead letter is durable",
        QUEUES,
        "        core.deliveries.failed(queue, runs, request.delay, call.now, tries, done)\n",
        "        core.deliveries.failed(queue, runs, request.delay, call.now, tries)\n        done()\n",
        FOUND + "nack_that_makes_a_dead_letter_is_answered_when_the_dead_letter_is_durable",
    ),
    # ---- What a start knows
    Mutant(
        "settle forgotten by a start",
        REGISTRY,
        "        if machine is None or reflected or part.target in self.corrupt:\n",
        "        if machine is None or reflected or part.kind == Kind.SETTLE:\n",
        BEHIND + "[ack-kill]",
    ),
    Mutant(
        "failure forgotten by a checkpoint",
        QUEUE,
        "            if history.failures\n",
        "            if history.failures > 9\n",
        BEHIND + "[nack-damaged_checkpoint]",
    ),
    Mutant(
        "hand-outs before an unclean stop not told of",
        QUEUE,
        "            if not part.flags:\n                self.distrust()\n",
        "",
        BEHIND + "[lease-kill]",
    ),
    Mutant(
        "outcomes forgotten by a checkpoint",
        PRODUCERS,
        "            self._known[producer_id] = expected, outcomes\n            at = end\n",
        "            self._known[producer_id] = expected, deque((), maxlen=SEQUENCES_IN_FLIGHT_MAX)\n"
        "            at = end\n",
        BEHIND + "[publish_in_sequence-damaged_checkpoint]",
    ),
    Mutant(
        "sequence counted when it is checked",
        PRODUCERS,
        "        if sequence == expected:\n            return None\n",
        "        if sequence == expected:\n            self._known[producer_id] = expected + 1, outcomes\n"
        "            return None\n",
        ANSWER + "batch_that_was_refused_is_no_duplicate_when_it_comes_again",
    ),
    Mutant(
        "gap in a sequence taken",
        PRODUCERS,
        "        if sequence > expected:\n",
        "        if sequence > expected + 32:\n",
        ANSWER + "batch_behind_a_missing_one_is_a_gap",
    ),
    Mutant(
        "offset forgotten by a start",
        f"{BROKER}/groups/offsets.py",
        "                self.offsets[log] = Committed(offset, text, at.time)\n",
        "                self.offsets.setdefault(log, Committed(offset, text, at.time))\n",
        BEHIND + "[commit-kill]",
    ),
    Mutant(
        "offset committed beyond the end",
        GROUPS,
        "        if offset > partition.log.end:\n",
        "        if offset < 0:\n",
        ANSWER + "offset_beyond_the_end_is_not_committed",
    ),
    Mutant(
        "uuid made of the name",
        ADMIN,
        'Item("queue", name, core.new_uuid(), policy.as_map(), ())',
        'Item("queue", name, name.encode().ljust(16)[:16], policy.as_map(), ())',
        ANSWER + "queue_of_a_name_that_was_deleted_has_nothing_of_it",
    ),
    # ---- Leases and lives of messages
    Mutant(
        "late ack accepted",
        LEASES,
        "        parts = self._by_token.get(token)\n        if parts is None:\n            return []\n",
        "        parts = self._by_token.get(token, next(iter(self._by_token.values()), None))\n"
        "        if parts is None:\n            return []\n",
        "tests/unit/queues/test_leases.py::TestAgainstMessages::runTest",
    ),
    Mutant(
        "monotonic clock is the wall clock",
        CLOCK,
        "Now(time.monotonic_ns() // 1_000_000,",
        "Now(time.time_ns() // 1_000_000,",
        ANSWER + "mono_is_no_wall_clock",
    ),
    Mutant(
        "lease ends by the wall clock",
        CORE,
        "        self._now = now if now.wall >= paced else Now(now.mono, paced)\n",
        "        self._now = Now(now.mono + max(0, now.wall - paced), max(now.wall, paced))\n",
        ANSWER + "lease_ends_by_the_clock_that_never_jumps",
    ),
    Mutant(
        "pause between two looks at clocks ends delays",
        CLOCK,
        "        wall = time.time_ns() // 1_000_000"
        "  # first: the core would take a pause in between for a jump ahead\n"
        "        return Now(time.monotonic_ns() // 1_000_000, wall)\n",
        "        return Now(time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000)\n",
        "tests/unit/server/test_clock.py::test_pause_between_the_two_clocks_does_not_make_the_wall_clock_run_ahead",
    ),
    Mutant(
        "short poll told of nothing before the hand-out",
        DELIVERIES,
        "                self._expire(target, now)\n        else:\n",
        "                self._expire(target, now)\n"
        "            for waiter in target.overdue(now.mono):\n"
        "                self.answer_nothing(waiter)\n"
        "        else:\n",
        FOUND + "short_poll_at_the_moment_when_a_lease_ends_gets_what_is_ready",
    ),
    Mutant(
        "wall clock runs backwards",
        CORE,
        "        self._now = now if now.wall >= paced else Now(now.mono, paced)\n",
        "        self._now = now\n",
        ANSWER + "append_times_never_go_back",
    ),
    Mutant(
        "delayed message of a life before forgotten while nobody asks",
        CORE,
        "            self.deliveries.arm(queue, self._now)\n",
        "            self.deliveries.arm(queue, now)\n",
        BEHIND + "[nack-clock_back]",
    ),
    Mutant(
        "one attempt too many",
        JUDGING,
        "failures >= policy.max_attempts:",
        "failures > policy.max_attempts:",
        SETTLEMENT,
    ),
    Mutant(
        "release counts as no delivery",
        JUDGING,
        "        if limit is not None and history.deliveries >= limit:\n",
        "        if limit is not None and history.failures >= limit:\n",
        SETTLEMENT,
    ),
    Mutant(
        "purge takes what is in flight",
        LOOKING,
        "        for state in (State.READY, State.SPECIAL, State.DELAYED, State.WAITING, State.HELD)\n",
        "        for state in State\n        if state != State.SETTLED\n",
        SETTLEMENT,
    ),
    Mutant(
        "message before the one that is settled passed over",
        STATES,
        "            self._hint = min(self._hint, first)\n",
        "            self._hint = max(self._hint, first)\n",
        "tests/unit/queues/test_states.py::TestAgainstList::runTest",
    ),
    Mutant(
        "deleted queue answers who waits there twice",
        HANDOUT,
        "        if isinstance(taker, Waiter):\n            self._ends.set(taker, None)\n"
        "        if taker is self._active:\n            self._active = None\n\n"
        "    def overdue(self, mono: int) -> list[Waiter]:\n"
        '        """Parked RECEIVEs whose wait is over; they wait no more."""\n'
        "        end = self._ends.next()\n"
        "        if end is None or end > mono:\n            return []\n"
        "        due = [waiter for waiter in self._ends.due(mono) if not waiter.ended]\n",
        "        if taker is self._active:\n            self._active = None\n\n"
        "    def overdue(self, mono: int) -> list[Waiter]:\n"
        "        due = list(self._ends.due(mono))\n",
        FOUND + "receive_whose_queue_is_deleted_before_its_wait_is_looked_at_is_answered_once",
    ),
    # ---- Dead letters
    Mutant(
        "dead letter in two entries",
        BURIAL,
        "            self._engine.append(parts, bodies, wall=now.wall, within=within)\n",
        "            self._engine.append(parts[:-1], bodies, wall=now.wall, within=within)\n"
        "            self._engine.append(parts[-1:], wall=now.wall, within=within)\n",
        ANSWER + "dead_letter_is_in_one_queue_wherever_the_power_goes",
    ),
    Mutant(
        "dead letter put where there is no room",
        BURIAL,
        "                target.check_room(messages, sum(len(body.data) for body in bodies))\n",
        "",
        FOUND + "dead_letters_that_wait_leave_one_by_one_as_room_comes",
    ),
    Mutant(
        "dead letter by the weaker mode",
        BURIAL,
        "            within = min(queue.within, target.within)\n",
        "            within = max(queue.within, target.within)\n",
        MODES + "dead_letter_goes_by_the_stricter_mode_of_its_two_queues",
    ),
    # ---- Modes
    Mutant(
        "weak queue's confirm says fsync",
        PUBLISHING,
        "        mode = durability.name(within)\n",
        "        mode = durability.name(0)\n",
        MODES + "confirm_says_which_mode_was_met",
    ),
    Mutant(
        "publish waits for no sync though its queue is strict",
        PUBLISHING,
        "        engine.wait(position, Answer(call, confirm, None, batch.length), within)\n",
        "        engine.wait(0, Answer(call, confirm, None, batch.length), within)\n",
        "tests/model/test_slow_disk.py::test_nothing_is_confirmed_and_nothing_refused_while_the_disk_stands_still",
    ),
    # ---- The wire
    Mutant(
        "frame size checked after it is there",
        f"{PROTOCOL}/frame.py",
        "        if not HEADER_BYTES <= length <= self.frame_bytes_max:\n",
        "        if not HEADER_BYTES <= length:\n",
        FRAME + "bad_header_is_refused_as_soon_as_it_is_whole",
    ),
    Mutant(
        "batch taken without its checksum",
        f"{PROTOCOL}/batch.py",
        "        if verify and crc32(view[CRC_FROM:length]) != crc:\n",
        "        if verify and crc < 0:\n",
        BATCH + "every_flipped_bit_is_refused",
    ),
    Mutant(
        "slice taken for another batch's",
        f"{PROTOCOL}/slices.py",
        "        if crc != crc32(batch[BATCH_CRC_AT : BATCH_CRC_AT + CRC.size], crc32(head)):\n",
        "        if crc < 0:\n",
        SLICES + "slice_does_not_fit_another_batch_of_the_same_length",
    ),
    Mutant(
        "buffer of a peer that does not read not bounded",
        CONNECTION,
        "            self._turns.call(self._turns.core.blocked, self._connection, True)\n",
        "            pass\n",
        PEER + "peer_above_the_mark_is_not_read_from_and_the_core_knows",
    ),
    Mutant(
        "stuck peer never dropped",
        CONNECTION,
        '            yield self._stuck, STUCK_MS, "stuck"\n            return\n',
        "            return\n",
        PEER + "stuck_peer_is_dropped_after_30_seconds",
    ),
    Mutant(
        "earlier connection's publishes not fenced",
        PRESENCE,
        "        if owner is not None and owner is not connection.session:\n",
        "        if owner is None and producer_id < 0:\n",
        ANSWER + "producer_id_belongs_to_the_newest_session",
    ),
    Mutant(
        "publish beyond the credit taken",
        PUBLISHING,
        "        if connection.published and connection.published + size > settings.credit_bytes:\n",
        "        if connection.published and size > settings.credit_bytes:\n",
        ANSWER + "publish_beyond_the_credit_of_its_connection_is_busy",
    ),
    Mutant(
        "publish beyond the node's pool taken",
        PUBLISHING,
        "        if self.unconfirmed and self.unconfirmed + size > settings.publish_pool_bytes:\n",
        "        if self.unconfirmed and size > settings.publish_pool_bytes:\n",
        ANSWER + "publish_beyond_the_pool_of_the_node_is_busy",
    ),
)
