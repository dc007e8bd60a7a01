"""Whoever read nothing but the wire specification can use the broker."""

import ast
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from tests.integration import independent_client as wire
from tests.integration.independent_client import Client, Refused, decode_delivery, encode_batch
from tests.integration.process import BrokerProcess

PRODUCER_ID = 42
SECOND = 1_000
NOT_FOUND = 1
SEQUENCE_GAP = 15
RETRY, RELEASE = 0, 1
LINES_MAX = 120


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    client = Client(*broker.address, PRODUCER_ID)
    yield client
    client.close()


@pytest.fixture
def emails(client: Client) -> str:
    """A queue with three messages."""
    client.ask(wire.CREATE_QUEUE, "emails", {"retry_initial": 0}, "check")
    client.ask(wire.ENQUEUE, "emails", payload=encode_batch([b"one", b"two", b"three"], None, PRODUCER_ID, 0))
    return "emails"


def received(client: Client, queue: str, messages: int = 10) -> list[wire.Message]:
    (slices,), payload = client.ask(wire.RECEIVE, queue, messages, SECOND)
    return decode_delivery(slices, payload)


def test_client_is_short_and_imports_nothing_of_ours() -> None:
    source = Path(wire.__file__).read_text("utf-8")
    tree = ast.walk(ast.parse(source))
    imports = [ast.unparse(node) for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in imports if "penstock" in line or "tests" in line]
    assert source.count("\n") <= LINES_MAX


def test_welcome_names_version_credit_and_limits(client: Client) -> None:
    version, _, node, boot, resumed, credit, _, limits = client.welcome
    assert (version, len(node), boot, resumed) == (1, 16, 1, False)
    assert credit > 0
    assert limits["batch_count"] == 10_000


def test_batch_of_three_is_confirmed_with_its_offsets(client: Client, emails: str) -> None:
    batch = encode_batch([b"a", b"b", b"c"], None, PRODUCER_ID, 1)
    partition, first, messages, duplicate, durability, credit, _, log = client.ask(
        wire.ENQUEUE, emails, payload=batch
    )[0]
    assert (partition, first, messages, duplicate, durability) == (0, 3, 3, False, "fsync")
    assert (credit, len(log)) == (len(batch), 16)


def test_batch_sent_again_is_a_duplicate_with_the_first_offsets(client: Client, emails: str) -> None:
    again = encode_batch([b"one", b"two", b"three"], None, PRODUCER_ID, 0)
    confirm, _ = client.ask(wire.ENQUEUE, emails, payload=again)
    assert confirm[:4] == [0, 0, 3, True]
    assert len(received(client, emails)) == 3


def test_messages_are_received_in_order_with_ids_of_their_log(client: Client, emails: str) -> None:
    messages = received(client, emails)
    assert [(m.offset, m.body, m.attempt, m.delivery) for m in messages] == [
        (0, b"one", 1, 1),
        (1, b"two", 1, 1),
        (2, b"three", 1, 1),
    ]
    assert [m.id.rpartition(":")[2] for m in messages] == ["0", "1", "2"]


def test_acked_message_is_gone_and_a_failed_one_comes_back(client: Client, emails: str) -> None:
    one, two, three = received(client, emails)
    assert client.ask(wire.ACK, emails, payload=one.lease) == ([1], b"")
    assert client.ask(wire.NACK, emails, RETRY, 0, "not today", payload=two.lease) == ([1], b"")
    assert client.ask(wire.NACK, emails, RELEASE, None, None, payload=three.lease) == ([1], b"")
    again = received(client, emails)
    assert [(m.body, m.attempt, m.delivery) for m in again] == [(b"two", 2, 2), (b"three", 1, 2)]


def test_second_ack_of_a_message_is_answered_with_its_stale_range(client: Client, emails: str) -> None:
    (one,) = received(client, emails, messages=1)
    client.ask(wire.ACK, emails, payload=one.lease)
    assert client.ask(wire.ACK, emails, payload=one.lease) == ([0], one.lease)


def test_description_is_a_document_with_settings_and_counts(client: Client, emails: str) -> None:
    received(client, emails, messages=1)
    fields, payload = client.ask(wire.DESCRIBE_QUEUE, emails)
    document = msgpack.unpackb(payload)
    assert fields == []
    assert document["settings"]["retry_initial"] == 0
    assert document["settings"]["visibility_timeout"] == 30_000
    assert (document["stats"]["ready"], document["stats"]["in_flight"]) == (2, 1)


def test_records_are_fetched_with_their_keys_as_often_as_one_likes(client: Client) -> None:
    client.ask(wire.CREATE_TOPIC, "orders", {"partitions": 2}, "check")
    batch = encode_batch([b"\1", b"\2"], [b"k1", b"k2"], PRODUCER_ID, 0)
    client.ask(wire.PRODUCE, "orders", 1, payload=batch)
    for _ in range(2):
        (slices, start, end), payload = client.ask(wire.FETCH, "orders", 1, 1, 10, 1 << 20, 0)
        (record,) = decode_delivery(slices, payload)
        assert (start, end) == (0, 2)
        assert (record.offset, record.key, record.body) == (1, b"k2", b"\2")


def test_error_reply_says_what_is_wrong_and_what_to_do(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client.ask(wire.RECEIVE, "nowhere", 1, 0)
    code, message, hint, retry_after, detail = refused.value.args
    assert (code, retry_after, detail) == (NOT_FOUND, None, {})
    assert "nowhere" in message
    assert "penstock queue create nowhere" in hint


def test_batch_that_comes_too_early_is_refused_with_the_expected_sequence(
    client: Client, emails: str
) -> None:
    with pytest.raises(Refused) as refused:
        client.ask(wire.ENQUEUE, emails, payload=encode_batch([b"late"], None, PRODUCER_ID, 2))
    assert refused.value.args[0] == SEQUENCE_GAP
    assert refused.value.args[4] == {"expected": 1}
