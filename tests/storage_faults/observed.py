"""What a broker shows to whoever asks: every queue, topic and group, with every body by its offset."""

from typing import Any

from tests.storage_faults.expected import Message, Partition, Queue, State
from tests.storage_faults.life import Life

from penstock_protocol.batch import BatchView
from penstock_protocol.limits import FRAME_BYTES_MAX, RECEIVE_MESSAGES_MAX
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import decode_slices

KEPT = ("ready", "delayed", "waiting", "in_flight")
LISTED_MAX = 100


class Unreadable(Exception):
    """There is more than can be read."""


def observed(life: Life) -> State:
    """Everything, by asking. Raises the error of a reply, and `Unreadable`."""
    queues, topics, groups = (
        unpack_document(_answer(reply).payload)["items"]
        for reply in life.ask(
            q.ListQueues("", "", LISTED_MAX),
            t.ListTopics("", "", LISTED_MAX),
            t.ListGroups("", "", LISTED_MAX),
        )
    )
    state = State()
    for item in queues:
        if item["corrupt"]:
            raise Unreadable(f"queue {item['name']} is corrupt")
        state.queues[item["name"]] = _queue(life, item)
    for item in topics:
        state.topics[item["name"]] = [_partition(life, item["name"], each) for each in item["partitions"]]
    for item in groups:
        (reply,) = life.ask(t.DescribeGroup(item["name"]))
        for row in unpack_document(_answer(reply).payload)["partitions"]:
            state.offsets[item["name"], row["topic"], row["partition"]] = row["current"]
    return state


def _queue(life: Life, item: Any) -> Queue:
    name, stats = item["name"], item["stats"]
    queue = Queue(item["settings"]["max_messages"], settled=stats["settled_total"])
    kept = [state for state in KEPT if stats[state]]
    replies = life.ask(*(q.Peek(name, RECEIVE_MESSAGES_MAX, state) for state in kept))
    for state, reply in zip(kept, replies, strict=True):
        found = records(_answer(reply))
        if len(found) != stats[state]:
            raise Unreadable(f"{stats[state]} of {name} are {state}, but {len(found)} are shown")
        queue.messages.update({offset: Message(body, attempt) for offset, body, attempt in found})
    return queue


def _partition(life: Life, name: str, item: Any) -> Partition:
    partition = Partition(item["start"], item["end"])
    at = item["start"]
    while at < item["end"]:
        (reply,) = life.ask(t.Fetch(name, item["partition"], at, RECEIVE_MESSAGES_MAX, FRAME_BYTES_MAX, 0))
        found = records(_answer(reply))
        assert found, f"nothing at offset {at} of {name}, which ends at {item['end']}"
        partition.records.update({offset: body for offset, body, _ in found})
        at = found[-1][0] + 1
    return partition


def records(delivery: Any) -> list[tuple[int, bytes, int]]:
    """(offset, body, attempt) of everything in a delivery."""
    out = []
    for stamps, data in decode_slices(memoryview(delivery.payload), delivery.slices):
        batch = BatchView(data)
        ends, bodies = batch.ends(), bytes(batch.bodies())
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            out.append((stamps.first + number, bodies[start:end], stamps.attempt))
    return out


def _answer(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply
