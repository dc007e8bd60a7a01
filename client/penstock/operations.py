"""What operators do with a queue: look for messages, explain them, hold the queue, move messages, schedule.

The other half of the handle in queue.py, which is what applications use.
"""

from abc import ABC, abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack

from penstock import checks, schedules, transfer
from penstock.codecs import Codec
from penstock.errors import TooLarge
from penstock.outgoing import EnqueueOptions, Outgoing
from penstock.runs import LeasedRun
from penstock.schedules import ScheduleDescription, ScheduleSettings
from penstock.transfer import Found, Transferring
from penstock.values import Duration, Explanation, Header, IfExists, Redriven, StoryLine, ms_at
from penstock_protocol.limits import SCHEDULE_BYTES_MAX
from penstock_protocol.messages.queues import AlterQueue, Resume
from penstock_protocol.messages.schedules import CreateSchedule
from penstock_protocol.messages.schema import unpack_document

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.queue import Queue

T = TypeVar("T")


class QueueOperations(ABC, Generic[T]):
    """See `Queue`."""

    def __init__(self, client: "Client", name: str, codec: Codec[T]) -> None:
        self.name = checks.name("queue", name)
        self.codec = checks.codec(codec)
        self.client = client

    @abstractmethod
    def runs(self, delivery: Any) -> list[LeasedRun[T]]:
        """The runs of a `Delivery`, `Deliver` or `Found`. Raises `Corrupt`."""

    @abstractmethod
    def batch_of_one(self, item: Outgoing) -> bytes:
        """A message that is not published by itself."""

    # Look

    async def find(
        self,
        *,
        id: str | None = None,
        header: tuple[str, Header] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        timeout: float | None = None,
    ) -> list[Found[T]]:
        """Up to `limit` messages with that id, with that header (name and value; None: any), enqueued from
        `since` and before `until`, in any state, without a lease. The broker reads the queue a part at a
        time, from `since` on."""
        where = transfer.condition(id=id, header=header, since=since, until=until)
        return await transfer.find(self, where, limit, timeout)

    async def explain(self, id: str, *, timeout: float | None = None) -> Explanation:
        """Why a message is where it is: whose lease, which group is blocked by what, delay, pause, limit.
        Raises `NotFound`."""
        return transfer.explanation(await transfer.explain(self, id, timeout))

    async def story(self, id: str, *, timeout: float | None = None) -> list[StoryLine]:
        """What happened to a message, settled or not, as far as the journal and its bytes still tell, oldest
        first; what they do not any more is said. Raises `NotFound`."""
        return transfer.story(await transfer.explain(self, id, timeout, story=True))

    # Steer

    async def pause(self, *, timeout: float | None = None) -> None:
        """Deliver nothing from now on, until `resume`; what is in hand is not touched, and publishes go
        on."""
        await self.client.wire.request(AlterQueue(self.name, {"paused": True}), timeout=timeout)

    async def resume(self, message_group: str | None = None, *, timeout: float | None = None) -> bool:
        """Deliver again. `message_group`: that one, which was parked (`group_failure="park"`, up to 100,000
        groups); whether it was."""
        if message_group is not None:
            checks.label("message_group", message_group)
        if message_group is None:
            await self.client.wire.request(AlterQueue(self.name, {"paused": False}), timeout=timeout)
            return True
        reply = await self.client.wire.request(Resume(self.name, message_group), timeout=timeout)
        resumed: bool = unpack_document(reply.payload)["resumed"]
        return resumed

    async def cancel(self, id: str, *, timeout: float | None = None) -> bool:
        """Take back a message that is not in flight, delayed or not; whether there was one."""
        return await transfer.reschedule(self, id, None, timeout)

    async def reschedule(
        self,
        id: str,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        timeout: float | None = None,
    ) -> bool:
        """A message that is not in flight becomes ready after `delay` (0: at once) from now, or `at`, at most
        10 years ahead; whether there was one."""
        return await transfer.reschedule(self, id, transfer.instant(self, delay, at), timeout)

    async def redrive(
        self,
        to: "str | Queue[Any] | None" = None,
        *,
        limit: int | None = None,
        reason: str | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Redriven:
        """Move dead letters back to where each died, or `to` another queue; their count starts afresh, their
        history stays. `reason`: only those that died of it.

        As all that moves: it goes in steps of up to 1,000 messages, each durable, so that it may stop
        half-way; this client paces them (`rate`: messages a second; SQS: up to 500). `dry_run` only counts.
        `timeout` is for a step. Raises what `enqueue` to the other queue raises; `OutcomeUnknown`, whose
        `retry()` goes on.
        """
        where = transfer.condition(reason=reason)
        job = Transferring(self, to, "ready", where, limit, rate, dry_run, timeout)
        return await job.run()

    async def replay(
        self,
        since: datetime,
        until: datetime | None = None,
        *,
        into: "str | Queue[Any] | None" = None,
        rate: float | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Redriven:
        """Enqueue again what was enqueued from `since` and before `until` (None: now) and is settled, as long
        as `keep_settled` keeps it; here, or `into` another queue. Ids stay, `.replayed` tells. In steps, as
        `redrive`.
        """
        where = transfer.condition(until=until)
        where["since"] = ms_at(since, "since")
        to = self.name if into is None else into
        replaying = Transferring(self, to, "settled", where, limit, rate, dry_run, timeout)
        if until is None:
            where["until"] = await self.client.wire.broker_time(timeout) + 1
        return await replaying.run()

    async def move(
        self,
        to: "str | Queue[Any]",
        *,
        state: Literal["ready", "delayed", "waiting"] = "ready",
        id: str | None = None,
        header: tuple[str, Header] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Redriven:
        """Move messages in a state to another queue; conditions as in `find`. They keep their count, history
        and checkpoint; dead letters start afresh, as by `redrive`. In steps, as that."""
        where = transfer.condition(id=id, header=header, since=since, until=until)
        checks.choice("state", state, transfer.MOVABLE)
        if to is None:
            raise transfer.no_target(to)
        return await Transferring(self, to, state, where, limit, rate, dry_run, timeout).run()

    # Schedule

    async def schedule(
        self,
        name: str,
        body: T | bytes | str,
        *,
        if_exists: IfExists = "check",
        options: EnqueueOptions | None = None,
        timeout: float | None = None,
        **settings: Unpack[ScheduleSettings],
    ) -> ScheduleDescription:
        """Let the broker enqueue this message again and again: `cron="0 9 * * 1-5", zone="Europe/Berlin"`, or
        `every=60`. `options`: those of `enqueue`. Each run is a new message, whatever `dedup_id` or
        `content_dedup` say.

        If a schedule of that name exists, it is compared (`Conflict`), with `if_exists="alter"` changed, with
        "keep" left alone. `Client` alters, lists and deletes them. Raises `NotFound`, `Invalid`.
        """
        rhythm = schedules.settings_to_wire(settings)
        message = self.batch_of_one(Outgoing(body, **schedules.checked(options)))
        if len(message) > SCHEDULE_BYTES_MAX:
            raise TooLarge(
                f"message of {len(message):,} bytes; that of a schedule takes {SCHEDULE_BYTES_MAX:,}",
                hint="enqueue a reference to where the data is",
            )
        request = CreateSchedule(name, self.name, rhythm, if_exists, message)
        checks.administration(request)
        reply = await self.client.wire.request(request, timeout=timeout)
        return schedules.description_of(unpack_document(reply.payload))
