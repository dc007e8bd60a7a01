"""Messages of group membership: who reads a group's topics, and who of them reads which partition.

A member joins, then keeps one HEARTBEAT open at a time. It is answered when what the member may read
changes, or when its next sign of life is due. An assignment is carried out in two steps: what a member has to
give up it gives up first (callback, commit), says so by the `done` of its next HEARTBEAT, and only then is it
given to somebody else. The others go on reading meanwhile.
"""

from typing import Any, NamedTuple


class Join(NamedTuple):
    """Become a member of a group, or stay one with other topics. `topics`: names, or patterns (`*` for one
    word, `#` for any number). `instance`: a name that outlives the member; its seat is kept for the session
    timeout. Payload: a document of what the member still has in hand from an earlier membership, as in
    Assignment; empty for nothing. The reply is a document, see `Assignment`."""

    group: str
    member: bytes
    topics: tuple[str, ...]
    assignor: str
    instance: str | None
    payload: Any = b""


class Heartbeat(NamedTuple):
    """A sign of life. `seen`: the generation of the last assignment the member was told; `done`: of the last
    it has carried out. Waits until there is a newer one or the next sign of life is due. The reply is a
    document, see `Assignment`."""

    group: str
    member: bytes
    seen: int
    done: int


class Leave(NamedTuple):
    """The member gives up all it has, at once. The seat of an instance is kept for the session timeout."""

    group: str
    member: bytes


class DeleteGroup(NamedTuple):
    """Delete a group with its offsets. Refused while it has members."""

    name: str


class Assignment(NamedTuple):
    """The reply to JOIN and HEARTBEAT, as a document: a map of these. `partitions`: what the member may read,
    topic → numbers; None: what it was told in the `generation` it has seen."""

    generation: int
    heartbeat_ms: int
    session_ms: int
    partitions: dict[str, list[int]] | None
