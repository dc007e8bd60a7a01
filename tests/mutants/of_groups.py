"""Bugs of consumer groups: who reads what, who may commit it, and who is forgotten."""

from tests.mutants.mutant import BROKER, PROTOCOL, Mutant

COORDINATOR, ASSIGNORS = f"{BROKER}/groups/coordinator.py", f"{BROKER}/groups/assignors.py"
MEMBERSHIP, LAG, HANDLERS = (f"{BROKER}/{name}.py" for name in ("membership", "lag", "handlers/groups"))
PATTERNS = f"{PROTOCOL}/patterns.py"

NODE, ALONE, ASSIGNED = (
    f"tests/model/test_{name}.py::test_" for name in ("membership", "coordinator", "assignors")
)
MACHINE = "tests/model/test_coordinator.py::TestGroups::runTest"

MUTANTS = (
    Mutant(
        "news swallowed by a heartbeat that is due",
        MEMBERSHIP,
        "                self._tell(key, key.waiting, seen=key.seen)\n",
        "                self._tell(key, key.waiting, seen=key.told)\n",
        NODE + "news_of_a_hand_over_are_told_to_a_heartbeat[that is due]",
    ),
    Mutant(
        "news swallowed by the answer to an older heartbeat",
        MEMBERSHIP,
        "            self._tell(member, member.waiting, seen=member.seen)\n",
        "            self._tell(member, member.waiting, seen=member.told)\n",
        NODE + "news_of_a_hand_over_are_told_to_a_heartbeat[and the next one]",
    ),
    Mutant(
        "partition given away before it is given up",
        COORDINATOR,
        "for place in member.target - member.held.keys() if place not in self._owners)",
        "for place in member.target - member.held.keys())",
        MACHINE,
    ),
    Mutant(
        "given up without having said so",
        COORDINATOR,
        "        if done == member.told:\n",
        "        if done <= member.told:\n",
        NODE + "only_who_has_a_partition_commits_for_it",
    ),
    Mutant(
        "commit of who has the partition no more",
        COORDINATOR,
        "        if since is None or not since <= generation <= member.told:\n",
        "        if since is not None and not since <= generation <= member.told:\n",
        NODE + "only_who_has_a_partition_commits_for_it",
    ),
    Mutant(
        "commit of an old generation",
        COORDINATOR,
        "        if since is None or not since <= generation <= member.told:\n",
        "        if since is None or generation > member.told:\n",
        ALONE + "commit_of_an_old_generation_is_stale_after_the_partition_came_back",
    ),
    Mutant(
        "commit of a generation that nobody was told",
        COORDINATOR,
        "        if since is None or not since <= generation <= member.told:\n",
        "        if since is None or generation < since:\n",
        ALONE + "commit_of_an_old_generation_is_stale_after_the_partition_came_back",
    ),
    Mutant(
        "generations begin anew with the broker",
        COORDINATOR,
        "        self._last = boot << 32\n",
        "        self._last = 0\n",
        NODE + "member_of_an_earlier_life_of_the_broker_is_stale_and_keeps_what_it_names",
    ),
    Mutant(
        "what others may come back for is given away at once",
        COORDINATOR,
        "            self.closed_until = mono + REJOIN_MS\n",
        "            self.closed_until = mono\n",
        NODE + "member_of_an_earlier_life_of_the_broker_is_stale_and_keeps_what_it_names",
    ),
    Mutant(
        "what was claimed and is free waits for those who may come back",
        COORDINATOR,
        "                self._claimed.add(place)\n",
        "",
        ALONE + "who_comes_back_after_a_restart_and_leaves_at_once_hands_over_at_once",
    ),
    Mutant(
        "who comes first after a restart and claims nothing gets everything",
        COORDINATOR,
        "        if len(self.members) == 1 and (claimed or mono < self._returning_until):\n",
        "        if len(self.members) == 1 and claimed:\n",
        NODE + "who_comes_first_after_a_restart_does_not_get_what_others_have_still",
    ),
    Mutant(
        "members of the life before are waited for all the time",
        COORDINATOR,
        "        if len(self.members) == 1 and (claimed or mono < self._returning_until):\n",
        "        if len(self.members) == 1 and (claimed or self._returning_until):\n",
        NODE + "who_comes_first_long_after_a_restart_gets_everything_at_once",
    ),
    Mutant(
        "everybody's share is thought over for each that comes",
        MEMBERSHIP,
        "        self._groups[request.group] = group\n",
        "        self._groups[request.group] = group\n        group.settle(call.now.mono)\n",
        NODE + "many_that_come_and_go_in_one_turn_are_thought_over_once",
    ),
    Mutant(
        "instance loses its seat when it leaves",
        COORDINATOR,
        "        if member.instance is not None:\n            self._step(member, Event.LOST)\n",
        "        if member.instance == '':\n            self._step(member, Event.LOST)\n",
        NODE + "instance_keeps_its_seat_and_nothing_moves",
    ),
    Mutant(
        "older process of an instance is not fenced",
        COORDINATOR,
        "        self._fenced[member.id] = None\n",
        "        self._fenced[b''] = None\n",
        NODE + "instance_keeps_its_seat_and_nothing_moves",
    ),
    Mutant(
        "who never gives up stays",
        COORDINATOR,
        "        if member.deadline > mono and (member.yield_by is None or member.yield_by > mono):\n",
        "        if member.deadline > mono:\n",
        ALONE + "who_does_not_give_up_in_time_is_no_member_any_more",
    ),
    Mutant(
        "everybody stops for a hand-over",
        COORDINATOR,
        "            if yielding != member.yielding:\n",
        "            if yielding != member.yielding or self._tell(member):\n",
        ALONE + "others_go_on_while_one_gives_up",
    ),
    Mutant(
        "who is gone keeps what it had",
        COORDINATOR,
        "        self._free(member.held)\n        self._settled = False\n",
        "        self._settled = False\n",
        ALONE + "who_leaves_is_shared_out_and_nothing_else_moves[2]",
    ),
    Mutant(
        "sticky does not stick",
        ASSIGNORS,
        "{each for each in current.get(member, ()) if each in wanted and each.topic in topics}\n",
        "{each for each in () if each in wanted and each.topic in topics}\n",
        ALONE + "who_joins_takes_its_share_and_nothing_else_moves[200-7]",
    ),
    Mutant(
        "sticky is content with a difference of two",
        ASSIGNORS,
        "                if len(found[taker]) <= len(found[rich]) - 2:\n",
        "                if len(found[taker]) <= len(found[rich]) - 3:\n",
        ASSIGNED + "sticky_is_as_even_as_can_be",
    ),
    Mutant(
        "session that ends takes no member with it",
        MEMBERSHIP,
        "                group.lost(session)\n",
        "",
        NODE + "what_a_member_had_moves_at_once_when_its_session_ends",
    ),
    Mutant(
        "new topics are not seen",
        MEMBERSHIP,
        "                group.resized(sizes)\n",
        "",
        NODE + "patterns_follow_topics_that_come_and_go",
    ),
    Mutant(
        "anybody commits for a group with members",
        HANDLERS,
        "    elif coordinator is not None:\n        raise Stale(\n",
        "    elif coordinator is not None and not coordinator.members:\n        raise Stale(\n",
        NODE + "only_who_has_a_partition_commits_for_it",
    ),
    Mutant(
        "offsets of a group in use are forgotten",
        MEMBERSHIP,
        "            if group.name not in self._groups and _newest(group) < too_old\n",
        "            if _newest(group) < too_old\n",
        NODE + "offsets_of_an_empty_group_are_kept_for_30_days_from_when_it_emptied[False]",
    ),
    Mutant(
        "offsets forgotten before anybody could come back",
        MEMBERSHIP,
        "        if now.mono < self._forgets_from:\n            return\n",
        "",
        NODE + "members_of_a_group_that_just_came_back_are_waited_for_before_anything_is_forgotten",
    ),
    Mutant(
        "a group that empties late is forgotten soon",
        MEMBERSHIP,
        "        self._core.engine.append([group.commit_part(rows)], wall=now.wall)\n",
        "",
        NODE + "offsets_of_an_empty_group_are_kept_for_30_days_from_when_it_emptied[True]",
    ),
    Mutant(
        "rates over different times",
        LAG,
        "    came = log.end - log.offset_at(since)[0]\n",
        "    came = log.end - log.start\n",
        NODE + "rates_say_whether_a_group_catches_up",
    ),
    Mutant(
        "# is at least one word",
        PATTERNS,
        "            reached = set(range(min(reached), len(words) + 1)) if reached else reached\n",
        "            reached = set(range(min(reached) + 1, len(words) + 1)) if reached else reached\n",
        NODE + "pattern_selects_names[a.#-names3-others3]",
    ),
)
