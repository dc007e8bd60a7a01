"""What makes messages of a batch more than plain, as outcomes: when they are due and expire, their rank,
group and ids. Read from the columns of a batch when it is published, kept in the APPEND's detail.

    detail of TRAITS   u32 length, then one msgpack array [due, expires, rank, group, dedup, job, exceptions]:
                       each nil, or an array with one value per message: ms since 1970 (0: none), ms (0:
                       none), rank (9 less the priority), text or nil, text or nil, text or nil; exceptions
                       as rows of a CONFIRM (see slices.py), bin; and of messages that were in this very log
                       before, an eighth: the offsets that their ids name

A message that is an exception (a duplicate, a conflict) has no traits: it is settled in the same entry.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from penstock_broker.queues.message_groups import JOB_PREFIX
from penstock_broker.queues.order import PLAIN_RANK
from penstock_broker.queues.policy import Policy
from penstock_protocol.batch import TRAITS, BatchView, Kind, OnConflict
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Invalid
from penstock_protocol.limits import DELAY_MS_MAX, LABEL_BYTES_MAX, PRIORITY_MAX

LENGTH = Struct("<I")
Texts = Sequence[str | None]


class Traits(NamedTuple):
    """One value per message, or None where no message of the batch has any."""

    due: Sequence[int] | None = None
    expires: Sequence[int] | None = None
    ranks: Sequence[int] | None = None
    groups: Texts | None = None
    dedup_ids: Texts | None = None
    job_keys: Texts | None = None
    exceptions: bytes = b""
    before: Sequence[int] | None = None

    def __bool__(self) -> bool:
        return any(values not in (None, b"") for values in self)


PLAIN = Traits()


def encode(traits: Traits) -> bytes:
    """As in an APPEND's detail."""
    packed: bytes = msgpack.packb(tuple(traits[:-1] if traits.before is None else traits))
    return LENGTH.pack(len(packed)) + packed


def decode(detail: Buffer, at: int) -> Traits:
    """The inverse, from byte `at` of the detail."""
    (length,) = LENGTH.unpack_from(detail, at)
    begin = at + LENGTH.size
    return Traits(*msgpack.unpackb(detail[begin : begin + length]))


def has_traits(batch: BatchView) -> bool:
    """Some column of the batch says how a queue shall treat it."""
    return any(column.kind in TRAITS for column in batch.column_table)


def read(batch: BatchView, policy: Policy, now: int) -> tuple[Traits, Sequence[int] | None]:
    """The traits of a batch published at `now` (wall ms) to a queue of that policy, and what each message
    wants on a conflict of job keys. Raises `Invalid` for a value outside its range."""
    priorities = _integers(batch, Kind.PRIORITY, PRIORITY_MAX, "priority")
    groups, job_keys = _labels(batch, Kind.MESSAGE_GROUP), _labels(batch, Kind.JOB_KEY)
    if (
        groups
        and job_keys
        and any(g is not None and k is not None for g, k in zip(groups, job_keys, strict=True))
    ):
        raise Invalid(
            "a message has a message group or a job key, not both", hint="a job key is its own group"
        )
    on_conflict = _integers(batch, Kind.ON_CONFLICT, max(OnConflict), "on_conflict")
    traits = Traits(
        _due(batch, policy, now),
        _expires(batch, policy, now),
        None if priorities is None else [PLAIN_RANK - priority for priority in priorities],
        groups,
        _labels(batch, Kind.DEDUP_ID),
        job_keys,
    )
    return traits, on_conflict


def of_copy(
    batch: BatchView,
    policy: Policy,
    now: int,
    due: Sequence[int] | None = None,
    before: Sequence[int] | None = None,
    *,
    is_job: bool = False,
) -> Traits:
    """The traits of a batch that comes from another queue: priority and group, and what is left of a delay.
    Its dedup ids have done what they were for, and its time to live begins anew if that queue has one. Job
    keys count on where it `is_job`: then it runs when those are done that have the key already. `before`: the
    offsets that it had in this log before."""
    priorities, groups = batch.integers(Kind.PRIORITY), _labels(batch, Kind.MESSAGE_GROUP)
    job_keys = _labels(batch, Kind.JOB_KEY) if is_job else None
    if policy.fair:
        nobody = [None] * batch.count
        pairs = zip(groups or nobody, job_keys or nobody, strict=True)
        groups = [group or (None if key else "") for group, key in pairs]
    return Traits(
        due=due if due and any(due) else None,
        expires=None if policy.ttl is None else [now + policy.ttl] * batch.count,
        ranks=None if priorities is None else [PLAIN_RANK - priority for priority in priorities],
        groups=groups,
        job_keys=job_keys,
        before=before,
    )


def _due(batch: BatchView, policy: Policy, now: int) -> list[int] | None:
    delays = _integers(batch, Kind.DELAY, DELAY_MS_MAX, "delay")
    at = _integers(batch, Kind.AT, now + DELAY_MS_MAX, "at")
    if delays is None and at is None and not policy.delay:
        return None
    due = []
    for delay, instant in zip(delays or _zeros(batch), at or _zeros(batch), strict=True):
        if delay and instant:
            raise Invalid("a message has delay or at, not both")
        when = instant or now + (delay or policy.delay)
        due.append(when if when > now else 0)
    return due if any(due) else None


def _expires(batch: BatchView, policy: Policy, now: int) -> list[int] | None:
    lives = _integers(batch, Kind.TTL, DELAY_MS_MAX, "ttl")
    if lives is None and policy.ttl is None:
        return None
    longest = policy.ttl or 0
    return [
        now + (min(life, longest) if life and longest else life or longest) if life or longest else 0
        for life in lives or _zeros(batch)
    ]


def _zeros(batch: BatchView) -> Sequence[int]:
    return [0] * batch.count


def _integers(batch: BatchView, kind: Kind, most: int, name: str) -> list[int] | None:
    values = batch.integers(kind)
    if values is not None and max(values) > most:
        raise Invalid(f"{name}={max(values)} is not allowed", hint=f"allowed: 0 to {most:,}")
    return values


def _labels(batch: BatchView, kind: Kind) -> list[str | None] | None:
    cells = batch.cells(kind)
    return None if cells is None else [_label(cell, kind) if cell else None for cell in cells]


def _label(cell: memoryview, kind: Kind) -> str:
    try:
        label: Any = msgpack.unpackb(cell, max_str_len=LABEL_BYTES_MAX)
    except (ValueError, msgpack.UnpackException):
        label = None
    if type(label) is not str or not label or (kind == Kind.MESSAGE_GROUP and label.startswith(JOB_PREFIX)):
        raise Invalid(
            f"a {kind.name.lower().replace('_', ' ')} is malformed or too long",
            hint=f"text of 1 to {LABEL_BYTES_MAX} bytes",
        )
    return label
