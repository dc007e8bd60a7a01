"""The verb table: one row per verb, and the whole truth about it.

A row: code, request class, reply class (None: the verb has no reply), the permission it needs, the wire
version that brought it, the handler's name in the broker. Codes are grouped by family and never reused;
48 (PUBLISH), 49 (TRANSACT) and 120 (METADATA) are reserved.
"""

from typing import Any, NamedTuple

from penstock_protocol.messages import groups as g
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t


class Verb(NamedTuple):
    """One row of the table."""

    code: int
    name: str
    request: type[Any]
    reply: type[Any] | None
    permission: str
    since: int
    handler: str
    pushed: bool = False
    """Sent by the broker, not asked for."""
    in_parts: bool = False
    """A request may be answered by several replies."""


VERBS = (
    #    code  name              request           reply          permission      since handler
    Verb(1, "HELLO", s.Hello, s.Welcome, "none", 1, "session.hello"),
    Verb(2, "PING", s.Ping, s.Pong, "none", 1, "session.ping"),
    Verb(3, "GOODBYE", s.Goodbye, s.Done, "none", 1, "session.goodbye"),
    Verb(4, "CANCEL", s.Cancel, None, "none", 1, "session.cancel"),
    Verb(16, "ENQUEUE", q.Enqueue, q.Confirm, "queue:enqueue", 1, "queues.enqueue"),
    Verb(17, "RECEIVE", q.Receive, q.Delivery, "queue:receive", 1, "queues.receive"),
    Verb(18, "ACK", q.Ack, q.Settled, "queue:receive", 1, "queues.ack"),
    Verb(19, "NACK", q.Nack, q.Settled, "queue:receive", 1, "queues.nack"),
    Verb(20, "EXTEND", q.Extend, q.Settled, "queue:receive", 1, "queues.extend"),
    Verb(21, "CONSUME", q.Consume, s.Done, "queue:receive", 1, "queues.consume"),
    Verb(22, "CREDIT", q.Credit, None, "queue:receive", 1, "queues.credit"),
    Verb(23, "STOP", q.Stop, s.Done, "queue:receive", 1, "queues.stop"),
    Verb(24, "DELIVER", q.Deliver, None, "none", 1, "", pushed=True),
    Verb(25, "CHECKPOINT", q.Checkpoint, q.Settled, "queue:receive", 1, "messages.checkpoint"),
    Verb(26, "REPLY", q.Reply, q.Settled, "queue:receive", 1, "messages.reply"),
    Verb(32, "PRODUCE", t.Produce, q.Confirm, "topic:produce", 1, "topics.produce"),
    Verb(33, "FETCH", t.Fetch, t.Fetched, "topic:fetch", 1, "topics.fetch", in_parts=True),
    Verb(34, "COMMIT", t.Commit, s.Done, "group:commit", 1, "groups.commit"),
    Verb(35, "OFFSETS", t.Offsets, s.Document, "group:describe", 1, "groups.offsets"),
    Verb(36, "OFFSET", t.Offset, t.OffsetReply, "topic:fetch", 1, "topics.offset"),
    Verb(37, "JOIN", g.Join, s.Document, "group:commit", 1, "groups.join"),
    Verb(38, "HEARTBEAT", g.Heartbeat, s.Document, "group:commit", 1, "groups.heartbeat"),
    Verb(39, "LEAVE", g.Leave, s.Done, "group:commit", 1, "groups.leave"),
    Verb(40, "OPEN_PRODUCER", t.OpenProducer, s.Document, "topic:produce", 1, "producers.open_producer"),
    Verb(64, "CREATE_QUEUE", q.CreateQueue, s.Document, "queue:create", 1, "admin.create_queue"),
    Verb(65, "ALTER_QUEUE", q.AlterQueue, s.Document, "queue:alter", 1, "admin.alter_queue"),
    Verb(66, "DELETE_QUEUE", q.DeleteQueue, s.Done, "queue:delete", 1, "admin.delete_queue"),
    Verb(67, "LIST_QUEUES", q.ListQueues, s.Document, "queue:describe", 1, "admin.list_queues"),
    Verb(68, "DESCRIBE_QUEUE", q.DescribeQueue, s.Document, "queue:describe", 1, "admin.describe_queue"),
    Verb(69, "PURGE", q.Purge, s.Document, "queue:purge", 1, "queues.purge"),
    Verb(70, "PEEK", q.Peek, q.Delivery, "queue:peek", 1, "queues.peek"),
    Verb(71, "RESUME", q.Resume, s.Document, "queue:alter", 1, "messages.resume"),
    Verb(72, "RESCHEDULE", q.Reschedule, s.Document, "queue:purge", 1, "messages.reschedule"),
    Verb(73, "TRANSFER", q.Transfer, s.Document, "queue:purge", 1, "transfers.transfer"),
    Verb(74, "FIND", q.Find, q.Found, "queue:peek", 1, "transfers.find"),
    Verb(75, "EXPLAIN", q.Explain, s.Document, "queue:peek", 1, "messages.explain"),
    Verb(76, "CREATE_SCHEDULE", c.CreateSchedule, s.Document, "queue:alter", 1, "schedules.create_schedule"),
    Verb(77, "ALTER_SCHEDULE", c.AlterSchedule, s.Document, "queue:alter", 1, "schedules.alter_schedule"),
    Verb(78, "DELETE_SCHEDULE", c.DeleteSchedule, s.Done, "queue:alter", 1, "schedules.delete_schedule"),
    Verb(79, "LIST_SCHEDULES", c.ListSchedules, s.Document, "queue:describe", 1, "schedules.list_schedules"),
    Verb(80, "CREATE_TOPIC", t.CreateTopic, s.Document, "topic:create", 1, "admin.create_topic"),
    Verb(81, "ALTER_TOPIC", t.AlterTopic, s.Document, "topic:alter", 1, "admin.alter_topic"),
    Verb(82, "DELETE_TOPIC", t.DeleteTopic, s.Done, "topic:delete", 1, "admin.delete_topic"),
    Verb(83, "LIST_TOPICS", t.ListTopics, s.Document, "topic:describe", 1, "admin.list_topics"),
    Verb(84, "DESCRIBE_TOPIC", t.DescribeTopic, s.Document, "topic:describe", 1, "admin.describe_topic"),
    Verb(85, "LIST_PRODUCERS", t.ListProducers, s.Document, "topic:describe", 1, "producers.list_producers"),
    Verb(86, "DELETE_PRODUCER", t.DeleteProducer, s.Done, "topic:delete", 1, "producers.delete_producer"),
    Verb(96, "LIST_GROUPS", t.ListGroups, s.Document, "group:describe", 1, "groups.list_groups"),
    Verb(97, "DESCRIBE_GROUP", t.DescribeGroup, s.Document, "group:describe", 1, "groups.describe_group"),
    Verb(98, "DELETE_GROUP", g.DeleteGroup, s.Done, "group:delete", 1, "groups.delete_group"),
)

BY_CODE = {verb.code: verb for verb in VERBS}
BY_REQUEST: dict[type[Any], Verb] = {verb.request: verb for verb in VERBS}


def markdown() -> str:
    """The verb table as the documentation shows it."""
    rows = ["| code | verb | request | reply | permission |", "|---|---|---|---|---|"]
    for verb in VERBS:
        reply = verb.reply.__name__ if verb.reply else "none"
        rows.append(f"| {verb.code} | {verb.name} | {verb.request.__name__} | {reply} | {verb.permission} |")
    return "\n".join(rows)
