"""Histories told by hand, for the tests of the checker."""

from collections.abc import Callable
from typing import Any

from tests.sim.history import Record, Recorder

LEASE, BACKOFF = 30.0, 60.0
PLAIN_FEATURES: Record = {
    "delay": 0.0,
    "ttl": None,
    "on_expiry": "drop",
    "dedup_window": 300.0,
    "job_scope": "done",
    "priority_ageing": None,
    "overflow": "reject",
    "fair": False,
    "group_concurrency": None,
    "group_failure": "block",
}
"""Of a queue that has features, and uses none."""
Pair = tuple[int, int]


class Story:
    """A history told step by step; a second passes with every record."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = 0.0
        self._processes: dict[str, Recorder] = {}

    def time(self) -> float:
        self.now += 1
        return self.now

    def by(self, process: str) -> Recorder:
        found = self._processes.get(process)
        if found is None:
            found = self._processes[process] = Recorder(process, self.time, self.records.append)
        return found

    def op(self, f: str, answer: Record | str, *, by: str = "p", **asked: Any) -> None:
        """One operation; `answer` "refused" or "unknown" ends it so."""
        process = self.by(by)
        op = process.invoke(f, **asked)
        if isinstance(answer, dict):
            process.ok(op, **answer)
        else:
            getattr(process, answer)(op, "said so")

    def note(self, f: str, *, by: str = "p", **fields: Any) -> None:
        self.by(by).note(f, **fields)

    # queues

    def settings(self, queue: str = "q", **changed: Any) -> None:
        limits: Record = {"max_attempts": 3, "max_deliveries": 10, "dead_letter": "dead"}
        self.note("settings", queue=queue, lease=LEASE, backoff=BACKOFF, **(limits | changed))

    def features(self, queue: str = "q", dead: str | None = "dead", **changed: Any) -> None:
        """A queue with features; where its dead letters go has none but that."""
        self.settings(queue, dead_letter=dead, special=PLAIN_FEATURES | changed)

    def enqueue(
        self, *values: str, first: int = 0, answer: str = "ok", queue: str = "q", **asked: Any
    ) -> None:
        """`traits`: of all of them; `twins`: offsets of what the first of them are duplicates of."""
        traits, twins = asked.pop("traits", None), asked.pop("twins", ())
        if traits is not None:
            asked["traits"] = [traits] * len(values)
        said: Record = {"first": first}
        if twins:
            said["exceptions"] = [[number, 1, offset] for number, offset in enumerate(twins)]
        answered = said if answer == "ok" else answer
        self.op("enqueue", answered, queue=queue, values=list(values), **asked)

    def receive(self, *messages: Record, queue: str = "q", by: str = "c", wait: float = 0.0) -> None:
        self.op("receive", {"messages": list(messages)}, by=by, queue=queue, wait=wait)

    def settle(self, f: str, *pairs: Pair, answer: str = "ok", stale: bool = False, **asked: Any) -> None:
        asked = {"queue": "q", "by": "c"} | ({"delay": 0.0} if f == "nack" else {}) | asked
        said: Record = {"stale": list(pairs) if stale else []}
        self.op(f, said if answer == "ok" else answer, messages=list(pairs), **asked)

    def reply(self, pair: Pair, *values: str, to: str, answer: str = "ok") -> None:
        self.settle("reply", pair, answer=answer, to=to, values=list(values))

    def transfer(self, to: str | None, state: str = "ready", *, queue: str = "q", answer: str = "ok") -> None:
        said: Record | str = {"messages": 1} if answer == "ok" else answer
        self.op("transfer", said, queue=queue, to=to, state=state)

    def reschedule(self, offset: int, at: float | None) -> None:
        self.op("reschedule", {"found": True}, queue="q", offset=offset, at=at)

    def stats(self, **changed: int) -> None:
        said = dict.fromkeys(("ready", "delayed", "in_flight", "waiting", "settled", "total"), 0)
        self.op("stats", said | changed, queue="q")

    def drained(self, *queues: str) -> None:
        for queue in queues or ("q",):
            self.note("drained", queue=queue)

    # logs and groups

    def produce(
        self, *values: str, first: int = 0, answer: str = "ok", log: str = "t/0", **asked: Any
    ) -> None:
        said: Record | str = {"first": first} if answer == "ok" else answer
        self.op("produce", said, log=log, values=list(values), **asked)

    def fetch(
        self,
        offset: int,
        *values: str | None,
        end: int | None = None,
        first: int | None = None,
        log: str = "t/0",
        **said: int,
    ) -> None:
        begin = offset if first is None else first
        records = [[begin + i, value] for i, value in enumerate(values)]
        answer = {"records": records, "end": begin + len(values) if end is None else end, **said}
        self.op("fetch", answer, by="c", log=log, offset=offset)

    def poll(self, *records: tuple[int, str], assignment: int = 1) -> None:
        answer = {"records": [list(record) for record in records]}
        self.op("poll", answer, by="c", log="t/0", group="g", assignment=assignment)

    def commit(self, offset: int, *, answer: str = "ok", generation: int = 0, by: str = "c") -> None:
        asked = {"log": "t/0", "group": "g", "offset": offset, "generation": generation}
        self.op("commit", {} if answer == "ok" else answer, by=by, **asked)

    def committed(self, offset: int | None) -> None:
        self.op("committed", {"offset": offset}, by="c", log="t/0", group="g")


def message(
    value: str | None, offset: int, token: int, *, attempt: int = 1, delivery: int = 1, **other: Any
) -> Record:
    """One message of a delivery."""
    said = {"value": value, "offset": offset, "token": token, "attempt": attempt, "delivery": delivery}
    return {"redelivered": delivery > 1, "lease": LEASE, **said, **other}


def once(value: str, offset: int) -> Record:
    """One message that is settled as it is delivered."""
    return message(value, offset, 0) | {"once": True, "lease": 0.0}


def told(*tries: str, queue: str = "q", offset: int = 0) -> Record:
    """The history that comes with a message."""
    attempts = [["c", 0, 0, outcome, None] for outcome in tries]
    return {"queue": queue, "offset": offset, "first_at": 0, "reason": "max_attempts", "attempts": attempts}


Tale = Callable[[Story], None]
BAD: list[tuple[str, Tale]] = []
GOOD: list[Tale] = []


def bad(anomaly: str) -> Callable[[Tale], Tale]:
    """A tale in which the checker must find this anomaly and no other."""

    def keep(tale: Tale) -> Tale:
        BAD.append((anomaly, tale))
        return tale

    return keep


def good(tale: Tale) -> Tale:
    """A tale in which the checker must find nothing."""
    GOOD.append(tale)
    return tale


def title(tale: Tale) -> str:
    """Its name as a sentence."""
    return tale.__name__.replace("_", " ")
