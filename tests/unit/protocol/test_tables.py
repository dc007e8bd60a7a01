"""Errors and verbs: each table is whole, consistent, and what the documentation is made of."""

import pytest

from penstock_protocol import errors, limits, verbs
from penstock_protocol.errors import TABLE, Error, Refused, from_wire
from penstock_protocol.messages.session import Cancel, Hello, Welcome

ALONE = {
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, Error) and not cls.code and cls not in (Error, Refused)
}


@pytest.mark.parametrize("cls", TABLE.values(), ids=lambda cls: cls.__name__)
def test_error_survives_the_way(cls: type[Error]) -> None:
    made = cls("what happened", retry_after=0.25, detail={"start": 1})
    back = from_wire(made.code, made.message, made.hint, 250, made.detail)
    assert type(back) is cls
    assert vars(back) == vars(made)
    assert isinstance(back, Refused)


@pytest.mark.parametrize("cls", [*TABLE.values(), *ALONE], ids=lambda cls: cls.__name__)
def test_error_says_what_it_means_and_what_to_do(cls: type[Error]) -> None:
    assert cls.__doc__
    assert cls.advice != Error.advice
    assert str(cls("what happened")) == f"what happened ({cls.advice})"
    assert cls("what happened", hint="do this").hint == "do this"


def test_error_codes_are_dense_and_unique() -> None:
    assert sorted(TABLE) == list(range(1, len(TABLE) + 1))
    assert all(cls.code == code for code, cls in TABLE.items())


def test_taken_error_code_is_refused() -> None:
    with pytest.raises(AssertionError, match="code 1 is taken"):
        type("Again", (Refused,), {"code": 1})


def test_unknown_error_code_is_a_plain_refusal() -> None:
    error = from_wire(250, "new trouble", "update", None, {})
    assert type(error) is Refused
    assert (error.message, error.hint, error.retry_after, error.retriable) == (
        "new trouble",
        "update",
        None,
        False,
    )


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.Disconnected, ConnectionError)
    assert issubclass(errors.Timeout, TimeoutError)
    assert not issubclass(errors.OutcomeUnknown, Refused)
    assert not issubclass(errors.ProtocolError, Error)


def test_error_documentation_has_a_row_for_every_error() -> None:
    rows = errors.markdown().splitlines()
    assert len(rows) == 2 + len(TABLE)
    for code, cls in TABLE.items():
        assert any(
            row.startswith(f"| {code} | {cls.__name__} | {'yes' if cls.retriable else 'no'} |")
            for row in rows
        )


def test_verb_codes_and_requests_are_unique() -> None:
    assert (
        len(verbs.BY_CODE)
        == len(verbs.BY_REQUEST)
        == len({verb.name for verb in verbs.VERBS})
        == len(verbs.VERBS)
    )


@pytest.mark.parametrize("verb", verbs.VERBS, ids=lambda verb: verb.name)
def test_verb_row_is_whole(verb: verbs.Verb) -> None:
    assert 0 < verb.code < 256
    assert verb.code not in (48, 49, 120)
    assert verb.since == 1
    assert verb.permission == "none" or verb.permission.partition(":")[0] in ("queue", "topic", "group")
    assert bool(verb.handler) != verb.pushed
    assert verb.handler.count(".") == (not verb.pushed)


def test_handshake_and_cancel_are_where_the_link_looks_for_them() -> None:
    assert verbs.BY_CODE[1].request is Hello
    assert verbs.BY_CODE[1].reply is Welcome
    assert verbs.BY_CODE[2].name == "PING"
    assert verbs.BY_REQUEST[Cancel].reply is None


def test_verb_documentation_has_a_row_for_every_verb() -> None:
    rows = verbs.markdown().splitlines()
    assert len(rows) == 2 + len(verbs.VERBS)
    assert all(
        f"| {verb.code} | {verb.name} | {verb.request.__name__} |" in rows[i]
        for i, verb in enumerate(verbs.VERBS, 2)
    )


def test_limits_fit_into_one_another() -> None:
    assert limits.BATCH_BYTES_MAX + limits.BATCH_OVERHEAD_BYTES_MAX < limits.FRAME_BYTES_MAX
    assert limits.MESSAGE_BYTES_MAX_DEFAULT <= limits.MESSAGE_BYTES_MAX
    assert (
        limits.MESSAGE_BYTES_MAX + limits.BATCH_OVERHEAD_BYTES_MAX + limits.FIELDS_BYTES_MAX
        < limits.FRAME_BYTES_MAX
    )
    assert limits.FIELDS_STRING_BYTES_MAX < limits.FIELDS_BYTES_MAX
    assert limits.KEY_BYTES_MAX + limits.HEADERS_BYTES_MAX < limits.BATCH_OVERHEAD_BYTES_MAX
    assert limits.RANGES_MAX * 24 < limits.FRAME_BYTES_MAX
    assert limits.SLICES_MAX * 80 < limits.FRAME_BYTES_MAX
    assert limits.FRAME_BYTES_MAX_BEFORE_HELLO < limits.FIELDS_BYTES_MAX
