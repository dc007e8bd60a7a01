"""Consumers as the application sees them: of one topic, whose partitions are numbers, and of several."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar

from penstock.errors import Invalid
from penstock.handover import Callback
from penstock.pacing import Rate
from penstock.plan import Assignor, Plan
from penstock.record_consumer import RecordConsumer
from penstock.span import Start, Until
from penstock.values import TopicPartition
from penstock.where import Where, where_to_wire

if TYPE_CHECKING:
    from penstock.client import Client
    from penstock.codecs import Codec
    from penstock.topic import Topic

T = TypeVar("T")

OnNumbers: TypeAlias = Callable[[Sequence[int]], Awaitable[object] | object]
"""Called with partitions; what it returns is awaited if it can be."""


class ConsumerOptions(TypedDict, total=False):
    """Options of every consumer (defaults in brackets)."""

    start: Start | int  # where a partition without a committed offset begins; int: that offset ["earliest"]
    auto_commit: bool  # commit finished records every 5 s or 1,000, on clean exit, before a hand-over [False]
    rate: Rate | None  # records per second, or "recorded": with the pauses of their appends [None: no limit]
    where: Where | None  # only records that fit; the broker passes over the others [None: all]
    instance: str | None  # a name whose seat is kept while its process restarts [None]
    assignor: Assignor  # how partitions are shared out; what most members ask for counts ["sticky"]


class TopicConsumerOptions(ConsumerOptions, total=False):
    """Options of `Topic.consumer`."""

    partitions: Sequence[int] | None  # read just these, and be no member of the group [None]
    until: Until | Mapping[int, int] | None  # where to end: "now", an instant, or offsets by partition [None]
    on_assigned: OnNumbers | None  # called with partitions before they are read [None]
    on_revoked: OnNumbers | None  # called with partitions before they are given away [None]


class TopicsConsumerOptions(ConsumerOptions, total=False):
    """Options of `Client.consumer`."""

    until: Until | Mapping[TopicPartition, int] | None  # as above
    on_assigned: Callback | None  # as above
    on_revoked: Callback | None  # as above


class TopicConsumer(RecordConsumer[T, int]):
    """`async with topic.consumer(group) as c: async for record in c: …`, see `Topic.consumer`."""

    def __init__(self, topic: "Topic[T]", group: str | None, options: TopicConsumerOptions) -> None:
        _check_known(options, TopicConsumerOptions)
        name, partitions, until = topic.name, options.get("partitions"), options.get("until")
        ends: Until | Mapping[TopicPartition, int] | None
        if isinstance(until, Mapping):
            ends = {TopicPartition(name, each): offset for each, offset in until.items()}
        else:
            ends = until
        plan = Plan(
            group=group,
            topics=(name,),
            partitions=None if partitions is None else tuple(TopicPartition(name, n) for n in partitions),
            until=ends,
            on_assigned=_with_numbers(options.get("on_assigned")),
            on_revoked=_with_numbers(options.get("on_revoked")),
            **_common(options),
        )
        super().__init__(topic.client, plan, lambda _: topic)
        self._topic_name = name

    def _shown(self, place: TopicPartition) -> int:
        return place.partition

    def _meant(self, place: int) -> TopicPartition:
        return TopicPartition(self._topic_name, place)


class TopicsConsumer(RecordConsumer[T, TopicPartition]):
    """`async with client.consumer(group, topics=[…]) as c: …`, see `Client.consumer`."""

    def __init__(
        self,
        client: "Client",
        group: str,
        topics: Sequence[str],
        codec: "Codec[T]",
        options: TopicsConsumerOptions,
    ) -> None:
        if isinstance(topics, str):
            raise Invalid(f"topics={topics!r} is no list of names and patterns", hint=f"topics=[{topics!r}]")
        _check_known(options, TopicsConsumerOptions)
        plan = Plan(
            group=group,
            topics=tuple(dict.fromkeys(topics)),
            partitions=None,
            until=options.get("until"),
            on_assigned=options.get("on_assigned"),
            on_revoked=options.get("on_revoked"),
            **_common(options),
        )
        handles: dict[str, Topic[T]] = {}

        def topic_of(name: str) -> "Topic[T]":
            if name not in handles:
                handles[name] = client.topic(name, codec=codec)
            return handles[name]

        super().__init__(client, plan, topic_of)

    def _shown(self, place: TopicPartition) -> TopicPartition:
        return place

    def _meant(self, place: TopicPartition) -> TopicPartition:
        return TopicPartition(*place)


def _check_known(options: Mapping[str, Any], known: type) -> None:
    """Raises `Invalid` for an option that there is not: a mistyped `auto_commit` would commit nothing."""
    unknown = options.keys() - known.__annotations__.keys()
    if unknown:
        names = ", ".join(sorted(known.__annotations__))
        raise Invalid(f"a consumer has no option {min(unknown)!r}", hint=f"known: {names}")


class _Common(TypedDict):
    start: Start | int
    auto_commit: bool
    rate: Rate | None
    where: dict[str, Any] | None
    instance: str | None
    assignor: Assignor


def _common(options: ConsumerOptions) -> _Common:
    return {
        "start": options.get("start", "earliest"),
        "auto_commit": options.get("auto_commit", False),
        "rate": options.get("rate"),
        "where": where_to_wire(options.get("where")),
        "instance": options.get("instance"),
        "assignor": options.get("assignor", "sticky"),
    }


def _with_numbers(callback: OnNumbers | None) -> Callback | None:
    if callback is None:
        return None
    return lambda places: callback(tuple(place.partition for place in places))
