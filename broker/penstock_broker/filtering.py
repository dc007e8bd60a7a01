"""Which of the records that a FETCH comes by it gets: the broker's side of `where`.

One FETCH looks through so much as one turn of the loop bears, and is answered with what fits and where to go
on, if need be with nothing but that. Where nothing fits at the end of a partition it waits on, behind what it
has seen, and is answered a moment later all the same: so its reader knows that there was nothing for it,
and asks once a moment, not once a record.
"""

from penstock_broker.storage.reads import Cut, picked_of
from penstock_protocol.batch import BatchView
from penstock_protocol.limits import MIB
from penstock_protocol.where import Where

SCANNED_RECORDS_MAX = 10_000
SCANNED_BYTES_MAX = MIB
"""About what one FETCH comes by; what it is sent is bounded by what it asked for."""
LOOKED_RECORDS_MAX = 1_000
"""Of these, the ones whose key or headers are looked at one by one: a few ms at most."""
TELL_MS = 1_000
"""A reader at the end hears that late of records that were not for it."""


class Filter:
    """Of one FETCH."""

    __slots__ = ("_left", "_where", "skipped")

    def __init__(self, where: Where) -> None:
        self._where = where
        self.begin()

    def begin(self) -> None:
        """Look from the start: the first time, and when bytes had to be loaded in between."""
        self._left = LOOKED_RECORDS_MAX
        self.skipped = 0
        """Records that did not fit."""

    @property
    def tired(self) -> bool:
        """It looks at no more."""
        return self._left <= 0

    def pick(self, cut: Cut, most: int) -> tuple[Cut | None, int]:
        """The records of a cut that fit, up to `most` of them; and the offset to go on at."""
        batch = BatchView(cut.data, verify=False)
        indexes, upto, looked = self._where.find(batch, self._left)
        self._left -= looked
        if len(indexes) > most:
            indexes = indexes[:most]
            upto = indexes[-1] + 1
        self.skipped += upto - len(indexes)
        end = cut.end if upto == batch.count else cut.first + batch.deltas[upto - 1] + 1
        return (picked_of(cut, batch, indexes) if indexes else None), end
