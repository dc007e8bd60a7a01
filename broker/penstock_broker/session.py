"""A connection is a socket's side of the core; a session is what outlives a lost socket for a while.

Both are plain state: who is there, what they may still send, what they hold. The rules are in the
handlers and machines that use them.
"""

from typing import Any

from penstock_broker.queues.handout import Subscription


class Connection:
    """One socket as the core knows it. `peer` is the shell's handle and opaque here."""

    __slots__ = (
        "blocked",
        "closed",
        "documents",
        "parting",
        "peer",
        "position",
        "published",
        "requests",
        "session",
        "waits",
        "written",
    )

    def __init__(self, peer: object) -> None:
        self.peer = peer
        self.session: Session | None = None
        self.blocked = False
        """The socket's write buffer is over its mark: nothing with payload is handed out to it."""
        self.closed = False
        self.parting = False
        """It will be closed: replies still go out, requests are not looked at."""
        self.position = 0
        """What its latest delivery waits for to be durable: the next one does not leave before."""
        self.written = 0
        """The same of queues in a weaker mode, whose deliveries wait for it to be written."""
        self.requests = 0
        """Requests without a reply yet."""
        self.published = 0
        """Bytes of publishes without a confirm yet."""
        self.documents = 0
        """Bytes of descriptions and listings that were not sent yet."""
        self.waits: dict[int, tuple[Any, Any]] = {}
        """Parked requests by correlation id, for CANCEL: the queue or partition, and what waits there; None
        while a part of the answer is on its way, behind which the request waits on."""

    def behind(self, position: int, within: int) -> int:
        """What a delivery waits for that depends on `position`: what those before it wait for, too."""
        if within:
            self.written = max(self.written, position)
            return self.written
        self.position = max(self.position, position)
        return self.position


class Session:
    """A client's presence: named in HELLO, ended by GOODBYE or `session_grace` after its socket was lost."""

    __slots__ = ("client", "connection", "groups", "name", "producer_id", "queues", "subscriptions")

    def __init__(self, name: bytes, producer_id: int, client: str) -> None:
        self.name = name
        self.producer_id = producer_id
        self.client = client
        self.connection: Connection | None = None
        self.subscriptions: dict[int, Subscription] = {}
        self.queues: dict[Any, None] = {}
        """Queues in which it may hold leases, in the order of its first subscription there."""
        self.groups: dict[str, None] = {}
        """Consumer groups it may have members in."""
