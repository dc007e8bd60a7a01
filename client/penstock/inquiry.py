"""What became of a batch whose outcome is unknown: asked for when somebody wants to know, and once for all.

A batch is asked for under the number it was sent with, so that it is not appended twice; where the answer
proves that it was not appended at all, it is published anew, and its new outcome is the answer. What one was
told is what all are told.
"""

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from penstock import retry
from penstock.confirms import understood
from penstock.connection import Wire
from penstock.errors import Disconnected, Error, OutcomeUnknown, Refused, Stale
from penstock.lanes import Batch, Outcome, Stage
from penstock_protocol.errors import OutcomeUnknown as WireOutcomeUnknown
from penstock_protocol.errors import SequenceGap
from penstock_protocol.messages.queues import Confirm

if TYPE_CHECKING:
    from penstock.batching import Publisher

R = TypeVar("R")


class Inquiries:
    """Those of one publisher."""

    def __init__(self, publisher: "Publisher", wire: Wire) -> None:
        self._publisher = publisher
        self._wire = wire

    def unknown(self, batch: Batch) -> OutcomeUnknown:
        """The error of a batch as a whole; its `retry()` returns the confirm."""
        return _unknown(batch, partial(self.ask, batch))

    def unknown_one(self, batch: Batch, index: int, view: Callable[[Confirm, int], R]) -> OutcomeUnknown:
        """The error of one of its messages; its `retry()` returns `view` of the confirm and that index."""
        return _unknown(batch, partial(self._ask_for, batch, index, view))

    async def ask(self, batch: Batch) -> Confirm:
        """What became of a batch, whoever asks and how often. Raises what a publish raises."""
        if batch.asking is None:
            batch.asking = asyncio.ensure_future(self._ask(batch))
            batch.asking.add_done_callback(partial(_asked, batch))
        return await asyncio.shield(batch.asking)

    async def _ask_for(self, batch: Batch, index: int, view: Callable[[Confirm, int], R]) -> R:
        try:
            return view(await self.ask(batch), index)
        except OutcomeUnknown:
            raise self.unknown_one(batch, index, view) from None

    async def _ask(self, batch: Batch) -> Confirm:
        if batch.stage is not Stage.DONE:
            await self._publisher.outcome_of(batch)
        if isinstance(batch.outcome, OutcomeUnknown):
            batch.outcome = await self._find_out(batch)
        assert batch.outcome is not None
        if isinstance(batch.outcome, Error):
            raise copy(batch.outcome)
        return batch.outcome

    async def _find_out(self, batch: Batch) -> Outcome:
        """Send it under its old number. If that proves that it is not appended, publish it anew."""
        try:
            confirm: Confirm = await self._wire.request(batch.request())
        except SequenceGap as gap:
            if gap.detail.get("expected", 0) < batch.floor:  # the broker has forgotten this producer
                raise self.unknown(batch) from None
        except (*retry.AGAIN, Disconnected, WireOutcomeUnknown):
            raise self.unknown(batch) from None
        except Stale as stale:
            if not batch.floor <= stale.detail.get("expected", -1) <= batch.sequence:
                raise self.unknown(batch) from None
            if self._publisher.producers.is_fenced(batch.lane):
                return stale
        except Refused as refusal:
            return refusal
        else:
            return understood(confirm)
        batch.stage, batch.doubt, batch.withdrawn = Stage.QUEUE, False, None
        self._publisher.submit(batch)
        outcome = await self._publisher.outcome_of(batch)
        if isinstance(outcome, OutcomeUnknown):
            raise self.unknown(batch)
        return outcome


def _asked(batch: Batch, task: asyncio.Task[Confirm]) -> None:
    batch.asking = None
    if not task.cancelled():
        task.exception()  # it was raised where it is awaited, if anywhere


def _unknown(batch: Batch, repeat: Callable[[], Awaitable[Any]]) -> OutcomeUnknown:
    name = batch.lane.address.name
    return OutcomeUnknown(f"a publish to {name!r} was not confirmed in time", repeat=repeat)
