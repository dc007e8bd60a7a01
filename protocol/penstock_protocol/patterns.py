"""Patterns over dotted names: `*` stands for one word, `#` for any number of them, none included.

A leaf, for whoever selects by name: AMQP's topic patterns, matched without recursion and without a regex.
"""

from penstock_protocol.errors import Invalid

WORDS_MAX = 16


def is_pattern(text: str) -> bool:
    """It selects, rather than names."""
    return "*" in text or "#" in text


def check_pattern(text: str) -> None:
    """Raises `Invalid` unless every wildcard is a word of its own and there are at most WORDS_MAX words."""
    words = text.split(".")
    if len(words) > WORDS_MAX:
        raise Invalid(f"pattern {text[:300]!r} has more than {WORDS_MAX} words")
    for word in words:
        if is_pattern(word) and word not in ("*", "#"):
            raise Invalid(
                f"pattern {text[:300]!r} has a wildcard inside a word",
                hint="* stands for one whole word between dots, # for any number of them",
            )


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern selects that name. Time grows with the product of their words at most."""
    wanted, words = pattern.split("."), name.split(".")
    reached = {0}
    """Numbers of words that what was looked at of the pattern can stand for."""
    for each in wanted:
        if each == "#":
            reached = set(range(min(reached), len(words) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(words) and each in ("*", words[at])}
    return len(words) in reached
