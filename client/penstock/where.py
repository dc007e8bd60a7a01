"""Filters: which records of a topic a reader wants, as users write it and as it goes over the wire.

{"key": "eu.*", "headers": {"type": "order*", "version": 2}}     →
{"key": "eu.*", "header:type": "order*", "header:version": 2}
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from penstock.errors import Invalid
from penstock.values import Header
from penstock_protocol import where as wire


class Where(TypedDict, total=False):
    """What all records have to fit that are fetched; the broker passes over the others.

    Texts are patterns: `*` stands for any run of characters, `\\*` for a star, so `"eu.*"` is a prefix and
    `"eu.7"` exactly that. A key that is no text is matched by a pattern of bytes. Other values of headers
    are compared. A record without that key or header does not fit.
    """

    key: str | bytes
    headers: Mapping[str, Header]


def where_to_wire(where: Where | None) -> dict[str, Any] | None:
    """As a FETCH carries it. Raises `Invalid` for what cannot be asked, before it is asked."""
    if where is None:
        return None
    if not (isinstance(where, Mapping) and isinstance(where.get("headers", {}), Mapping)):
        raise Invalid(
            f"where={where!r} is no mapping of conditions",
            hint='for instance {"key": "eu.*", "headers": {"type": "order*"}}',
        )
    unknown = where.keys() - Where.__annotations__.keys()
    if unknown:
        raise Invalid(
            f"where has no {sorted(unknown)[0]!r}", hint=f"known: {', '.join(Where.__annotations__)}"
        )
    conditions: dict[str, Any] = {
        f"{wire.HEADER}{name}": value for name, value in where.get("headers", {}).items()
    }
    if "key" in where:
        conditions[wire.KEY] = where["key"]
    wire.Where(conditions)
    return conditions or None
