"""Values as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import codecs
from penstock.errors import Invalid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("body", ["é", "é".encode(), bytearray("é".encode()), memoryview("é".encode())])
def test_raw_takes_bytes_in_any_dress_and_text(body):
    assert codecs.raw.encode(body) == "é".encode()
    assert codecs.raw.decode("é".encode()) == "é".encode()


@pytest.mark.parametrize("body", [1, None, {"a": 1}])
def test_raw_refuses_values_and_names_the_codec_that_takes_them(body):
    with pytest.raises(Invalid, match=r"codecs\.json"):
        codecs.raw.encode(body)


@given(JSON)
def test_json_values_come_back_equal(value):
    assert codecs.json.decode(codecs.json.encode(value)) == value


@pytest.mark.parametrize("value", [b"bytes", float("nan"), object(), {1, 2}])
def test_what_json_cannot_hold_is_invalid(value):
    with pytest.raises(Invalid, match="JSON"):
        codecs.json.encode(value)
