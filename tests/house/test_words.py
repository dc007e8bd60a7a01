"""What no file of the repository says: where it was made, by whom, and what else does not help a reader."""

import re
from codecs import decode

import pytest
from tests.house.source import texts

# Turned by 13 letters, so that this file does not say it either.
NEVER = {
    "a path of the machine it was made on": "/jbex/",
    "the host of a package registry": r"\b(clcv\.bet|clgubaubfgrq|aczwf|pengrf\.vb|eholtrzf)\b",
    "who else had a hand in it": r"\b(nffvfgnagf?|urycref?|pynhqr|naguebcvp|pbcvybg|pungtcg|yyzf?)\b",
    "a number of the tracker": r"\b(vffhrf?|gvpxrgf?) #?[0-9]+|\(#[0-9]+\)",
}


def plain(hidden: str) -> re.Pattern[str]:
    """The pattern that it stands for; a letter behind a backslash is no letter."""
    turned = re.sub(r"(?<!\\)[a-zA-Z]", lambda letter: decode(letter[0], "rot13"), hidden)
    return re.compile(turned, re.IGNORECASE)


@pytest.mark.parametrize("never", NEVER.values(), ids=NEVER)
def test_no_file_says(never: str) -> None:
    pattern = plain(never)
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("never", "hidden"),
    [
        ("a path of the machine it was made on", "va /jbex/znva"),
        ("the host of a package registry", "uggcf://clcv.bet/fvzcyr"),
        ("who else had a hand in it", "Jevggra ol na NFFVFGNAG."),
        ("a number of the tracker", "svkrf vffhr #12"),
    ],
)
def test_hidden_words_are_found(never: str, hidden: str) -> None:
    assert plain(NEVER[never]).search(decode(hidden, "rot13"))
