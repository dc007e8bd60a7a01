"""Bugs of what makes a message more than plain: its time, its turn, its group, its ids, its past."""

from tests.mutants.mutant import BROKER, Mutant

DELIVERIES, BURIAL, PAST = (f"{BROKER}/{name}.py" for name in ("deliveries", "burial", "past"))
SEARCHING, LIFETIMES, TIMETABLE = (f"{BROKER}/{name}.py" for name in ("searching", "lifetimes", "timetable"))
MESSAGES, TRANSFERS = f"{BROKER}/handlers/messages.py", f"{BROKER}/handlers/transfers.py"
INDEXES, GROUPS, ADMISSION = (
    f"{BROKER}/queues/{name}.py" for name in ("indexes", "message_groups", "admission")
)
ORDER, HANDOUT, TRAITS = (f"{BROKER}/queues/{name}.py" for name in ("order", "handout", "traits"))

MODEL = "tests/model/test_"
DELAYS, EXPIRY, PRIORITY = (f"{MODEL}{name}.py::test_" for name in ("delays", "expiry", "priority"))
GROUP, FAIR, JOB = (f"{MODEL}{name}.py::test_" for name in ("message_groups", "fair_share", "job_keys"))
DEDUP, DEAD, NOTED = (f"{MODEL}{name}.py::test_" for name in ("dedup", "dead_letter_history", "checkpoints"))
ONCE, MOVED, FULL = (f"{MODEL}{name}.py::test_" for name in ("at_most_once", "transfers", "overflow"))
RUNS, LIVES = (f"{MODEL}{name}.py::test_" for name in ("schedules", "lifetimes"))
SAVED = "[power cut behind a checkpoint]"
HERE = "[no restart]"

