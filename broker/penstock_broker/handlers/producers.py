"""Producers with a name: of all who open one, the latest may produce under it."""

from typing import TYPE_CHECKING

from penstock_broker.catalogue import Item, check_name, part_for
from penstock_broker.handlers.queues import check_between
from penstock_broker.producers import Opened
from penstock_broker.storage.entries import Kind
from penstock_protocol import limits
from penstock_protocol.errors import Invalid, NotFound, Stale
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core


def open_producer(core: "Core", call: "Call", request: t.OpenProducer) -> None:
    """The caller is the producer of that name from now on; whoever was it before is fenced."""
    check_name(request.name)
    named = core.registry.named
    session = call.connection.session
    assert session is not None
    before = named.get(request.name)
    known = core.registry.catalogue.get("producer", request.name)
    if request.again and (known is None or known.settings["session"] != session.name):
        raise Stale(
            f"another instance has taken over producer {request.name!r}, or its name was deleted",
            hint="stop this instance; to take the name back, open it again",
        )
    if before is None and len(named) >= limits.PRODUCERS_NAMED_MAX:
        raise Invalid(
            f"there are {limits.PRODUCERS_NAMED_MAX:,} names of producers already",
            hint="delete those that nobody uses: penstock producer list, penstock producer delete NAME",
        )
    opened = Opened(core.new_number(), 1) if before is None else before.next(core.new_number)
    uuid = core.new_uuid() if known is None else known.uuid
    settings = {
        "number": opened.number,
        "epoch": opened.epoch,
        "opened_at": call.now.wall,
        "session": session.name,
        "client": session.client,
    }
    item = Item("producer", request.name, uuid, settings, ())
    core.engine.append([part_for(Kind.CREATE if known is None else Kind.ALTER, item)], wall=call.now.wall)
    core.answer(call, Document(pack_document(_described(item))))


def list_producers(core: "Core", call: "Call", request: t.ListProducers) -> None:
    """Names and latest openings, a page at a time."""
    check_between("limit", request.limit, 1, limits.LISTING_MAX)
    items, more = core.registry.catalogue.page("producer", request.prefix, request.after, request.limit)
    found = [_described(item) for item in items]
    core.answer(call, Document(pack_document({"items": found, "more": more})))


def delete_producer(core: "Core", call: "Call", request: t.DeleteProducer) -> None:
    """The name is free; whoever has it is fenced."""
    item = core.registry.catalogue.get("producer", request.name)
    if item is None:
        raise NotFound(f"no producer {request.name[:300]!r}", hint="list them: penstock producer list")
    core.engine.append([part_for(Kind.DELETE, item)], wall=call.now.wall)
    core.answer(call, Done())


def _described(item: Item) -> dict[str, object]:
    opened = Opened(item.settings["number"], item.settings["epoch"])
    return {
        "name": item.name,
        "producer_id": opened.id,
        "epoch": opened.epoch,
        "opened_at": item.settings["opened_at"],
        "client": item.settings["client"],
    }
