"""The log verbs."""

from typing import TYPE_CHECKING

from penstock_broker.handlers.queues import check_between
from penstock_broker.storage.files import Load
from penstock_broker.storage.log import Stretch
from penstock_broker.storage.reads import Cold, Loaded
from penstock_broker.topics.partition import Partition
from penstock_protocol import limits
from penstock_protocol.errors import Corrupt
from penstock_protocol.messages import topics as t
from penstock_protocol.where import Where

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core


def produce(core: "Core", call: "Call", request: t.Produce) -> None:
    """Append a batch, answered when it is durable."""
    partition = core.registry.partition(request.topic, request.partition)
    core.publish(call, partition, request.partition, request.payload, request.expected_offset)


def fetch(core: "Core", call: "Call", request: t.Fetch) -> None:
    """Records from an offset on; at the end, wait for them."""
    check_between("records", request.records, 1, limits.RECEIVE_MESSAGES_MAX)
    check_between("size", request.size, 1, limits.FRAME_BYTES_MAX)
    check_between("wait", request.wait, 0, limits.WAIT_MS_MAX)
    partition = core.registry.partition(request.topic, request.partition)
    refusal = partition.out_of_range(request.offset)
    if refusal is not None:
        raise refusal
    Where(request.where or {})
    request = request._replace(size=min(request.size, limits.DELIVERY_BYTES_MAX))
    deadline = call.now.mono + request.wait
    if request.offset < partition.log.end or not request.wait:
        core.deliveries.answer_fetch(partition, call, request, call.now, deadline)
    else:
        core.deliveries.park(partition, call, request, deadline, call.now)


def offset(core: "Core", call: "Call", request: t.Offset) -> None:
    """The earliest or latest offset, or the first at or after a time."""
    check_between("at", request.at, 0, max(t.At))
    partition = core.registry.partition(request.topic, request.partition)
    log = partition.log
    if request.at == t.At.EARLIEST:
        core.answer(call, t.OffsetReply(log.start))
    elif request.at == t.At.LATEST:
        core.answer(call, t.OffsetReply(log.end))
    else:
        found, before = log.offset_at(request.time)
        if before is None:
            core.answer(call, t.OffsetReply(found))
        else:
            _search_stretch(core, call, request, partition, before, found, {})


def _search_stretch(
    core: "Core",
    call: "Call",
    request: t.Offset,
    partition: Partition,
    stretch: Stretch,
    otherwise: int,
    loaded: Loaded,
) -> None:
    """The answer may lie within a stretch: look, as soon as its bytes are there."""
    try:
        inside = core.engine.reads.time_in(partition.log, stretch, request.time, loaded)
    except Cold as cold:
        extent = cold.extent

        def got(result: object) -> None:
            loaded[extent] = result if isinstance(result, bytes) else b""
            _search_stretch(core, call, request, partition, stretch, otherwise, loaded)

        core.engine.load(Load(*extent[:3]), got)
        return
    except Corrupt as error:
        core.answer(call, error)
        return
    core.answer(call, t.OffsetReply(otherwise if inside is None else inside))
