"""The scenarios, as data. A new feature of the broker adds rows here and, if need be, a field to `Flow`.

A scenario is one or more flows at the same time. A flow is one stream of messages: how large they are, how
they are published, who reads them. Nothing here knows how a broker is spoken to.
"""

from typing import Literal, NamedTuple

KIB = 1 << 10
MIB = 1 << 20

Kind = Literal["queue", "topic"]
Feature = Literal["", "groups", "delay", "dedup", "priority", "lz4", "zstd"]
"""What makes the messages of a queue more than plain: lanes are message groups of one queue; each is delayed
by `DELAY_SECONDS`; each has a dedup id; each lane is a priority of one queue. Or how values of a topic are
compressed; bodies of a call differ in their first and last bytes alone, so they become much smaller."""
Style = Literal["batches", "messages", "handler"]
"""How a consumer takes what arrives: whole deliveries; each body as an object of its own; one message at a
time, each settled when its handler returns."""


class Flow(NamedTuple):
    """One stream of messages, and who makes and reads it. Every default is that of the plain queue."""

    name: str = "queue"
    kind: Kind = "queue"
    size: int = KIB
    """Bytes of a body."""
    batch: int = 100
    """Messages of one publish call."""
    in_flight: int = 48
    """Publish calls of one producer that wait for their confirms; an open loop does not heed it."""
    producers: int = 1
    """Processes."""
    readers: int = 1
    """Who gets every message: a queue has one; a topic as many as there are groups."""
    consumers: int = 1
    """Processes that share the messages of one reader."""
    lanes: int = 1
    """Queues, or keys of a topic, that a producer addresses in turn, a call each; order is kept per lane."""
    partitions: int = 0
    """Of a topic; a call goes to the one that its lane names. 0: one, or with lanes some, by key."""
    feature: Feature = ""
    style: Style = "batches"
    pauses_us: tuple[int, ...] = ()
    """What reader 0, 1, … takes over each message, on purpose."""
    drain: Literal["with", "after"] = "with"
    """Whether consumers run with the producers, or begin when these are done with everything."""
    messages: int = 2_000_000
    """To measure, of all producers."""
    warm_up: int = 500_000
    """Before that; the same way, verified, not measured."""
    rate: float | None = None
    """Messages per second of all producers, on a schedule that nothing slows down (an open loop); None: as
    fast as confirms come (a closed loop)."""


class Scenario(NamedTuple):
    """What `penstock loadtest NAME` runs."""

    name: str
    about: str
    flows: tuple[Flow, ...] = (Flow(),)
    idle: int = 0
    """Connections that do nothing: everything is measured without and then with them."""
    bare: bool = False
    """Compare with the machine alone, measured before and after: a bare fdatasync and a bare loopback echo;
    of an open loop, a block made durable at each instant of its schedule."""
    long: bool = False
    """Runs only when it is named."""


