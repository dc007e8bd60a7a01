"""What a command is: a name, a line of help, its arguments as data, and the coroutine that does it.

A command gets a `Call` and returns when it is done; what it cannot do it raises: `Usage` (exit 2) for what
the caller typed wrong, `Failure` (exit 1) for the rest. Nothing here knows a particular command.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from penstock.cli import pipes
from penstock.cli.output import Output
from penstock.cli.pipes import STDIN
from penstock.errors import Conflict, Error, OffsetOutOfRange, OutcomeUnknown, Timeout, Unauthenticated

if TYPE_CHECKING:
    from penstock.client import Client


HINTS: dict[type[Error], str] = {
    Conflict: "add --if-exists keep to leave it, or --if-exists alter to change it",
    OffsetOutOfRange: "type --from earliest or an offset between; for a group, `penstock group reset`",
    OutcomeUnknown: "look before you repeat it, for instance with `penstock queue describe`",
    Timeout: "is the broker busy or stopped? type `penstock health`",
    Unauthenticated: "set $PENSTOCK_TOKEN",
}
"""What to type, where the library's hint speaks of Python."""
TAKEN = "add --on-conflict keep, replace or run_after"
"""Of the conflict that names a message: its job key is taken."""


class Usage(Exception):
    """The command line is wrong: one line that says what to type."""


class Failure(Exception):
    """It did not work: one line that says why and what to type next. `code`: how to exit."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class Argument(NamedTuple):
    """What `ArgumentParser.add_argument` takes."""

    names: tuple[str, ...]
    options: dict[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    """One positional (no dash) or option of a command."""
    return Argument(names, options)


class Call(NamedTuple):
    """What a command works with."""

    client: "Client"
    options: Namespace
    out: Output


class Command(NamedTuple):
    """One row of the command table. `name`: one or two words; `synopsis`: what follows it, in short."""

    name: str
    synopsis: str
    about: str
    run: Callable[[Call], Awaitable[None]]
    arguments: tuple[Argument, ...] = ()
    epilog: str = ""
    endless: bool = False
    """With `--follow` it waits as long as it takes for a broker that went away."""

    @property
    def usage(self) -> str:
        """What to type."""
        return f"penstock {self.name} {self.synopsis}".rstrip()

    def parse(self, argv: Sequence[str]) -> Namespace:
        """The arguments behind its name. Raises `Usage`; `SystemExit` behind `--help`."""
        parser = Parser(f"penstock {self.name}", self.usage, self.about, self.epilog)
        for each in (*self.arguments, *COMMON):
            parser.add_argument(*each.names, **each.options)
        return parser.parse_intermixed_args(_joined(argv))


SINCE = ("--from", "--since", "--until", "--at", "--to")
"""Options whose value may begin with a dash."""


def _joined(argv: Sequence[str]) -> list[str]:
    """`--from -1h` as `--from=-1h`: argparse would take `-1h` for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in SINCE and word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


COMMON = (
    argument("--url", metavar="URL", help="the broker ($PENSTOCK_URL, else penstock://127.0.0.1:7420)"),
    argument("--json", action="store_true", help="one JSON object a line"),
)
"""What every command takes."""


class Parser(ArgumentParser):
    """An argument parser whose errors are one line, and raised."""

    def __init__(self, name: str, usage: str, about: str, epilog: str) -> None:
        super().__init__(prog=name, usage=f"{usage} [OPTIONS]", description=about, epilog=epilog)
        self.allow_abbrev = False
        self._type_this = usage

    def error(self, message: str) -> NoReturn:
        """Instead of printing the usage and exiting. Raises `Usage`."""
        raise Usage(message if message.startswith("argument ") else f"{message}; type {self._type_this}")


def note(text: str) -> None:
    """Say what was done to somebody who looks; scripts read the exit code, or --json."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Say in one line what is not as it should be."""
    print("penstock:", " ".join(text.split()), file=sys.stderr)


def told(error: Error) -> str:
    """An error of the library in one line that says what to type."""
    hint = next((hint for kind, hint in HINTS.items() if isinstance(error, kind)), error.hint)
    if isinstance(error, Conflict) and error.hint != Conflict.advice:
        hint = TAKEN if "offset" in error.detail else error.hint
    return f"{error.message} ({hint})"


async def confirm(plan: str, options: Namespace) -> None:
    """Print what is going to happen; go on if `--yes` was typed or somebody at a terminal agrees.

    Raises `Usage` without either, `Failure` if nobody agreed.
    """
    print(plan, file=sys.stderr)
    if options.yes:
        return
    if not (os.isatty(STDIN) and sys.stderr.isatty()):
        raise Usage("nothing was changed; add --yes to do it")
    print("Do it? [y/N] ", end="", file=sys.stderr, flush=True)
    if (await pipes.read(STDIN)).strip().lower() not in (b"y", b"yes"):
        raise Failure("nothing was changed")


async def deleted(call: Call, kind: str, name: str) -> None:
    """Say that something is gone."""
    note(f"{kind} {name} is deleted")
    if call.out.json:
        await call.out.objects([{"name": name, "deleted": True}])


YES = argument("--yes", action="store_true", help="do it without asking")
