"""`penstock group …`: where consumer groups stand."""

from dataclasses import asdict

from penstock.cli.arguments import utf8
from penstock.cli.command import Call, Command, argument
from penstock.cli.queues import PREFIX

HEAD = ("GROUP", "TOPIC", "PARTITION", "CURRENT", "END", "LAG", "LAG-SECONDS", "MEMBER")


async def _list(call: Call) -> None:
    names = await call.client.list_groups(call.options.prefix)
    if call.out.json:
        await call.out.objects({"name": name} for name in names)
    else:
        await call.out.rows(("GROUP",), [(name,) for name in names])


async def _describe(call: Call) -> None:
    group = await call.client.group(call.options.group).describe()
    partitions = [asdict(each) for each in group.partitions]
    if call.out.json:
        await call.out.objects({"group": group.name, **each} for each in partitions)
    else:
        await call.out.rows(HEAD, [(group.name, *each.values()) for each in partitions])


COMMANDS = (
    Command("group list", "", "List consumer groups.", _list, (PREFIX,)),
    Command(
        "group describe",
        "GROUP",
        "Show where a group stands in each partition, and how far behind.",
        _describe,
        (argument("group", metavar="GROUP", type=utf8),),
    ),
)
