"""Directories to be looked at: a queue and a topic with messages, and what may have happened to them."""

from tests.fakes.memory_files import MemoryFiles
from tests.unit.storage.one_node import OneNode

from penstock_broker.storage.files import PAGE_BYTES
from penstock_broker.tools.doctor import Case, examine, study
from penstock_broker.tools.findings import Finding
from penstock_protocol.batch import BatchBuilder, BatchView
from penstock_protocol.messages.topics import CreateTopic, Fetch, Produce
from penstock_protocol.slices import decode_slices

MASK = 0x41
TOPIC = "events"


def produce(node: OneNode, *values: bytes) -> None:
    """Produce each value as a batch, and so a block, of its own."""
    for value in values:
        builder = BatchBuilder()
        builder.extend([value])
        node.ask(Produce(TOPIC, 0, None, memoryview(builder.encode())))


def fetch(node: OneNode, offset: int) -> list[tuple[int, bytes]]:
    """Offset and value of every record from an offset on."""
    records: list[tuple[int, bytes]] = []
    while True:
        reply = node.ask(Fetch(TOPIC, 0, offset, 1_000, 1 << 20, 0))
        for stamps, batch in decode_slices(memoryview(reply.payload), reply.slices):
            view = BatchView(batch)
            starts = [0, *view.ends()]
            bodies = [bytes(view.bodies()[a:b]) for a, b in zip(starts, view.ends(), strict=False)]
            deltas = zip(view.deltas, bodies, strict=True)
            records += [(stamps.first + delta, body) for delta, body in deltas]
        if reply.next in (offset, reply.end):
            return records
        offset = reply.next


def began() -> OneNode:
    """Messages 1 to 7, each a block of its own, three blocks a file."""
    return OneNode().create_queue().enqueue(*(b"%d" % number for number in range(1, 8)))


def with_topic() -> OneNode:
    """A topic of one partition with records a to g, each a block of its own."""
    node = OneNode()
    node.ask(CreateTopic(TOPIC, {}, "check"))
    produce(node, *(b"%c" % letter for letter in b"abcdefg"))
    return node


def copied(node: OneNode) -> MemoryFiles:
    """The directory after a power cut."""
    return MemoryFiles(node.files.disk.crashed())


def flipped(node: OneNode, name: str, *offsets: int) -> MemoryFiles:
    """The directory after a power cut, with some bytes changed."""
    disk = node.files.disk.crashed()
    for offset in offsets:
        disk.flip(name, offset, MASK)
    return MemoryFiles(disk)


def body_at(node: OneNode, uuid: bytes, offset: int) -> tuple[str, int]:
    """File and byte of a young batch."""
    owner = node.core.registry.owner(uuid)
    assert owner is not None
    young = next(row for row in owner.log.young_rows(1 << 62) if row.base == offset)
    file, at = node.core.engine.journal.locate(young.position)
    return file.name, at


def segment_of(files: MemoryFiles) -> str:
    """The first segment there is."""
    return min(name for name in files.names() if name.startswith("segment-"))


def examined(files: MemoryFiles) -> tuple[Case, list[Finding]]:
    """What the doctor knows, and what is damaged."""
    case = study(files)
    return case, [found for found in examine(case) if found.damage]


def life_on(files: MemoryFiles, node: OneNode) -> OneNode:
    """A broker on that directory."""
    return OneNode(files.disk, node.clock)


def page(number: int) -> int:
    """Where a page begins; blocks of these files have one each, from page 1 on."""
    return number * PAGE_BYTES
