"""What the wire specification says of odd cases, asked of the real broker."""

from collections.abc import Iterator

import pytest
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess
from tests.integration.raw import RawClient

from penstock_protocol.batch import BatchBuilder, Kind
from penstock_protocol.errors import Invalid, NotFound, Stale
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import REDELIVERED, Range, Slice, decode_slices, encode_ranges

RETRY, RELEASE = 0, 1
PRODUCER_ID = 7


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[RawClient]:
    with RawClient(broker.address) as client:
        client.create_queue("jobs", retry_initial=0)
        for topic in ("orders", "payments"):
            client.ask(t.CreateTopic(topic, {}, "check"))
            client.ask(t.Produce(topic, 0, None, batch_of(b"1", b"2", b"3")))
        yield client


def batch_of(*bodies: bytes, producer_id: int = 0, sequence: int = 0) -> bytes:
    builder = BatchBuilder()
    builder.extend(bodies)
    return builder.encode(producer_id, sequence)


def stamps(delivery: q.Delivery) -> list[Slice]:
    return [found for found, _ in decode_slices(memoryview(delivery.payload), delivery.slices)]


def counts(client: RawClient, state: str) -> list[tuple[int, int, int, int]]:
    """Offset, attempt, delivery and flags of the messages that PEEK shows, one each."""
    found = stamps(client.ask(q.Peek("jobs", 10, state)))
    return [(s.first + i, s.attempt, s.delivery, s.flags) for s in found for i in range(s.messages)]


def settled(client: RawClient, request: q.Ack | q.Nack) -> tuple[int, bytes]:
    reply = client.ask(request)
    return reply.messages, bytes(reply.payload)


def groups(client: RawClient) -> list[str]:
    page = unpack_document(client.ask(t.ListGroups("", "", 10)).payload)
    return [item["name"] for item in page["items"]]


def committed(client: RawClient, group: str) -> list[int]:
    rows = unpack_document(client.ask(t.Offsets(group, "orders")).payload)
    return [offset for _, offset, *_ in rows]


# batches


def test_batch_with_a_sequence_but_no_producer_id_is_refused(client: RawClient) -> None:
    with pytest.raises(Invalid, match="sequence without a producer id"):
        client.ask(q.Enqueue("jobs", batch_of(b"x", sequence=3)))


def test_absent_value_with_a_body_is_refused(client: RawClient) -> None:
    builder = BatchBuilder()
    builder.add(b"x", [(Kind.ABSENT, 1)])
    with pytest.raises(Invalid, match="absent value has a body"):
        client.ask(t.Produce("orders", 0, None, builder.encode()))


def test_queue_keeps_the_columns_of_a_record(client: RawClient) -> None:
    builder = BatchBuilder()
    builder.add(
        b"", [(Kind.KEY, b"\xc4\x00"), (Kind.HEADERS, b"\x80"), (Kind.TIMESTAMP, 5), (Kind.ABSENT, 1)]
    )
    client.ask(q.Enqueue("jobs", builder.encode()))
    delivery = client.ask(q.Receive("jobs", 1, 0))
    ((_, batch),) = decode_slices(memoryview(delivery.payload), delivery.slices)
    assert bytes(batch) == builder.encode()


def test_duplicate_is_told_by_its_number_alone_and_gives_back_the_credit_of_what_came(
    client: RawClient,
) -> None:
    first = client.ask(q.Enqueue("jobs", batch_of(b"one", producer_id=PRODUCER_ID)))
    other = batch_of(b"something else", b"and more", producer_id=PRODUCER_ID)
    again = client.ask(q.Enqueue("jobs", other))
    assert again == first._replace(duplicate=True, credit=len(other))


def test_batch_under_a_producer_id_that_nobody_claims_is_sequenced(client: RawClient) -> None:
    client.ask(q.Enqueue("jobs", batch_of(b"one", producer_id=PRODUCER_ID)))
    assert client.ask(q.Enqueue("jobs", batch_of(b"one", producer_id=PRODUCER_ID))).duplicate


