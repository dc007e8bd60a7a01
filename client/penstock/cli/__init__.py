"""The command line `penstock`: finds the command in a table, connects, runs it, and says how it ended.

    0 done    1 failed    2 typed wrong    3 cannot connect    130 Ctrl-C    143 SIGTERM

Data goes to stdout, everything else to stderr; an error is one line that says what to type. A reader that
goes away early (`| head -1`) has what it wanted: that is 0, too.
"""

import asyncio
import logging
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from penstock.cli import (
    groups,
    health,
    messages,
    moving,
    plugins,
    producers,
    queues,
    records,
    schedules,
    table,
    topics,
)
from penstock.cli.command import Call, Command, Failure, Usage, told, warn
from penstock.cli.output import Output
from penstock.client import Client, connect
from penstock.errors import Disconnected, Error, Invalid
from penstock.events import ConnectFailed, ConnectionLost, Event, Reconnected

COMMANDS: dict[str, Command] = {
    command.name: command
    for module in (queues, moving, schedules, topics, producers, table, groups, messages, records, health)
    for command in module.COMMANDS
}
FAMILIES = {name.split()[0] for name in COMMANDS if " " in name}

BEGIN = """\
Penstock: queues and topics on one broker. To begin:

  penstock serve                            run a broker, with its data in ./penstock-data
  penstock queue create emails              make a queue (or: penstock topic create events)
  penstock enqueue emails "hello"           append messages, or lines of stdin (topics: produce)
  penstock receive emails                   take a message and print it (topics: fetch)
  penstock health                           does the broker answer?

All commands: penstock --help
"""
NO_BROKER = "start one with `penstock serve`, or name one with --url penstock://HOST:PORT"
ENDING = """\
`penstock COMMAND --help` tells more. Every command takes --url (else $PENSTOCK_URL, else
penstock://127.0.0.1:7420; a token belongs into $PENSTOCK_TOKEN) and, where it prints, --json.
Exit codes: 0 done, 1 failed, 2 typed wrong, 3 cannot connect.
"""
CALL_SECONDS = 30.0
"""How long any other command waits for one answer, broken connections included."""
FOLLOW_SECONDS = 86_400.0
"""How long a command that follows waits for a broker that went away."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` without a given one); the exit code."""
    _open_closed()
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What the interpreter still flushes at its end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Usage as error:
        return _say(error, 2)
    except Disconnected as error:
        return _say(error, 3)
    except Error as error:
        return _say(told(error), 1)
    except Failure as error:
        return _say(error, error.code)
    except OSError as error:
        return _say(error, 1)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
        return _say(f"this should not happen, please report it: {what}", 1)


def _open_closed() -> None:
    """After `<&-` and the like: a closed 0, 1 or 2 would become the number of a socket."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _say(error: object, code: int) -> int:
    warn(str(error))
    return code


def _run(argv: list[str]) -> int:
    leading, words = _parted(argv)
    if not words:
        print(_without_command(leading))
        return 0
    name, rest = _named(words)
    if name in COMMANDS:
        command = COMMANDS[name]
        logging.basicConfig(format="penstock: %(message)s")
        return asyncio.run(_connected(command, command.parse([*leading, *rest])))
    if name in FAMILIES:
        print(_listed(each for each in COMMANDS.values() if each.name.startswith(f"{name} ")))
        return 0
    if name in plugins.names():
        return plugins.load(name)([*leading, *rest])
    nearest = get_close_matches(name, [*COMMANDS, *FAMILIES, *plugins.names()], 1)
    meant = f"did you mean `penstock {nearest[0]}`? " if nearest else ""
    raise Usage(f"there is no command {name!r}; {meant}`penstock --help` lists all")


# What was typed


def _parted(argv: list[str]) -> tuple[list[str], list[str]]:
    """Options in front of the command, which count as if they stood behind it; and the rest."""
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        at += 2 if argv[at] == "--url" else 1
    return argv[:at], argv[at:]


def _named(words: list[str]) -> tuple[str, list[str]]:
    """The name of a command and what follows it; of a family alone if help on it is wanted.

    Raises `Usage` for a family without one of its verbs.
    """
    family, *rest = words
    if family not in FAMILIES:
        return family, rest
    if rest and rest[0] in ("-h", "--help"):
        return family, []
    name = " ".join(words[:2])
    if name not in COMMANDS:
        verbs = (known.split()[1] for known in COMMANDS if known.startswith(f"{family} "))
        raise Usage(f"type `penstock {family}` and one of {', '.join(verbs)}")
    return name, rest[1:]


def _without_command(leading: list[str]) -> str:
    if not leading:
        return BEGIN
    if "--version" in leading:
        return f"penstock {version('penstock')}"
    if leading[0] not in ("-h", "--help"):
        raise Usage("type a command behind the options; `penstock --help` lists all")
    served = (f"  {name:<18}{about}" for name, (_, about) in plugins.PROVIDERS.items())
    return "\n".join(
        ("usage: penstock COMMAND [OPTIONS]", "", _listed(COMMANDS.values()), *served, "", ENDING)
    )


def _listed(commands: Iterable[Command]) -> str:
    return "\n".join(f"  {command.name:<18}{command.about}" for command in commands)


# What is done


async def _connected(command: Command, options: Namespace) -> int:
    """Connect, run a command, disconnect; the exit code."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    with suppress(NotImplementedError):  # where signals are not the loop's business
        loop.add_signal_handler(signal.SIGTERM, stop)
    patient = command.endless and options.follow
    try:
        client = await _connect(options.url, FOLLOW_SECONDS if patient else CALL_SECONDS)
        async with client:
            await command.run(Call(client, options, Output(json=options.json)))
    except asyncio.CancelledError:
        if not stopped:
            raise
        return 128 + signal.SIGTERM
    return 0


async def _connect(url: str | None, timeout: float) -> Client:
    """An open client. Raises `Disconnected` at the first try that fails: who typed a wrong address, or has no
    broker yet, does not want to wait. `Usage` for a malformed URL."""
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_event(event: Event) -> None:
        if isinstance(event, ConnectFailed) and not failed.done():
            failed.set_result(event.reason)
        elif isinstance(event, ConnectionLost):
            warn(f"the connection is lost, trying again: {event.reason}")
        elif isinstance(event, Reconnected):
            warn(f"connected again to {event.address}")

    try:
        client = connect(url, name=f"penstock-cli/{os.getpid()}", timeout=timeout, on_event=on_event)
    except Invalid as error:
        raise Usage(f"{error.message}: {error.hint}") from error
    opening = asyncio.ensure_future(client)
    either: list[asyncio.Future[Any]] = [opening, failed]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            return opening.result()
        raise Disconnected(f"cannot connect to {failed.result()}", hint=NO_BROKER)
    finally:
        opening.cancel()
