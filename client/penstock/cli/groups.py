"""`penstock group …`: where consumer groups stand, and moving them somewhere else."""

import re
from argparse import ArgumentTypeError
from dataclasses import asdict

from penstock.cli.arguments import Place, count, place, utf8
from penstock.cli.command import YES, Call, Command, argument, confirm, deleted, note
from penstock.cli.queues import PREFIX
from penstock.values import GroupDescription

HEAD = (
    *("GROUP", "TOPIC", "PARTITION", "CURRENT", "END", "LAG", "LAG-SECONDS"),
    *("RATE-IN", "RATE-OUT", "CATCH-UP", "MEMBER"),
)
MEMBERS = ("MEMBER", "CLIENT", "STATE", "PARTITIONS", "TOPICS")
PLACES = "earliest, latest, an offset like 42, or -1h"
CHANGES = ("TOPIC", "PARTITION", "CURRENT", "TO")


def target(text: str) -> Place:
    """The argparse type of `--to`: a place, or a shift."""
    if re.fullmatch(r"[+-]\d{1,18}", text):
        return text
    try:
        return place(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(f"{text!r} is no place: write {PLACES}, or a shift like -100") from None


async def _list(call: Call) -> None:
    names = await call.client.list_groups(call.options.prefix)
    if call.out.json:
        await call.out.objects({"name": name} for name in names)
    else:
        await call.out.rows(("GROUP",), [(name,) for name in names])


async def _describe(call: Call) -> None:
    group = await call.client.group(call.options.group).describe()
    if call.options.members:
        await _members(call, group)
        return
    partitions = [asdict(each) for each in group.partitions]
    if call.out.json:
        await call.out.objects({"group": group.name, **each} for each in partitions)
    else:
        await call.out.rows(HEAD, [(group.name, *each.values()) for each in partitions])


async def _members(call: Call, group: GroupDescription) -> None:
    if call.out.json:
        await call.out.objects({"group": group.name, **each._asdict()} for each in group.members)
        return
    rows = [(m.member, m.client, m.state, len(m.partitions), ", ".join(m.topics)) for m in group.members]
    await call.out.rows(MEMBERS, rows)


async def _reset(call: Call) -> None:
    options = call.options
    group = call.client.group(options.group)
    plan = await group.reset(options.topic, options.to, partition=options.partition, dry_run=True)
    if call.out.json:
        await call.out.objects({"group": group.name, **each._asdict()} for each in plan)
    else:
        await call.out.rows(CHANGES, plan)
    changes = [each for each in plan if each.current != each.to]
    if options.dry_run or not changes:
        note(f"{len(changes)} partitions would change" if changes else "nothing is to be changed")
        return
    await confirm(f"move group {group.name} in {len(changes)} partitions of {options.topic}", options)
    await group.commit(options.topic, {each.partition: each.to for each in changes})
    note(f"group {group.name} goes on there")


async def _delete(call: Call) -> None:
    group = call.client.group(call.options.group)
    described = await group.describe()
    await confirm(f"delete group {group.name} with {len(described.partitions)} offsets", call.options)
    await group.delete()
    await deleted(call, "group", group.name)


GROUP = argument("group", metavar="GROUP", type=utf8)

COMMANDS = (
    Command("group list", "", "List consumer groups.", _list, (PREFIX,)),
    Command(
        "group describe",
        "GROUP",
        "Show where a group stands in each partition, how far behind, and who reads it.",
        _describe,
        (GROUP, argument("--members", action="store_true", help="show its members instead")),
    ),
    Command(
        "group reset",
        "GROUP TOPIC --to PLACE",
        "Let a group go on somewhere else in a topic. Its members have to be stopped.",
        _reset,
        (
            GROUP,
            argument("topic", metavar="TOPIC", type=utf8),
            argument(
                "--to",
                metavar="PLACE",
                type=target,
                required=True,
                help=f"{PLACES}, or a shift like -100 or +100 from where it stands",
            ),
            argument("--partition", metavar="P", type=count, help="this partition alone"),
            argument("--dry-run", action="store_true", help="only show what would change"),
            YES,
        ),
        "What lies outside the partition ends up at its start or end.\n",
    ),
    Command(
        "group delete", "GROUP", "Delete a group without members, with its offsets.", _delete, (GROUP, YES)
    ),
)
