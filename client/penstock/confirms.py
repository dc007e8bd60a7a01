"""What a confirm says of each message of its batch.

Most confirms say the same of all: each is new, and at its place behind the first. The payload of the others
names the messages that are not new; it is decoded once, when the confirm comes, into a dict by index. So
the common case costs the look whether there is one.
"""

from collections.abc import Iterator

from penstock.errors import Conflict
from penstock.runs import id_of
from penstock.values import Receipt
from penstock_protocol.messages.queues import Confirm
from penstock_protocol.slices import Exceptional, Status, decode_exceptions


def understood(confirm: Confirm) -> Confirm:
    """With its exceptions by index, if it has any. For everything else here."""
    if not confirm.payload:
        return confirm
    return confirm._replace(payload={each.number: each for each in decode_exceptions(confirm.payload)})


def receipt(confirm: Confirm, index: int) -> Receipt:
    """The receipt of message `index`. Raises `Conflict` if it was refused, because its job key is taken."""
    if confirm.payload and index in confirm.payload:
        other: Exceptional = confirm.payload[index]
        if other.status == Status.CONFLICT:
            raise conflict(other)
        return Receipt(id_of(confirm.log, other.offset), other.offset, True, confirm.durability)
    offset = confirm.first + index
    return Receipt(id_of(confirm.log, offset), offset, confirm.duplicate, confirm.durability)


def conflict(other: Exceptional) -> Conflict:
    """Why a message was refused whose batch was confirmed."""
    return Conflict(
        f"the job key is taken by the message at offset {other.offset}",
        hint='wait until that is done, or pass on_conflict="keep", "replace" or "run_after"',
        detail={"offset": other.offset},
    )


def conflicts(confirm: Confirm, first: int, messages: int) -> list[Exceptional]:
    """Those of messages `first` … `first + messages` that were refused, in order."""
    if not confirm.payload:
        return []
    found = [each for each in confirm.payload.values() if each.status == Status.CONFLICT]
    return sorted(each for each in found if first <= each.number < first + messages)


def accepted(confirm: Confirm, first: int, messages: int) -> Iterator[tuple[Confirm, int, int]]:
    """(confirm, first, messages) of each stretch of them without one that was refused."""
    end = first + messages
    for each in conflicts(confirm, first, messages):
        if each.number > first:
            yield confirm, first, each.number - first
        first = each.number + 1
    if first < end:
        yield confirm, first, end - first
