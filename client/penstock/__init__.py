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
from penstock.group import CommittedOffset, Group
from penstock.message import DeadLetter, Message, Retry
from penstock.queue import Queue
from penstock.record import Record
from penstock.topic import Topic
from penstock.topic_consumer import TopicConsumer
from penstock.values import (
    Backoff,
    GroupDescription,
    GroupPartition,
    Outgoing,
    PartitionDescription,
    QueueDescription,
    QueueSettings,
    QueueStats,
    Receipt,
    RecordMetadata,
    TopicDescription,
    TopicSettings,
)
from penstock.views import Messages, Receipts, Records

__all__ = [
    "Backoff",
    "BatchError",
    "Busy",
    "Client",
    "ClientClosed",
    "CommittedOffset",
    "Conflict",
    "Consumer",
    "Corrupt",
    "DeadLetter",
    "Disconnected",
    "DiskFull",
    "Error",
    "Forbidden",
    "Group",
    "GroupDescription",
    "GroupPartition",
    "Invalid",
    "Message",
    "Messages",
    "NotFound",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "Outgoing",
    "PartitionDescription",
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
    "Refused",
    "Retry",
    "Stale",
    "Timeout",
    "TooLarge",
    "Topic",
    "TopicConsumer",
    "TopicDescription",
    "TopicSettings",
    "TransactionRefused",
    "Unauthenticated",
    "Unroutable",
    "codecs",
    "connect",
    "events",
]
