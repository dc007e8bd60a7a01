"""The page about topics: its programs print what they should, and its commands can be typed."""

import pytest
from tests.integration.pages import Page, run, typed
from tests.integration.process import BrokerProcess

PAGE = Page("topics.md")


def printed(name: str, broker: BrokerProcess) -> str:
    """What a program prints."""
    done = run(PAGE.program(name), broker)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_events_build_on_each_other(broker: BrokerProcess) -> None:
    assert printed("event_sourcing", broker) == "(10, 4)\n"


def test_only_what_fits_is_fetched(broker: BrokerProcess) -> None:
    assert printed("filters", broker) == "['order eu.1', 'ordered eu.3'] 4\n"


def test_many_calls_at_once_produce_everything(broker: BrokerProcess) -> None:
    assert printed("fast_producer", broker) == "20000\n"


def test_compressed_records_are_read_like_any_other(broker: BrokerProcess) -> None:
    assert printed("compression", broker) == '10000 records in few bytes\n{"page": "/", "agent": "Mozilla"}\n'


def test_partitioner_puts_records_where_it_says(broker: BrokerProcess) -> None:
    assert printed("partitioner", broker) == "de:7 0\nfr:7 3\nde:8 0\n"


def test_table_is_read_and_watched(broker: BrokerProcess) -> None:
    assert printed("table", broker) == "{'eur': 3} None 2\nb'pear' {'eur': 4} {'eur': 5}\n"


def test_the_later_of_two_instances_produces(broker: BrokerProcess) -> None:
    said, records = printed("named", broker).splitlines()
    assert said.startswith("another instance has taken over")
    assert records == "['from the old one', 'from the new one']"


EXPECTED = {
    "numbers": "0 999  1000\n",
    "devices": "lamp\toff\n",
    "account-8": "0 1  deposit:50\n0 2  withdraw:20\n",
    "shop-log": "0 0 eu.1 from the EU\n",
    "audit": "0 0  started\n",
    "page-views": "5 0  first\n",
}


@pytest.mark.parametrize("topic", EXPECTED)
def test_session_ends_with_what_it_fetches(topic: str, broker: BrokerProcess) -> None:
    assert typed(PAGE.session(topic), broker)[-1] == EXPECTED[topic]
