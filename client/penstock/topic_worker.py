"""Working on records in parallel: in order per key, and committed only below everything that is not finished.

    record ──► waits behind its key ──► ready ──► a runner calls the handler ──► finished
                                          ▲                    │ raised
                                          └──── after a while ─┘      at last: dead letter, or out of `work`

Per partition a watermark says up to where everything is finished; the consumer commits that. One task feeds
what the consumer reads, and stops while too much of a partition is in hand; as many runners as handlers may
run at once take what is ready, of the partitions in turn. A record that waits for its next attempt occupies
no runner, only its key.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import copy
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from penstock import checks, codecs
from penstock.errors import Disconnected, Invalid, OutcomeUnknown, Refused
from penstock.message import DeadLetter, Retry
from penstock.queue import Queue
from penstock.reading import Reader
from penstock.record import Record
from penstock.settle import capped
from penstock.values import Backoff, Duration, Header, check_backoff, seconds_of
from penstock.worker import until_terminated
from penstock_protocol.limits import HEADER_KEYS_MAX
from penstock_protocol.patterns import matches

if TYPE_CHECKING:
    from penstock.record_consumer import RecordConsumer
    from penstock.topic import Topic

T = TypeVar("T")
Handler: TypeAlias = Callable[[Record[T]], Awaitable[object]]

log = logging.getLogger("penstock")

EXAMPLE = "async def handle(record): …"
FEED_RECORDS = 100
"""How many are taken from the consumer at a time."""
CONCURRENCY_MAX = 10_000
IN_HAND_MAX = 1_000
"""Records of a partition from the first unfinished one on. What is finished above it is read again if this
process dies."""


class Policy(NamedTuple):
    """What becomes of a record whose handler raises."""

    max_attempts: int
    retry: Backoff
    dead_letter: "Queue[Any] | Topic[Any] | None"


class Watermark:
    """Offsets of one partition that are in hand, and up to where all of them are finished. They begin in
    order, and end in any."""

    def __init__(self) -> None:
        self._begun: deque[int] = deque()
        self._finished: set[int] = set()
        self.last: int | None = None
        """The last offset at and below which everything that began is finished; None: there is none."""

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, offset: int) -> None:
        """It is in hand."""
        self._begun.append(offset)

    def finish(self, offset: int) -> int:
        """It is done. By how many records the watermark rose."""
        self._finished.add(offset)
        before = len(self._begun)
        while self._begun and self._begun[0] in self._finished:
            self.last = self._begun.popleft()
            self._finished.remove(self.last)
        return before - len(self._begun)


class Job(Generic[T]):
    """One record on its way."""

    __slots__ = ("attempt", "key", "lane", "record")

    def __init__(self, record: Record[T], lane: "Lane[T]") -> None:
        self.record = record
        self.lane = lane
        self.key = record.key
        self.attempt = 1


class Lane(Generic[T]):
    """What is in hand of one partition."""

    def __init__(self, reader: Reader[T]) -> None:
        self.reader = reader
        self.watermark = Watermark()
        self.ready: deque[Job[T]] = deque()
        self.queued = False
        """It is among the lanes that runners take from."""
        self.behind: dict[bytes, deque[Job[T]]] = {}
        """Key in hand → records that wait behind it."""
        self.sleeping: dict[Job[T], asyncio.TimerHandle] = {}
        self.running = 0
        self.highest = -1
        """Of the offsets that a handler was called for."""
        self.withdrawn = False
        """What has not begun is left to whoever reads the partition next."""

    @property
    def is_busy(self) -> bool:
        """Something is to be finished."""
        return bool(self.running or self.ready or any(self.behind.values()))

    def withdraw(self) -> int:
        """Drop what has not begun; how many records. What lies below something that has is finished first, so
        that nothing is done twice; but not what waits for its next attempt."""
        self.withdrawn = True
        before = self._waiting()
        for job, timer in self.sleeping.items():
            timer.cancel()
            if job.key is not None:
                del self.behind[job.key]
        self.sleeping.clear()
        below = 0 if self.reader.lost else self.highest
        self.ready = deque(job for job in self.ready if job.record.offset < below)
        for key, jobs in self.behind.items():
            self.behind[key] = deque(job for job in jobs if job.record.offset < below)
        return before - self._waiting()

    def _waiting(self) -> int:
        return len(self.ready) + len(self.sleeping) + sum(map(len, self.behind.values()))

    def next_of_key(self, job: "Job[T]") -> "Job[T] | None":
        """Its key is free; who waited for that longest."""
        if job.key is None or job.key not in self.behind:
            return None
        if self.behind[job.key]:
            return self.behind[job.key].popleft()
        del self.behind[job.key]
        return None


class Worker(Generic[T]):
    """One call of `work`."""

    def __init__(
        self, consumer: "RecordConsumer[T, Any]", handler: Handler[T], policy: Policy, concurrency: int
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._policy = policy
        self._concurrency = concurrency
        self._lanes: dict[Reader[T], Lane[T]] = {}
        self._turn: asyncio.Queue[Lane[T] | None] = asyncio.Queue()
        """Lanes with something ready, each once; None ends a runner."""
        self._left = 0
        """Records in hand."""
        self._all_done = asyncio.Event()
        self._ended = False

    # Feeding

    async def feed(self) -> None:
        """Take what the consumer reads; returns when it has ended and all of it is finished."""
        while records := await self._consumer.take(FEED_RECORDS):
            reader = self._consumer.handed_over()
            lane = self._lanes.get(reader)
            if lane is None:
                lane = self._lanes[reader] = Lane(reader)
            for record in records:
                self._add(Job(record, lane))
            reader.full = len(lane.watermark) > IN_HAND_MAX - FEED_RECORDS
        if self._consumer.is_stopping:
            self._withdraw_all()
        while self._left:
            self._all_done.clear()
            await self._all_done.wait()
        self.end()

    def _add(self, job: Job[T]) -> None:
        self._left += 1
        job.lane.watermark.begin(job.record.offset)
        if job.key is not None and job.key in job.lane.behind:
            job.lane.behind[job.key].append(job)
            return
        if job.key is not None:
            job.lane.behind[job.key] = deque()
        self._ready(job)

    def _ready(self, job: Job[T]) -> None:
        lane = job.lane
        lane.ready.append(job)
        if not lane.queued:
            lane.queued = True
            self._turn.put_nowait(lane)

    def end(self) -> None:
        """Begin nothing more."""
        if self._ended:
            return
        self._ended = True
        self._consumer.stop()
        self._withdraw_all()
        self._dropped(0)

    def _withdraw_all(self) -> None:
        for lane in self._lanes.values():
            self._dropped(lane.withdraw())

    async def idle(self) -> None:
        """Return when no handler runs."""
        while any(lane.is_busy for lane in self._lanes.values()):
            self._consumer.let_go.clear()
            await self._consumer.let_go.wait()

    # Partitions that go

    def withdraw(self, reader: Reader[Any]) -> None:
        """Begin nothing more of it."""
        lane = self._lanes.get(reader)
        if lane is not None:
            self._dropped(lane.withdraw())

    def works_on(self, reader: Reader[Any]) -> bool:
        """Whether a handler runs for a record of it."""
        lane = self._lanes.get(reader)
        return lane is not None and lane.is_busy

    def forget(self, reader: Reader[Any]) -> None:
        """What still runs of it does not count any more."""
        lane = self._lanes.pop(reader, None)
        if lane is not None:
            self._dropped(lane.withdraw())

    def _dropped(self, count: int) -> None:
        """That many records are in hand no more; without any, waiting for the end is over."""
        self._left -= count
        if not self._left:
            self._all_done.set()
            for _ in range(self._concurrency if self._ended else 0):
                self._turn.put_nowait(None)

    # Running

    async def run(self) -> None:
        """Handle what is ready, one record after the other."""
        while (lane := await self._turn.get()) is not None:
            lane.queued = False
            if not lane.ready:
                continue
            job = lane.ready.popleft()
            if lane.ready:
                lane.queued = True
                self._turn.put_nowait(lane)
            lane.running += 1
            lane.highest = max(lane.highest, job.record.offset)
            try:
                await self._handle(job)
            except BaseException:
                self._abandon(job)
                raise
            finally:
                lane.running -= 1
                self._consumer.let_go.set()

    async def _handle(self, job: Job[T]) -> None:
        task = asyncio.current_task()
        try:
            returned: object = self._handler(job.record)
            if isawaitable(returned):
                await returned
        except DeadLetter as asked:
            await self._give_up(job, asked.reason, asked)
        except Retry as asked:
            await self._failed(job, asked, asked.delay)
        except Exception as error:
            log.warning("the handler failed for %r, attempt %d", job.record, job.attempt, exc_info=error)
            await self._failed(job, error, None)
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                raise
            within = RuntimeError(f"the handler of {job.record!r} was cancelled from within")
            within.__cause__ = error
            log.warning("%s", within)
            await self._failed(job, within, None)
        else:
            checks.awaited("handler", returned, EXAMPLE)
            self._finished(job)

    async def _failed(self, job: Job[T], error: BaseException, delay: Duration | None) -> None:
        cause = error.__cause__ if isinstance(error, Retry) and error.__cause__ is not None else error
        if job.attempt >= self._policy.max_attempts:
            await self._give_up(job, f"{type(cause).__name__}: {cause}", error)
        elif job.lane.withdrawn:
            self._abandon(job)
        else:
            seconds = self._pause(job.attempt) if delay is None else seconds_of(delay)
            job.attempt += 1
            loop = asyncio.get_running_loop()
            job.lane.sleeping[job] = loop.call_later(seconds, self._try_again, job)

    def _pause(self, failures: int) -> float:
        retry = self._policy.retry
        longest = seconds_of(retry.max)
        # Beyond 60 failures the power may be too large for a float.
        seconds = min(seconds_of(retry.initial) * float(retry.factor) ** min(failures - 1, 60), longest)
        return seconds * (1 + retry.jitter * (2 * self._consumer.client.chance() - 1))

    def _try_again(self, job: Job[T]) -> None:
        del job.lane.sleeping[job]
        self._ready(job)

    async def _give_up(self, job: Job[T], reason: str, error: BaseException) -> None:
        """Publish the record to where dead letters go, and be done with it; without, raise `error`."""
        if self._policy.dead_letter is None:
            raise error
        await bury(job.record, self._policy.dead_letter, reason, job.attempt)
        self._finished(job)

    def _abandon(self, job: Job[T]) -> None:
        """Leave it to whoever reads the partition next, and what waits behind it."""
        behind = () if job.key is None else job.lane.behind.pop(job.key, ())
        self._dropped(1 + len(behind))

    def _finished(self, job: Job[T]) -> None:
        lane, reader = job.lane, job.lane.reader
        rose = lane.watermark.finish(job.record.offset)
        if rose and lane.watermark.last is not None and not reader.lost:
            reader.finished = reader.behind(lane.watermark.last)
            self._consumer.commits.uncommitted += rose
            self._consumer.commits.sometimes()
        if reader.full and len(lane.watermark) <= IN_HAND_MAX // 2:
            reader.full = False
            self._consumer.turn.moved.set()
        following = lane.next_of_key(job)
        if following is not None:
            self._ready(following)
        self._dropped(1)


async def work(
    consumer: "RecordConsumer[T, Any]", handler: Handler[T], policy: Policy, *, concurrency: int, grace: float
) -> None:
    """See `RecordConsumer.work`. `grace` in seconds."""
    checks.function("handler", handler, EXAMPLE)
    checks.whole("concurrency", concurrency, 1, CONCURRENCY_MAX)
    check_backoff(policy.retry)
    checks.whole("max_attempts", policy.max_attempts, 1)
    _check_dead_letter(policy.dead_letter, consumer.topics)
    if consumer.worker is not None:
        raise Invalid("this consumer works already", hint="raise its concurrency, or make another consumer")
    commits, auto = consumer.commits, consumer.commits.auto
    worker = consumer.worker = Worker(consumer, handler, policy, concurrency)
    commits.auto = consumer.group is not None
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(worker.feed()), *(loop.create_task(worker.run()) for _ in range(concurrency))]
    try:
        await until_terminated(tasks, worker.end, grace)
    finally:
        consumer.worker = None
        if commits.auto:
            await commits.store_finished(consumer.readers.values())
        commits.auto = auto


# Dead letters

PAUSE_SECONDS = 1.0
"""Before a refused dead letter is published again, unless the broker names another time."""


async def bury(record: Record[Any], to: "Queue[Any] | Topic[Any]", reason: str, attempts: int) -> None:
    """Publish a record to a queue or a topic, with its story in headers; durable on return.

    As often as it takes, while that can help; raises what cannot be helped.
    """
    publish: Callable[[], Awaitable[object]] = partial(_publish, record, to, reason, attempts)
    while True:
        try:
            await publish()
        except OutcomeUnknown as unknown:
            publish = unknown.retry  # under its old sequence, so that it is there once
        except (Refused, Disconnected) as refused:
            if not (refused.retriable or isinstance(refused, Disconnected)):
                raise
            log.warning("no dead letter of %r yet: %s", record, refused)
            await asyncio.sleep(refused.retry_after or PAUSE_SECONDS)
        else:
            return


async def _publish(record: Record[Any], to: "Queue[Any] | Topic[Any]", reason: str, attempts: int) -> object:
    raw = copy(to)
    raw.codec = codecs.raw  # what it holds may be just what no codec can read
    if isinstance(raw, Queue):
        more: dict[str, Header] = {} if record.key is None else {"x-penstock-origin-key": record.key}
        return await raw.enqueue(record.raw, headers=_story(record, reason, attempts, more))
    value = None if record.is_tombstone and record.key is not None else record.raw
    return await raw.produce(value, key=record.key, headers=_story(record, reason, attempts, {}))


def _story(record: Record[Any], reason: str, attempts: int, more: Mapping[str, Header]) -> dict[str, Header]:
    """The headers of a dead letter: the record's own, as many as there is room for, and what became of it."""
    story: dict[str, Header] = {
        "x-penstock-origin": record.id,
        "x-penstock-origin-topic": record.topic,
        "x-penstock-origin-partition": record.partition,
        "x-penstock-origin-offset": record.offset,
        "x-penstock-reason": capped(reason),
        "x-penstock-attempts": attempts,
        **more,
    }
    own = [(name, value) for name, value in record.headers.items() if name not in story]
    return dict(own[: HEADER_KEYS_MAX - len(story)]) | story


def _check_dead_letter(dead_letter: Any, topics: Iterable[str]) -> None:
    """Raises `Invalid` for what is neither queue nor topic, and for a topic that is among `topics`, names and
    patterns."""
    if isinstance(dead_letter, str):
        hint = f"client.queue({dead_letter!r})"
        raise Invalid(f"dead_letter={dead_letter!r} is no queue and no topic", hint=hint)
    if dead_letter is None or isinstance(dead_letter, Queue):
        return
    if any(matches(each, dead_letter.name) for each in topics):
        hint = "what failed here would come back and fail again; name another topic, or a queue"
        raise Invalid(f"dead_letter: this consumer reads topic {dead_letter.name!r} itself", hint=hint)
