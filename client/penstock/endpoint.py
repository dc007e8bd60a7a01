"""Where to connect, and from where: URLs, and the only look this client takes at its environment.

`penstock://[token@]host:port`, `penstocks://` for TLS. A token never appears in a repr or an error.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from penstock_protocol.errors import Invalid

DEFAULT_URL = "penstock://127.0.0.1:7420"
DEFAULT_PORT = 7420
EXAMPLE = "write it like penstock://127.0.0.1:7420 or penstock://TOKEN@host:7420"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a broker."""

    host: str
    port: int
    tls: bool
    token: str | None = field(repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoints(url: str | Sequence[str] | None, token: str | None) -> list[Endpoint]:
    """The addresses to try, in order.

    `url` None: $PENSTOCK_URL, else penstock://127.0.0.1:7420. `token` goes before one in the URL, which
    goes before $PENSTOCK_TOKEN. Raises `Invalid` for anything that is not such a URL.
    """
    given = url if url is not None else os.environ.get("PENSTOCK_URL") or DEFAULT_URL
    urls = [given] if isinstance(given, str) else list(given)
    if not urls:
        raise Invalid("no URL to connect to", hint=EXAMPLE)
    return [_endpoint(text, token) for text in urls]


def _endpoint(url: str, token: str | None) -> Endpoint:
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError is one
        raise Invalid("the URL has no valid host and port", hint=EXAMPLE) from None
    if parts.scheme not in ("penstock", "penstocks") or not parts.hostname:
        raise Invalid("the URL does not name a Penstock broker", hint=EXAMPLE)
    if parts.password is not None:
        raise Invalid(
            "user:password@ is not supported by this release", hint="use penstock://TOKEN@host:port"
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise Invalid("the URL has something behind host:port; namespaces do not exist yet", hint=EXAMPLE)
    if token is None:
        token = unquote(parts.username) if parts.username else os.environ.get("PENSTOCK_TOKEN")
    default = DEFAULT_PORT if port is None else port
    return Endpoint(parts.hostname, default, parts.scheme == "penstocks", token or None)


def own_name() -> str:
    """What tells this process from others, for people: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"
