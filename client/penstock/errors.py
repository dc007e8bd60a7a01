"""Every error the client raises: the protocol's table, and two that carry something to go on with.

The meaning of each is in `penstock_protocol.errors`; here nothing is added to the table.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from penstock_protocol import errors as _wire
from penstock_protocol.errors import (
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
    QueueFull,
    Refused,
    Stale,
    Timeout,
    TooLarge,
    TransactionRefused,
    Unauthenticated,
    Unroutable,
)

__all__ = [
    "BatchError",
    "Busy",
    "ClientClosed",
    "Conflict",
    "Corrupt",
    "Disconnected",
    "DiskFull",
    "Error",
    "Forbidden",
    "Invalid",
    "NotFound",
    "OffsetOutOfRange",
    "OutcomeUnknown",
    "QueueFull",
    "Refused",
    "Stale",
    "Timeout",
    "TooLarge",
    "TransactionRefused",
    "Unauthenticated",
    "Unroutable",
]


class OutcomeUnknown(_wire.OutcomeUnknown):
    """It may or may not have happened: the time was up, or the client closed, before the broker answered."""

    def __init__(self, message: str, *, repeat: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(message)
        self._repeat = repeat

    async def retry(self) -> Any:
        """Ask again and return what the failed call would have returned.

        A publish goes out under its old sequence: if it did happen, this returns the original receipt and
        nothing is written. Raises what the call raises, `OutcomeUnknown` included.
        """
        return await self._repeat()


class BatchError(Error):
    """A publish of several batches stopped at its first failure, which is its `__cause__`; or all of it was
    sent, and some messages were refused because their job key is taken (`Conflict`).

    `receipts`: of the durable messages from the start of the input up to the first one that is not, without
    those whose job key is taken. `refused`, `unknown`: the given items that were surely not written, and
    those that may have been (of the latter, `await error.__cause__.retry()` finds out). Items never taken
    from the input are in none.
    """

    def __init__(
        self,
        cause: Error,
        *,
        receipts: Sequence[Any],
        refused: Sequence[Any],
        unknown: Sequence[Any],
    ) -> None:
        super().__init__(
            f"{len(receipts):,} messages are durable, {len(refused):,} were refused, {len(unknown):,} are"
            f" unknown: {cause.message}",
            hint=cause.hint,
            retry_after=cause.retry_after,
            detail=cause.detail,
        )
        self.receipts = receipts
        self.refused = refused
        self.unknown = unknown
