"""What the core asks of the shell: send this, close that, run this job.

An output leaves the core only when what it says is durable in its mode; the shell may send at once.
"""

from typing import Any, NamedTuple, TypeAlias

from penstock_broker.session import Connection
from penstock_broker.storage.files import Job
from penstock_protocol.verbs import Verb


class Send(NamedTuple):
    """A reply (an `Error` for an error reply), or a push when `correlation` is 0. Payload buffers may be
    views of mapped files: hand them to the transport as they are and drop them soon. `is_last`: the request
    is answered with that."""

    connection: Connection
    verb: Verb
    correlation: int
    message: Any
    is_last: bool = True


class Close(NamedTuple):
    """Flush what was sent before, then close the socket."""

    connection: Connection
    reason: str


Output: TypeAlias = Send | Close | Job