# queues


def test_peek_tells_hand_outs_so_far_in_every_state(client: RawClient) -> None:
    client.enqueue("jobs", b"released", b"failed", b"delayed", b"held", b"new")
    (lease,) = stamps(client.ask(q.Receive("jobs", 4, 0)))
    for offset, outcome, delay in ((0, RELEASE, None), (1, RETRY, 0), (2, RETRY, 60_000)):
        ranges = encode_ranges([Range(lease.token, offset, 0, 1)])
        assert settled(client, q.Nack("jobs", outcome, delay, None, ranges)) == (1, b"")
    assert counts(client, "ready") == [(0, 1, 1, 0), (1, 2, 1, 0), (4, 1, 0, 0)]
    assert counts(client, "delayed") == [(2, 2, 1, 0)]
    assert counts(client, "in_flight") == [(3, 1, 1, 0)]
    again = stamps(client.ask(q.Receive("jobs", 2, 0)))
    assert [(s.first, s.attempt, s.delivery, s.flags) for s in again] == [
        (0, 1, 2, REDELIVERED),
        (1, 2, 2, REDELIVERED),
    ]


def test_range_of_another_partition_and_a_message_named_twice_are_stale(client: RawClient) -> None:
    client.enqueue("jobs", b"one")
    (lease,) = stamps(client.ask(q.Receive("jobs", 1, 0)))
    elsewhere, one = (Range(lease.token, 0, partition, 1) for partition in (3, 0))
    assert settled(client, q.Ack("jobs", encode_ranges([elsewhere]))) == (0, encode_ranges([elsewhere]))
    assert settled(client, q.Ack("jobs", encode_ranges([one, one]))) == (1, encode_ranges([one]))


# groups


def test_commit_may_go_back_and_the_last_row_of_a_partition_counts(client: RawClient) -> None:
    client.ask(t.Commit("billing", "orders", ((0, 3, ""),)))
    client.ask(t.Commit("billing", "orders", ((0, 2, ""), (0, 1, ""))))
    assert committed(client, "billing") == [1]


def test_commit_under_a_generation_is_stale(client: RawClient) -> None:
    with pytest.raises(Stale):
        client.ask(t.Commit("billing", "orders", ((0, 1, ""),), None, 1))


def test_group_ends_with_the_last_topic_that_it_committed_on(
    client: RawClient, broker: BrokerProcess, start_broker: StartBroker
) -> None:
    for group, topics in {"billing": ["orders"], "analytics": ["orders", "payments"]}.items():
        for topic in topics:
            client.ask(t.Commit(group, topic, ((0, 1, ""),)))
    client.ask(t.DeleteTopic("orders"))
    assert groups(client) == ["analytics"]
    with pytest.raises(NotFound):
        client.ask(t.DescribeGroup("billing"))
    broker.kill()
    with RawClient(start_broker(data=broker.data).wait_ready().address) as later:
        assert groups(later) == ["analytics"]
        later.ask(t.DeleteTopic("payments"))
        assert groups(later) == []


def test_group_that_ended_can_begin_anew(client: RawClient) -> None:
    client.ask(t.Commit("billing", "orders", ((0, 1, ""),)))
    client.ask(t.DeleteTopic("orders"))
    client.ask(t.CreateTopic("orders", {}, "check"))
    assert committed(client, "billing") == []
    client.ask(t.Commit("billing", "orders", ((0, 0, ""),)))
    assert committed(client, "billing") == [0]


def test_unnamed_queue_gets_a_name_and_a_dead_letter_queue_after_it(client: RawClient) -> None:
    made = unpack_document(client.ask(q.CreateQueue(None, {}, "check")).payload)
    assert made["settings"]["dead_letter"] == f"{made['name']}.dead"
