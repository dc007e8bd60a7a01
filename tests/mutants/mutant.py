"""A mutant: one bug, made by hand, as data; and the test that must notice it."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BROKER, PROTOCOL = "broker/penstock_broker", "protocol/penstock_protocol"


class Mutant(NamedTuple):
    """`file`: from the root of the repository. `old`: stands in it exactly once; `new` takes its place.
    `killer`: the test that must fail then, as pytest names it; or `seed N`, a run of the simulator."""

    name: str
    file: str
    old: str
    new: str
    killer: str


class Rotten(Exception):
    """A mutant no longer fits the source."""


def mutated(mutant: Mutant, source: str) -> str:
    """The source with the bug in it. Raises `Rotten` unless `old` stands there exactly once, and the result
    is another text that can be compiled."""
    found = source.count(mutant.old)
    if found != 1:
        raise Rotten(f"{mutant.name}: its old text stands {found} times in {mutant.file}")
    if mutant.new == mutant.old:
        raise Rotten(f"{mutant.name}: it changes nothing")
    text = source.replace(mutant.old, mutant.new)
    try:
        compile(text, mutant.file, "exec")
    except SyntaxError as error:
        raise Rotten(f"{mutant.name}: {error}") from error
    return text
