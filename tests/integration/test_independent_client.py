"""Whoever read nothing but the wire specification can use the broker."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration import independent_client as wire
from tests.integration.independent_client import BrokerError, Client, at, batch, parse
from tests.integration.process import BrokerProcess

PRODUCER_ID = 42
SECONDS = 30
SEQUENCE_GAP = 15
LISTINGS = (67, 83, 96)
"""Queues, topics, groups."""
MESSAGES = [(b"one", None, None), (b"two", None, None), (b"three", None, None)]


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    client = Client(*broker.address, PRODUCER_ID)
    yield client
    client.sock.close()


@pytest.fixture
def emails(client: Client) -> str:
    """A queue with three messages."""
    client.document(wire.CREATE_QUEUE, "emails", {"retry_initial": 0}, "check")
    client.call(wire.ENQUEUE, ["emails"], batch(MESSAGES, PRODUCER_ID, 0))
    return "emails"


def test_client_imports_nothing_of_ours() -> None:
    tree = ast.walk(ast.parse(Path(wire.__file__).read_text("utf-8")))
    imports = [ast.unparse(node) for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in imports if "penstock" in line or "tests" in line]


def test_whole_walk_succeeds_and_leaves_nothing_behind(broker: BrokerProcess) -> None:
    host, port = broker.address
    command = [sys.executable, wire.__file__, host, str(port)]
    subprocess.run(command, timeout=SECONDS, check=True)
    client = Client(host, port, 0)
    for listing in LISTINGS:
        assert client.document(listing, "", "", 10)["items"] == []
    client.sock.close()


def test_welcome_names_version_credit_and_limits(client: Client) -> None:
    assert (client.version, len(client.node), client.boot, client.resumed) == (1, 16, 1, False)
    assert client.credit > 0
    assert client.limits["batch_count"] == 10_000


def test_batch_sent_again_is_a_duplicate_with_the_first_offsets(client: Client, emails: str) -> None:
    confirm, _ = client.call(wire.ENQUEUE, [emails], batch(MESSAGES, PRODUCER_ID, 0))
    assert confirm[:4] == [0, 0, 3, True]
    assert [m["body"] for m in client.receive(emails, 10)] == [b"one", b"two", b"three"]


def test_second_ack_of_a_message_is_answered_with_its_stale_range(client: Client, emails: str) -> None:
    (one,) = client.receive(emails, 1)
    assert client.settle(wire.ACK, [emails], at(one)) == (1, [])
    assert client.settle(wire.ACK, [emails], at(one)) == (0, [at(one)])


def test_description_is_a_document_with_settings_and_counts(client: Client, emails: str) -> None:
    client.receive(emails, 1)
    document = client.document(wire.DESCRIBE_QUEUE, emails)
    assert document["settings"]["retry_initial"] == 0
    assert document["settings"]["visibility_timeout"] == 30_000
    assert (document["stats"]["ready"], document["stats"]["in_flight"]) == (2, 1)


def test_records_are_fetched_with_their_keys_as_often_as_one_likes(client: Client) -> None:
    client.document(wire.CREATE_TOPIC, "orders", {"partitions": 2}, "check")
    client.call(wire.PRODUCE, ["orders", 1], batch([(b"\1", b"k1", None), (b"\2", b"k2", None)], PRODUCER_ID))
    for _ in range(2):
        (slices, start, end, behind), payload = client.call(wire.FETCH, ["orders", 1, 1, 10, 1 << 20, 0])
        (record,) = parse(slices, payload)
        assert (start, end, behind) == (0, 2, 2)
        assert (record["offset"], record["key"], record["body"]) == (1, b"k2", b"\2")


def test_error_reply_says_what_is_wrong_and_what_to_do(client: Client) -> None:
    with pytest.raises(BrokerError, match="nowhere") as refused:
        client.receive("nowhere", 1, 0)
    error = refused.value
    assert (error.code, error.retry_after, error.detail) == (wire.NOT_FOUND, None, {})
    assert "penstock queue create nowhere" in error.hint


def test_batch_that_comes_too_early_is_refused_with_the_expected_sequence(
    client: Client, emails: str
) -> None:
    with pytest.raises(BrokerError) as refused:
        client.call(wire.ENQUEUE, [emails], batch(MESSAGES, PRODUCER_ID, 2))
    assert refused.value.code == SEQUENCE_GAP
    assert refused.value.detail == {"expected": 1}
