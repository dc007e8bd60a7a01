"""The page about consumers: its programs print what they should, and its commands can be typed."""

import pytest
from tests.integration.pages import Page, run, typed
from tests.integration.process import BrokerProcess

PAGE = Page("consumers.md")

PRINTED = {
    "group": "(0, 1, 2, 3)\nb'customer:7' paid 12.50\n0 empty\n",
    "patterns": "3 True\neu.south.events {'n': 1}\n",
    "work": "nonsense no amount 1\n[0, 0]\n",
    "replay": "['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']\n['5', '7']\n",
}


@pytest.mark.parametrize("name", PRINTED)
def test_program_prints(name: str, broker: BrokerProcess) -> None:
    done = run(PAGE.program(name), broker)
    assert (done.stdout, done.stderr) == (PRINTED[name], "")


FETCHED = {"clicks": "0 1  b\n0 2  c\n", "temperatures": "0 1  21.0\n0 2  21.5\n"}


@pytest.mark.parametrize("topic", FETCHED)
def test_session_ends_with_what_it_fetches(topic: str, broker: BrokerProcess) -> None:
    assert typed(PAGE.session(topic), broker)[-1] == FETCHED[topic]
