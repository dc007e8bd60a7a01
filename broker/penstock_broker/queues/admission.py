"""How a batch of messages that are more than plain enters a queue: which of them are new, which are
duplicates or in conflict, and what has to go for them.

A message that is not taken is settled in the entry that appends its batch: the batch stays as it was sent,
and nobody ever sees that message.
"""

from collections.abc import Container, Iterable, Sequence
from hashlib import sha256

from penstock_broker.queues import traits
from penstock_broker.queues.indexes import WAITING_TO_GO
from penstock_broker.queues.looking import unsettled_ranges
from penstock_broker.queues.order import PLAIN_RANK
from penstock_broker.queues.outcomes import PLAIN, Admission, Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.traits import Texts, Traits
from penstock_broker.storage import entries
from penstock_broker.storage.entries import Part
from penstock_broker.storage.log import Young
from penstock_protocol.batch import BatchView, OnConflict
from penstock_protocol.errors import Conflict, QueueFull
from penstock_protocol.slices import Exceptional, Status, encode_exceptions

FAIR_COMMON = ""
"""The tenant of messages without a message group."""
BEYOND_MAX = 1_000
"""Messages that one publish pushes out more than it needs, where limits were lowered: the loop goes on."""


def admit(queue: Queue, batch: BatchView, now: int, run: str | None = None) -> Admission:
    """What the entry of a batch published at `now` (wall ms) has beside it. Raises `Invalid`, `Conflict` for
    a single message whose job key is taken, `QueueFull` if ids or places are used up. `run`: of a schedule,
    whose message is a new one each time: where ids count, that is its own."""
    policy = queue.policy
    if not policy.marks_all and not traits.has_traits(batch):
        return PLAIN
    found, on_conflict = traits.read(batch, policy, now)
    ids = _with_digests(batch, found.dedup_ids) if policy.content_dedup else found.dedup_ids
    ids = ids if policy.dedup_window else None
    ids = [run] if ids is not None and run is not None else ids
    if policy.fair:
        found = found._replace(groups=_tenants(batch.count, found))
    exceptions: dict[int, Exceptional] = {}
    replaced: list[int] = []
    seen = _Ids(queue, now - policy.dedup_window) if ids is not None and policy.dedup_window else None
    keys = _Keys(queue, replaced)
    for index in range(batch.count):
        exception = seen.find(index, ids[index]) if seen is not None and ids is not None else None
        if exception is None and found.job_keys is not None:
            wish = on_conflict[index] if on_conflict is not None else OnConflict.REJECT
            exception = keys.find(index, found.job_keys[index], wish)
        if exception is not None:
            exceptions[index] = exception
        elif seen is not None and ids is not None:
            seen.add(index, ids[index])
    if batch.count == 1 and 0 in exceptions and exceptions[0].status == Status.CONFLICT:
        raise Conflict(
            f"the job key is taken by the message at offset {exceptions[0].offset}",
            hint='on_conflict="keep", "replace" or "run_after" says what to do then',
            detail={"offset": exceptions[0].offset},
        )
    encoded = encode_exceptions(exceptions.values())
    found = _without(found._replace(dedup_ids=ids, exceptions=encoded), exceptions)
    flags, detail = (entries.TRAITS_FLAG, traits.encode(found)) if found else (0, b"")
    gone = frozenset([*(queue.log.end + index for index in exceptions), *replaced])
    return Admission(flags, detail, encoded, tuple(_settles(queue, exceptions, replaced)), gone)


def _tenants(count: int, found: Traits) -> Texts:
    """Whose turn each message of a fair queue takes; a job key is a group of its own."""
    nobody = [None] * count
    pairs = zip(found.groups or nobody, found.job_keys or nobody, strict=True)
    return [group if group is not None or key is not None else FAIR_COMMON for group, key in pairs]


def _with_digests(batch: BatchView, ids: Texts | None) -> Texts:
    """The digest of its body for a message without a dedup id (SQS: ContentBasedDeduplication)."""
    bodies, ends = batch.bodies(), [0, *batch.ends()]
    given = ids or [None] * batch.count
    return [
        each or sha256(bodies[ends[index] : ends[index + 1]]).hexdigest() for index, each in enumerate(given)
    ]


class _Ids:
    """Dedup ids of a queue, and those that its new messages bring."""

    def __init__(self, queue: Queue, since: int) -> None:
        self._queue = queue
        self._since = since
        self._room = queue.indexes.dedup.room(since)
        self._here: dict[str, int] = {}

    def find(self, index: int, dedup_id: str | None) -> Exceptional | None:
        """Whether the message is a duplicate, and of which."""
        if dedup_id is None:
            return None
        known = self._here.get(dedup_id)
        if known is None:
            known = self._queue.indexes.dedup.find(dedup_id, self._since)
        return None if known is None else Exceptional(index, Status.DUPLICATE, known)

    def add(self, index: int, dedup_id: str | None) -> None:
        """The message is taken. Raises `QueueFull`."""
        if dedup_id is None:
            return
        if len(self._here) >= self._room:
            raise QueueFull(
                f"queue {self._queue.name!r} has seen as many dedup ids within its window as it remembers",
                hint="wait, or alter its dedup_window",
            )
        self._here[dedup_id] = self._queue.log.end + index


