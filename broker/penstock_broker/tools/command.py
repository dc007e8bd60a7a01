"""What the commands of the tools share: arguments, the plan and the question, lines out, exit codes.

    0 done, or healthy    1 failed, or there are findings    2 typed wrong

Data goes to stdout, everything else to stderr; an error is one line that says what to type.
"""

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from penstock_broker.storage.files import StorageError
from penstock_broker.tools.directory import Directory

RANDOM = Random()
"""The chance of the tools: salts of what they write."""
EPILOG = "Exit codes: 0 done, 1 failed, 2 typed wrong."


class Failed(Exception):
    """It did not work: one line that says why and what to type next."""

    code = 1


class Usage(Failed):
    """The command line is wrong: one line that says what to type."""

    code = 2


class Parser(ArgumentParser):
    """An argument parser whose errors are one line, and raised."""

    def __init__(self, name: str, synopsis: str, about: str, *, epilog: str = EPILOG) -> None:
        usage = f"penstock {name} {synopsis}"
        super().__init__(
            prog=f"penstock {name}",
            usage=f"{usage} [OPTIONS]",
            description=about,
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._type_this = usage
        self.add_argument("data", metavar="DATA", type=Path, help="the directory of `penstock serve --data`")
        self.add_argument("--json", action="store_true", help="JSON lines instead of text")

    def error(self, message: str) -> NoReturn:
        """Instead of printing the usage and exiting. Raises `Usage`."""
        raise Usage(f"{message}; type {self._type_this}")


def run(parser: Parser, argv: Sequence[str], do: Callable[[Directory, Namespace], int]) -> int:
    """Parse, open the data directory, do it; the exit code."""
    try:
        options = parser.parse_args(argv)
        with closing(Directory(options.data)) as directory:
            return do(directory, options)
    except Failed as error:
        note(f"penstock: {error}")
        return error.code
    except BrokenPipeError:
        raise  # a reader that has seen enough: the command line knows what to do
    except (StorageError, OSError) as error:
        note(f"penstock: {error}")
        return 1


def say(text: str) -> None:
    """One line, or several, of what was asked for."""
    sys.stdout.write(f"{text}\n")


def say_json(value: Mapping[str, Any]) -> None:
    """One object as a line."""
    say(json.dumps(value, ensure_ascii=False))


def note(text: str) -> None:
    """What is said about it."""
    sys.stderr.write(f"{text}\n")


def agreed(plan: str, *, yes: bool) -> None:
    """Print what is going to happen; go on if `yes`, or if somebody at a terminal agrees.

    Raises `Usage` without either, `Failed` if nobody agreed.
    """
    note(plan)
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Usage("nothing was changed; add --yes to do it")
    sys.stderr.write("Do it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failed("nothing was changed")


def instant(ms: int) -> str:
    """A wall clock time for people."""
    try:
        when = datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def offsets(first: int, messages: int) -> str:
    """A range of offsets for people."""
    last = first + messages - 1
    return f"{first}" if last <= first else f"{first}–{last}"