DELAY_SECONDS = 0.5
TOPIC = Flow("topic", "topic", in_flight=36)  # of 103 KiB each: within a connection's publish credit, 4 MiB
HOT = TOPIC._replace(drain="after", messages=300_000, warm_up=100_000)
ALONE = Flow(batch=1, in_flight=1, drain="after", messages=10_000, warm_up=1_000)
PACED = Flow(batch=1, rate=1_000, messages=20_000, warm_up=2_000)
AWAITED = Flow(batch=1, in_flight=1_000, style="handler", messages=600_000, warm_up=100_000)
IN_TURN = AWAITED._replace(lanes=1_000, style="batches", messages=300_000)
BACKLOG = Flow(size=100, batch=1_000, drain="after", messages=20_000_000, warm_up=200_000)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("queue", "1 KiB in hundreds through one queue"),
        Scenario(
            "queue-100b",
            "100 B in two hundreds through one queue",
            (Flow(size=100, batch=200, messages=8_000_000, warm_up=2_000_000),),
        ),
        Scenario(
            "queue-messages", "the same as queue, every body taken by itself", (Flow(style="messages"),)
        ),
        Scenario("topic", "1 KiB in hundreds through one topic, one group", (TOPIC,)),
        Scenario(
            "topic-produce",
            "1 KiB in hundreds into a topic; fetched when all is in",
            (TOPIC._replace(drain="after", messages=1_000_000),),
        ),
        Scenario(
            "topic-steady",
            "the same when the journal has grown to its size and its files are used again",
            (TOPIC._replace(drain="after", warm_up=1_500_000),),
        ),
        Scenario("topic-lz4", "topic, its values compressed by lz4", (TOPIC._replace(feature="lz4"),)),
        Scenario("topic-zstd", "topic, its values compressed by zstd", (TOPIC._replace(feature="zstd"),)),
        Scenario(
            "topic-records",
            "the same as topic-produce, fetched record by record",
            (TOPIC._replace(style="messages", drain="after", messages=1_000_000),),
        ),
        Scenario("topic-hot", "topic-produce, all of it fetched from the journal", (HOT,)),
        Scenario(
            "topic-hot-records", "the same, fetched record by record", (HOT._replace(style="messages"),)
        ),
        Scenario(
            "topic-latency",
            "single records at 1,000/s",
            (PACED._replace(name="topic", kind="topic"),),
            bare=True,
        ),
        Scenario(
            "topic-partitions",
            "calls of one hundred to each of 1,000 partitions in turn",
            (TOPIC._replace(lanes=1_000, partitions=1_000),),
        ),
        Scenario(
            "topic-partitions-produce",
            "the same, fetched when all is in",
            (TOPIC._replace(lanes=1_000, partitions=1_000, drain="after", messages=1_000_000),),
        ),
        Scenario(
            "topic-catch-up",
            "4 million × 1 KiB in, then out: most of it from segments",
            (TOPIC._replace(drain="after", messages=4_000_000),),
            long=True,
        ),
        Scenario("fan-out", "one topic, three groups read all of it", (TOPIC._replace(readers=3),)),
        Scenario(
            "fan-out-50",
            "one topic at 2,000/s, fifty groups at its end",
            (TOPIC._replace(readers=50, batch=20, rate=2_000, messages=40_000, warm_up=4_000),),
            long=True,
        ),
        Scenario(
            "mixed",
            "a queue, a topic with keys and small awaited messages, all at fixed rates",
            (
                Flow("jobs", rate=20_000, messages=400_000, warm_up=40_000),
                TOPIC._replace(name="events", lanes=64, rate=20_000, messages=400_000, warm_up=40_000),
                PACED._replace(name="mails", size=200, style="handler"),
            ),
        ),
        Scenario(
            "many-queues",
            "calls of one hundred to each of 1,000 queues in turn",
            (Flow(lanes=1_000),),
        ),
        Scenario("many-queues-in-turn", "one message to each of 1,000 queues in turn", (IN_TURN,)),
        Scenario(
            "message-groups",
            "single messages of 1,000 message groups through one queue",
            (AWAITED._replace(feature="groups", lanes=1_000, in_flight=3_000, style="batches"),),
        ),
        Scenario(
            "delayed",
            f"1 KiB in hundreds, each delayed by {DELAY_SECONDS} s",
            (Flow(feature="delay", messages=600_000, warm_up=100_000),),
        ),
        Scenario(
            "dedup",
            "1 KiB in hundreds, each with a dedup id",
            (Flow(feature="dedup", messages=600_000, warm_up=100_000),),
        ),
        Scenario(
            "priority",
            "single messages of ten priorities through one queue",
            (AWAITED._replace(feature="priority", lanes=10, style="batches"),),
        ),
        Scenario(
            "large",
            "bodies of 1 MiB",
            (Flow(size=MIB, batch=1, in_flight=8, messages=4_000, warm_up=400),),
        ),
        Scenario(
            "slow-consumer",
            "two groups at 10,000/s, one of which manages half of that",
            (TOPIC._replace(readers=2, pauses_us=(0, 200), rate=10_000, messages=200_000, warm_up=10_000),),
        ),
        Scenario("latency", "single messages at 1,000/s", (PACED,), bare=True),
        Scenario("one-at-a-time", "one caller, the next message after the confirm", (ALONE,), bare=True),
        Scenario(
            "awaited",
            "one await per message from 1,000 tasks, a handler per message",
            (AWAITED,),
        ),
        Scenario(
            "awaited-alone",
            "the same, consumed when all is in",
            (AWAITED._replace(drain="after"),),
        ),
        Scenario("backlog", "20 million × 100 B in, then out", (BACKLOG,), long=True),
        Scenario(
            "backlog-1k",
            "5 million × 1 KiB in, then out",
            (BACKLOG._replace(size=KIB, batch=100, messages=5_000_000),),
            long=True,
        ),
        Scenario(
            "idle-connections", "latency beside 10,000 idle connections", (PACED,), idle=10_000, long=True
        ),
        Scenario(
            "soak",
            "an hour at a steady rate; memory and descriptors are watched",
            (Flow(rate=20_000, messages=72_000_000, warm_up=200_000),),
            long=True,
        ),
    )
}


def scaled(scenario: Scenario, scale: float) -> Scenario:
    """The scenario with that part of its messages and idle connections, at least one call of each lane."""
    return scenario._replace(
        flows=tuple(
            flow._replace(
                messages=_calls(flow.messages * scale, flow, least=1),
                warm_up=_calls(flow.warm_up * scale, flow, least=0),
            )
            for flow in scenario.flows
        ),
        idle=round(scenario.idle * scale),
    )


def _calls(messages: float, flow: Flow, *, least: int) -> int:
    step = flow.batch * flow.producers
    return max(least, round(messages / step)) * step
