"""Micro-benchmarks of the rooms where speed was preferred to grace: codec, batch, settlement, journal.

`make micro` or `python -m penstock_loadtest.micro [--no-keep] [WORD …]` prints µs per call, the best of five
rounds, and keeps them with the commit in `bench-results/micro.jsonl`, so that a slow-down is seen: each is
shown beside the median of the latest commits before on the same machine. What looks slower is measured once
more before it is said; these are still times of this machine at this moment.
"""

import sys
from collections.abc import Callable
from random import Random
from time import perf_counter

from penstock_broker.queues.leases import Lease, Leases
from penstock_broker.queues.states import Event, States
from penstock_broker.storage.entries import At, Body, Kind, Part
from penstock_broker.storage.journal import Journal, JournalSettings
from penstock_broker.storage.log import Log, Use
from penstock_loadtest.micro_history import History
from penstock_protocol.batch import BatchBuilder, BatchView
from penstock_protocol.checksum import Buffer
from penstock_protocol.cuts import cut
from penstock_protocol.link import Link, Role
from penstock_protocol.messages.queues import Enqueue
from penstock_protocol.messages.session import MAGIC, Hello
from penstock_protocol.slices import Range, Slice, decode_ranges, encode_ranges, encode_slice

ROUNDS = 5
BODIES = [b"z" * 1024] * 100
UUID = bytes(range(16))


def _batch() -> Buffer:
    builder = BatchBuilder()
    builder.extend(BODIES)
    return builder.encode(7, 3)


BATCH = _batch()
VIEW = BatchView(BATCH)


def _link() -> Callable[[], object]:
    client, server = Link(Role.CLIENT), Link(Role.SERVER)
    hello = b"".join(client.request(Hello(MAGIC, 1, 1, UUID, 7), 1))
    assert list(server.receive(hello))
    frame = b"".join(client.request(Enqueue("emails", BATCH), 2))
    return lambda: list(server.receive(frame))


def _states() -> Callable[[], object]:
    states = States()
    at = 0

    def hand_out_and_settle() -> None:
        nonlocal at
        states.move(at, 100, Event.HAND_OUT)
        states.move(at, 100, Event.SETTLE)
        at += 100

    return hand_out_and_settle


def _leases() -> Callable[[], object]:
    leases = Leases()
    token = 0

    def lease_and_settle() -> None:
        nonlocal token
        token += 1
        lease = Lease(token, token * 100, 100, 30_000, None, 0)
        leases.add(lease)
        leases.start(lease, 0)
        leases.take(token, token * 100, 100)

    return lease_and_settle


def _journal() -> Callable[[], object]:
    body = Body(VIEW.view, VIEW.crc)
    part = Part(UUID, Kind.APPEND, 0, 100, 0, b"", 0)
    made: list[Journal[object]] = []

    def append() -> None:
        if not made or made[-1].end > 3 << 20:
            made[:] = [Journal(JournalSettings(1 << 30, 64 << 20, 64 << 20), Random(1), 1)]
            made[-1].ample = True  # the disk has room: a publish waits for no file
        journal = made[-1]
        journal.reserve([part], [body], 1, publish=True)
        journal.copy(journal.reserve([part], [body], 1, publish=True))

    return append


def _log() -> Callable[[], object]:
    log = Log(UUID, Use())
    part = Part(UUID, Kind.APPEND, 0, 100, 0, b"", 0)

    def append_and_find() -> None:
        log.appended(part._replace(base=log.end), At(0, 0, log.end * 1024, 102_400, 7))
        log.at(log.end - 50)
        log.trim(log.end)

    return append_and_find


def _encode_slice() -> object:
    return encode_slice(Slice(1, 2, 3, 4, UUID, 30_000, 0, 100, 1, 1, 0, len(BATCH)), VIEW.crc)


def _ranges() -> object:
    ranges = encode_ranges([Range(token, token * 100, 0, 100) for token in range(10)])
    return decode_ranges(memoryview(ranges))


BENCHMARKS: dict[str, Callable[[], object]] = {
    "frame: decode one of 100 KiB": _link(),
    "batch: encode 100 of 1 KiB": _batch,
    "batch: look at 100 of 1 KiB, checksum included": lambda: BatchView(BATCH),
    "batch: what a broker checks": lambda: VIEW.check(1 << 20),
    "batch: cut 10 of 100": lambda: cut(VIEW, 40, 10),
    "slices: encode one": _encode_slice,
    "settlement: ten ranges there and back": _ranges,
    "settlement: states, hand out and settle 100 in order": _states(),
    "settlement: leases, lease and settle 100": _leases(),
    "journal: append 100 KiB (reserve twice, copy once)": _journal(),
    "log: append, find, trim": _log(),
}


def measure(call: Callable[[], object], seconds: float) -> float:
    """µs per call: the best of `ROUNDS` rounds of about `seconds`."""
    calls = 1
    while True:
        began = perf_counter()
        for _ in range(calls):
            call()
        took = perf_counter() - began
        if took > seconds / 4:
            break
        calls *= 2
    best = took / calls
    for _ in range(ROUNDS - 1):
        began = perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (perf_counter() - began) / calls)
    return best * 1e6


def main() -> int:
    """Run those whose name contains an argument, all without one."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    history, kept = History(), {}
    for name, call in BENCHMARKS.items():
        if words and not any(word in name for word in words):
            continue
        best = measure(call, 0.2)
        if history.is_slower(name, best):
            best = min(best, measure(call, 0.4))
        kept[name] = best
        print(f"{best:10.2f} µs  {name:52}{history.beside(name, best)}".rstrip(), flush=True)
    if "--no-keep" not in sys.argv:
        history.keep(kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
