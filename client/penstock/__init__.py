"""Penstock's asyncio client. `penstock.connect()` is where to begin.

async with penstock.connect() as client:
    emails = await client.create_queue("emails")
    await emails.enqueue("user:42")
    await emails.work(send_email, concurrency=10)
"""

from penstock import codecs, events
from penstock.client import Client, connect
from penstock.consumer import Consumer
from penstock.errors import (
    BatchError,
    Busy,
    ClientClosed,
    Conflict,
    Corrupt,
    Disconnected,
    DiskFull,
    Error,
    Forbidden,
    Invalid,
    NotFound,
    OffsetOutOfRange,
    OutcomeUnknown,
    QueueFull,
    Refused,
    Stale,
    Timeout,
    TooLarge,
    TransactionRefused,
    Unauthenticated,
    Unroutable,
)
from penstock.group import CommittedOffset, Group, OffsetChange
from penstock.message import DeadLetter, Message, Retry
from penstock.outgoing import EnqueueOptions, Outgoing
from penstock.queue import Queue
from penstock.record import Record
from penstock.schedules import ScheduleDescription, ScheduleSettings
from penstock.table import Change, Table, Watch
from penstock.topic import Topic
from penstock.topic_consumer import TopicConsumer, TopicsConsumer
from penstock.transfer import Found
from penstock.values import (
    Attempt,
    Backoff,
    Explanation,
    GroupDescription,
    GroupMember,
    GroupPartition,
    History,
    PartitionDescription,
    ProducerDescription,
    QueueDescription,
    QueueSettings,
    QueueStats,
    Receipt,
    RecordMetadata,
    Redriven,
    StoryLine,
    TopicDescription,
    TopicPartition,
    TopicSettings,
)
from penstock.views import Messages, Receipts, Records
from penstock.where import Where

__all__ = [
    "Attempt",
    "Backoff",
    "BatchError",
    "Busy",
    "Change",
    "Client",
    "ClientClosed",
    "CommittedOffset",
    "Conflict",
    "Consumer",
    "Corrupt",
    "DeadLetter",
    "Disconnected",
    "DiskFull",
    "EnqueueOptions",
    "Error",
    "Explanation",
    "Forbidden",
    "Found",
    "Group",
    "GroupDescription",
    "GroupMember",
    "GroupPartition",
    "History",
    "Invalid",
    "Message",
    "Messages",
    "NotFound",
    "OffsetChange",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "Outgoing",
    "PartitionDescription",
    "ProducerDescription",
    "Queue",
    "QueueDescription",
    "QueueFull",
    "QueueSettings",
    "QueueStats",
    "Receipt",
    "Receipts",
    "Record",
    "RecordMetadata",
    "Records",
    "Redriven",
    "Refused",
    "Retry",
    "ScheduleDescription",
    "ScheduleSettings",
    "Stale",
    "StoryLine",
    "Table",
    "Timeout",
    "TooLarge",
    "Topic",
    "TopicConsumer",
    "TopicDescription",
    "TopicPartition",
    "TopicSettings",
    "TopicsConsumer",
    "TransactionRefused",
    "Unauthenticated",
    "Unroutable",
    "Watch",
    "Where",
    "codecs",
    "connect",
    "events",
]
