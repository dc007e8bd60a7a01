"""`penstock producer …`: the names under which records are produced."""

from dataclasses import asdict

from penstock.cli.arguments import utf8
from penstock.cli.command import YES, Call, Command, argument, confirm, deleted
from penstock.cli.output import instant_text
from penstock.cli.queues import PREFIX

HEAD = ("PRODUCER", "OPENED", "TIMES", "CLIENT")


async def _list(call: Call) -> None:
    producers = await call.client.list_producers(call.options.prefix)
    if call.out.json:
        await call.out.objects(map(asdict, producers))
    else:
        rows = [(each.name, instant_text(each.opened_at), each.epoch, each.client) for each in producers]
        await call.out.rows(HEAD, rows)


async def _delete(call: Call) -> None:
    name = call.options.name
    await confirm(f"delete producer {name}; whoever produces under that name is refused", call.options)
    await call.client.delete_producer(name)
    await deleted(call, "producer", name)


COMMANDS = (
    Command("producer list", "", "List producers with a name.", _list, (PREFIX,)),
    Command(
        "producer delete",
        "NAME",
        "Forget the name of a producer.",
        _delete,
        (argument("name", metavar="NAME", type=utf8), YES),
    ),
)