MUTANTS = (
    # ---- Time
    Mutant(
        "run of a schedule is a duplicate of the one before",
        ADMISSION,
        "    ids = [run] if ids is not None and run is not None else ids\n",
        "",
        RUNS + "every_run_is_a_message_of_its_own_where_duplicates_are_dropped[content]",
    ),
    Mutant(
        "delay lost in the snapshot",
        INDEXES,
        '        self.delays.restore(sections.get("delays", b""))\n',
        "",
        DELAYS + "delayed_message_is_not_delivered_a_millisecond_early" + SAVED,
    ),
    Mutant(
        "delayed message delivered early",
        TRAITS,
        "        due.append(when if when > now else 0)\n",
        "        due.append(when - 1 if when > now else 0)\n",
        DELAYS + "delayed_message_is_not_delivered_a_millisecond_early" + HERE,
    ),
    Mutant(
        "rescheduled message comes at its old time",
        INDEXES,
        "        if self._until.get(offset, due) != due:\n            return\n",
        "",
        DELAYS + "rescheduled_message_comes_at_its_new_time_and_once",
    ),
    Mutant(
        "messages that are overdue together go by their offset",
        INDEXES,
        "                    self.states.move(begin, length, Event.DUE, woke)\n",
        "                    self.states.move(begin, length, Event.DUE)\n",
        DELAYS + "messages_that_are_overdue_together_go_by_the_millisecond_they_were_due" + HERE,
    ),
    Mutant(
        "order of what is overdue forgotten by a checkpoint",
        INDEXES,
        "                    self.states.move(first, messages, Event.RECALL, row[:2])\n",
        "                    self.states.move(first, messages, Event.RECALL)\n",
        DELAYS + "messages_that_are_overdue_together_go_by_the_millisecond_they_were_due" + SAVED,
    ),
    Mutant(
        "doubt about a delayed message forgotten by a clean stop",
        INDEXES,
        '        self.suspect_below = sections.get("suspect", 0)\n',
        "",
        DELAYS + "doubt_about_a_delayed_message_outlives_a_clean_stop[clean stop]",
    ),
    Mutant(
        "expired message delivered",
        DELIVERIES,
        "        runs = queue.indexes.expired(now.wall)\n",
        "        runs = queue.indexes.expired(now.wall)[:0]\n",
        EXPIRY + "message_is_there_until_its_time_is_over_and_not_a_millisecond_longer" + HERE,
    ),
    Mutant(
        "message that expired in flight comes again after a checkpoint",
        INDEXES,
        '        for offset in sections.get("overdue", ()):\n            self.expiries.add(0, offset, 1)\n',
        "",
        EXPIRY + "message_that_expires_in_flight_is_gone_after_a_restart" + SAVED,
    ),
    # ---- Turns
    Mutant(
        "lowest priority goes first",
        TRAITS,
        "[PLAIN_RANK - priority for priority in priorities],\n        groups,\n        _labels",
        "[priority for priority in priorities],\n        groups,\n        _labels",
        PRIORITY + "highest_priority_goes_first_and_equals_go_in_order" + HERE,
    ),
    Mutant(
        "priority forgotten by a checkpoint",
        INDEXES,
        '        order.ranks = dict(sections.get("ranks", ()))\n',
        "",
        PRIORITY + "highest_priority_goes_first_and_equals_go_in_order" + SAVED,
    ),
    Mutant(
        "waiting raises nothing",
        ORDER,
        "            time = self.time_of(offset) if place is None else place & DUE\n",
        "            time = 0 if place is None else place & DUE\n",
        PRIORITY + "message_that_waits_rises_by_one_priority_per_step",
    ),
    Mutant(
        "two consumers are active",
        HANDOUT,
        "            return [active] if active is not None and active.ready else []\n",
        "            return [taker for taker in self._waiting if taker.ready][:ready]\n",
        PRIORITY + "one_consumer_gets_everything_and_the_next_one_only_when_it_is_gone",
    ),
    Mutant(
        "group lets two out",
        GROUPS,
        "        most = 1 if group.is_job else self.rules.concurrency\n",
        "        most = 1 if group.is_job else 2\n",
        GROUP + "one_message_of_a_group_is_out_at_a_time_and_groups_do_not_wait_for_each_other" + HERE,
    ),
    Mutant(
        "failing head steps aside",
        GROUPS,
        "        return (self.rules.fair or self.rules.skip) and not group.is_job\n",
        "        return not group.is_job\n",
        GROUP + "failing_head_holds_up_its_own_group_alone_and_is_tried_first" + HERE,
    ),
    Mutant(
        "next of a group goes before the ack of the one before is durable",
        DELIVERIES,
        "        position = max(queue.log.position(newest - 1), queue.indexes.decided_at)\n",
        "        position = queue.log.position(newest - 1)\n",
        GROUP + "next_of_a_group_does_not_leave_before_the_ack_of_the_one_before_is_durable",
    ),
    Mutant(
        "parked group goes on after a restart",
        GROUPS,
        "        self.parked = set(parked)\n",
        "        self.parked = set()\n",
        GROUP + "group_is_parked_when_its_head_dies_until_somebody_resumes_it" + SAVED,
    ),
    Mutant(
        "group not parked",
        BURIAL,
        '        parks = queue.policy.group_failure == "park" and dead.reason in PARKING\n',
        "        parks = False\n",
        GROUP + "group_is_parked_even_if_its_dead_letter_had_to_wait_for_room",
    ),
    Mutant(
        "tenant that was idle catches up",
        GROUPS,
        "            group.turn = max(group.turn, self._turn)\n",
        "            group.turn = group.turn if self.rules.fair else 0.0\n",
        FAIR + "tenant_that_was_idle_has_saved_up_nothing",
    ),
    Mutant(
        "weights count for nothing",
        GROUPS,
        "1 / self.rules.weights.get(group.name, 1.0)",
        "1",
        FAIR + "weights_share_out_the_turns" + HERE,
    ),
    # ---- Ids
    Mutant(
        "dedup not restored from a checkpoint",
        INDEXES,
        '        if "dedup" in sections:\n            self.dedup.restore(sections["dedup"])\n',
        "",
        DEDUP + "second_message_with_an_id_is_a_duplicate_of_the_first" + SAVED,
    ),
    Mutant(
        "duplicate prolongs the window",
        ADMISSION,
        "        texts(found.dedup_ids),\n",
        "        found.dedup_ids,\n",
        DEDUP + "duplicate_does_not_prolong_the_window" + HERE,
    ),
    Mutant(
        "duplicate delivered",
        ADMISSION,
        "        settles.append(queue.settle_part(ended, Settled.DUPLICATE))\n",
        "        pass\n",
        DEDUP + "second_message_with_an_id_is_a_duplicate_of_the_first" + HERE,
    ),
    Mutant(
        "exceptions forgotten when a batch comes again",
        f"{BROKER}/producers.py",
        "exceptions = bytes(data[end + 4 : end + 4 + size])",
        'exceptions = b""',
        DEDUP + "batch_sent_again_is_answered_as_the_first_time" + SAVED,
    ),
    Mutant(
        "job key free too early",
        ADMISSION,
        "for each in (waiting if queued else older)",
        "for each in waiting",
        JOB + "key_is_taken_until_its_message_is_done[in flight-no restart]",
    ),
    Mutant(
        "replaced job stays",
        ADMISSION,
        "            replaced += [each for each in waiting if each not in replaced]\n",
        "            pass\n",
        JOB + "replaced_job_is_gone_and_the_new_one_comes" + HERE,
    ),
    Mutant(
        "job does not wait for the one before",
        GROUPS,
        "        most = 1 if group.is_job else self.rules.concurrency\n",
        "        most = None if group.is_job else self.rules.concurrency\n",
        JOB + "jobs_run_one_after_the_other_if_they_say_so" + HERE,
    ),
    # ---- What became of it
    Mutant(
        "history not carried into the dead letter",
        PAST,
        "        attempts = [*notes.attempts.get(offset, ()), *(",
        "        attempts = [*(",
        DEAD + "dead_letter_keeps_its_place_its_times_and_every_try" + HERE,
    ),
    Mutant(
        "last try not carried into the dead letter",
        PAST,
        ", *([latest[offset]] if offset in latest else ())]",
        "]",
        DEAD + "dead_letter_keeps_its_place_its_times_and_every_try" + HERE,
    ),
    Mutant(
        "count forgotten by a move",
        TRANSFERS,
        "            parts += carried.parts(source, target, places, due, afresh)\n",
        "",
        f"{MODEL}moves.py::test_" + "moved_message_keeps_its_count_its_tries_and_its_checkpoint" + HERE,
    ),
    Mutant(
        "tries forgotten by a checkpoint",
        INDEXES,
        '        if "notes" in sections:\n            self.notes.restore(sections["notes"])\n',
        '        if "notes" in sections:\n',
        DEAD + "dead_letter_keeps_its_place_its_times_and_every_try" + SAVED,
    ),
    Mutant(
        "earlier life of a dead letter forgotten",
        PAST,
        "msgpack.unpackb(before) if before else {",
        "{",
        DEAD + "redriven_message_tells_of_all_its_lives" + HERE,
    ),
    Mutant(
        "next try is not given the checkpoint",
        PAST,
        "    if checkpoint is not None:\n",
        "    if checkpoint is not None and attempts is not None and not attempts:\n",
        NOTED + "next_try_is_handed_the_last_checkpoint[nack-no restart]",
    ),
    Mutant(
        "checkpoint kept for a lease that is gone",
        MESSAGES,
        "    if item.partition == queue.partition and queue.leases.find(item.token, item.first, 1):\n",
        "    if item.partition == queue.partition:\n",
        NOTED + "checkpoint_of_a_lease_that_is_gone_is_stale_and_changes_nothing",
    ),
    Mutant(
        "message sent before it is durably settled",
        DELIVERIES,
        "            self._engine.wait(wait_for, Answer(call, message), queue.within)\n",
        "            self._engine.wait(0, Answer(call, message), queue.within)\n",
        ONCE + "message_does_not_leave_before_it_is_durably_settled",
    ),
    # ---- From one queue to another
    Mutant(
        "moved message in both queues",
        TRANSFERS,
        "        parts.append(source.settle_part(sorted(gone), Settled.MOVED))\n",
        "        assert gone\n",
        MOVED + "ready_messages_move_in_order_with_priority_group_and_headers" + HERE,
    ),
    Mutant(
        "plan carried out",
        TRANSFERS,
        "    if moved and not request.dry:\n",
        "    if moved:\n",
        MOVED + "plan_moves_nothing",
    ),
    Mutant(
        "replayed flag lost",
        INDEXES,
        "        self.recall(self.replayed)\n",
        "",
        MOVED + "settled_messages_come_again_with_their_ids_and_say_so" + SAVED,
    ),
    Mutant(
        "delay of a moved message lost",
        TRANSFERS,
        "    due = {} if copies else source.indexes.dues(offsets)\n",
        "    due: dict[int, int] = {}\n",
        MOVED + "delayed_messages_keep_their_time" + HERE,
    ),
    Mutant(
        "duplicate replayed",
        SEARCHING,
        "                if match.offset in queue.kept.unseen:\n                    continue\n",
        "",
        MOVED + "messages_that_were_never_taken_are_neither_replayed_nor_found" + HERE,
    ),
    # ---- Queues
    Mutant(
        "limit broken when all is in flight",
        ADMISSION,
        "    if missing > 0 or missing_bytes > 0:\n        queue.check_room(messages, size)\n",
        "",
        FULL + "message_in_flight_stays_and_the_limit_holds",
    ),
    Mutant(
        "exclusive queue shared",
        LIFETIMES,
        "        if self._owners.setdefault(queue, session.name) != session.name:\n",
        "        if not self._owners.setdefault(queue, session.name):\n",
        LIVES + "another_session_cannot_take_from_an_exclusive_queue",
    ),
    Mutant(
        "schedule runs again after a kill",
        TIMETABLE,
        "                schedule.fired_part(next_at, queue.log.end, missed),\n            ]\n",
        "            ]\n            schedule.next_at = next_at\n",
        RUNS + "run_is_made_once_though_the_broker_is_killed_behind_it",
    ),
)
