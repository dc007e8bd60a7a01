"""Who is there: connections, the sessions that outlive them for a while, and which producer is whose."""

from collections.abc import Hashable

from penstock_broker.alarms import Alarms
from penstock_broker.clock import Now
from penstock_broker.deliveries import Deliveries
from penstock_broker.outputs import Close
from penstock_broker.session import Connection, Session
from penstock_protocol.errors import Stale


class Presence:
    """The connections and sessions of one node."""

    def __init__(self, deliveries: Deliveries, alarms: Alarms[Hashable], grace_ms: int) -> None:
        self._deliveries = deliveries
        self._alarms = alarms
        self._grace_ms = grace_ms
        self.connections: set[Connection] = set()
        self.sessions: dict[bytes, Session] = {}
        self._producers: dict[int, Session] = {}
        self.closing: list[Close] = []
        """Connections to be closed."""

    def connected(self, peer: object) -> Connection:
        """A socket was accepted."""
        connection = Connection(peer)
        self.connections.add(connection)
        return connection

    def join(self, connection: Connection, name: bytes, producer_id: int, client: str) -> bool:
        """HELLO: the connection is the session's from now on; True if the session was there already. An
        older connection of it is closed, and another session's producer of that id is fenced."""
        session = self.sessions.get(name)
        resumed = session is not None
        if session is None:
            session = self.sessions[name] = Session(name, producer_id, client)
        elif session.connection is not None:
            self.closing.append(Close(session.connection, "the session has a newer connection"))
            self.leave_connection(session.connection)
        session.connection = connection
        connection.session = session
        self._disclaim(session)
        session.producer_id = producer_id
        if producer_id:
            self._producers[producer_id] = session
        self._alarms.set(session, None)
        return resumed

    def _disclaim(self, session: Session) -> None:
        if self._producers.get(session.producer_id) is session:
            del self._producers[session.producer_id]

    def check_producer(self, connection: Connection, producer_id: int) -> None:
        """Raises `Stale` if a newer session claims that producer id."""
        owner = self._producers.get(producer_id)
        if owner is not None and owner is not connection.session:
            raise Stale(
                "another connection uses this producer id",
                hint="one producer id belongs to one client at a time",
            )

    def lost(self, connection: Connection, now: Now) -> None:
        """The socket is gone; its session has `session_grace` to come back."""
        self.connections.discard(connection)
        session = connection.session
        self.leave_connection(connection)
        if session is not None and session.connection is None and session.name in self.sessions:
            self._alarms.set(session, now.mono + self._grace_ms)

    def leave_connection(self, connection: Connection) -> None:
        """Nothing is handed to the connection any more, nobody waits on it."""
        connection.closed = True
        self._deliveries.forget(connection)
        session = connection.session
        if session is None or session.connection is not connection:
            return
        session.connection = None
        for subscription in session.subscriptions.values():
            subscription.queue.handout.remove(subscription)
        session.subscriptions.clear()

    def end(self, session: Session, now: Now) -> None:
        """The session is over: what it held is released."""
        self.sessions.pop(session.name, None)
        for subscription in session.subscriptions.values():
            subscription.queue.handout.remove(subscription)
        session.subscriptions.clear()
        for queue in session.queues:
            self._deliveries.release_held(session, queue, None, set(), now)
        self._disclaim(session)
        self._alarms.set(session, None)

    def part(self, connection: Connection, reason: str) -> None:
        """Close the connection behind what it was answered."""
        connection.parting = True
        self._deliveries.forget(connection)
        self.closing.append(Close(connection, reason))