class _Keys:
    """Job keys of a queue, and those that its new messages bring. `replaced`: gathers what has to go."""

    def __init__(self, queue: Queue, replaced: list[int]) -> None:
        self._queue = queue
        self._replaced = replaced
        self._here: dict[str, list[int]] = {}

    def find(self, index: int, key: str | None, wish: int) -> Exceptional | None:
        """Whether the key is taken, and nobody else gives way; the message is taken if not."""
        if key is None:
            return None
        queue, replaced = self._queue, self._replaced
        older = [*queue.indexes.groups.job(key), *self._here.get(key, ())]
        waiting = [offset for offset in older if queue.states.state(offset) in WAITING_TO_GO]
        queued = queue.policy.job_scope == "queued"
        taken = [each for each in (waiting if queued else older) if each not in replaced]
        if taken and wish in (OnConflict.REJECT, OnConflict.KEEP):
            status = Status.CONFLICT if wish == OnConflict.REJECT else Status.DUPLICATE
            return Exceptional(index, status, taken[0])
        if wish == OnConflict.REPLACE:
            replaced += [each for each in waiting if each not in replaced]
        self._here.setdefault(key, []).append(queue.log.end + index)
        return None


def _without(found: Traits, exceptions: Container[int]) -> Traits:
    """The traits, but for those of messages that are not taken."""
    if not exceptions:
        return found

    def numbers(values: Sequence[int] | None, nothing: int) -> Sequence[int] | None:
        return values and [nothing if index in exceptions else each for index, each in enumerate(values)]

    def texts(values: Texts | None) -> Texts | None:
        return values and [None if index in exceptions else each for index, each in enumerate(values)]

    return Traits(
        numbers(found.due, 0),
        numbers(found.expires, 0),
        numbers(found.ranks, PLAIN_RANK),
        texts(found.groups),
        texts(found.dedup_ids),
        texts(found.job_keys),
        found.exceptions,
    )


def _settles(queue: Queue, exceptions: dict[int, Exceptional], replaced: list[int]) -> list[Part]:
    """What ends in the same entry: messages that are not taken, and those that others take the place of."""
    first = queue.log.end
    settles = []
    if exceptions:
        ended = [(first + index, 1) for index in sorted(exceptions)]
        settles.append(queue.settle_part(ended, Settled.DUPLICATE))
    if replaced:
        settles.append(queue.settle_part([(offset, 1) for offset in sorted(replaced)], Settled.PURGED))
    return settles


def oldest(queue: Queue, messages: int, size: int, gone: Container[int], most: int) -> list[tuple[int, int]]:
    """The oldest runs that have to go so that so much more has room, but for what is `gone` anyway; and some
    of what is beyond limits that were lowered, as long as that is not more than `most` in all. What is in
    flight stays. Raises `QueueFull` if that is not enough."""
    room, room_bytes = queue.room
    missing, missing_bytes = messages - room, size - room_bytes
    over, below = _beyond(queue, size)
    out: list[tuple[int, int]] = []
    wanted = missing > 0 or missing_bytes > 0 or over or below
    for first, found in _but_for(unsettled_ranges(queue), gone) if wanted else ():
        while found and (missing > 0 or missing_bytes > 0):
            some, used = queue.log.fit(first, found, max(missing_bytes, 1))
            some = max(some, min(found, missing))
            out.append((first, some))
            missing, missing_bytes, most = missing - some, missing_bytes - max(used, 1), most - some
            first, found = first + some, found - some
        more = min(found, max(over, below - first), most)
        if more > 0:
            out.append((first, more))
            over, most = over - more, most - more
        elif found:
            break
    if missing > 0 or missing_bytes > 0:
        queue.check_room(messages, size)
    return out


def _beyond(queue: Queue, size: int) -> tuple[int, int]:
    """What a queue holds more than its limits, as they are now: how many messages, and below which offset
    those lie that have to go so that `size` bytes more do not break them; settled ones, too, for a batch
    counts until all of it is settled."""
    policy, log = queue.policy, queue.log
    over = 0 if policy.max_messages is None else min(max(0, queue.messages - policy.max_messages), BEYOND_MAX)
    over_bytes = 0 if policy.max_bytes is None else log.size_bytes - policy.max_bytes
    place = log.at(log.start) if over_bytes > 0 else None
    if place is None:
        return over, 0
    begin = place.base if isinstance(place, Young) else place.first
    fits, used = log.fit(begin, min(log.end - begin, BEYOND_MAX), over_bytes + size)
    return over, begin + fits + (used < over_bytes + size)


def _but_for(runs: Iterable[tuple[int, int]], gone: Container[int]) -> Iterable[tuple[int, int]]:
    if not gone:
        return runs
    return ((o, 1) for first, n in runs for o in range(first, first + n) if o not in gone)
