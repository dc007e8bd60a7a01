"""Where to connect."""

import pytest

from penstock.endpoint import endpoints
from penstock.errors import Invalid


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    monkeypatch.delenv("PENSTOCK_URL", raising=False)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)


def only(url=None, token=None):
    (endpoint,) = endpoints(url, token)
    return endpoint


def test_without_a_url_it_is_the_local_broker():
    assert (str(only()), only().tls, only().token) == ("127.0.0.1:7420", False, None)


def test_the_environment_names_the_default(monkeypatch):
    monkeypatch.setenv("PENSTOCK_URL", "penstocks://there:1")
    monkeypatch.setenv("PENSTOCK_TOKEN", "secret")
    assert (str(only()), only().tls, only().token) == ("there:1", True, "secret")


def test_a_token_given_goes_before_the_url_and_the_url_before_the_environment(monkeypatch):
    monkeypatch.setenv("PENSTOCK_TOKEN", "environment")
    assert only("penstock://in%2Furl@h", "given").token == "given"
    assert only("penstock://in%2Furl@h").token == "in/url"
    assert only("penstock://h").token == "environment"


def test_several_urls_are_tried_in_their_order():
    assert [str(each) for each in endpoints(["penstock://a", "penstock://[::1]:9"], None)] == [
        "a:7420",
        "[::1]:9",
    ]


def test_a_token_is_never_shown():
    assert "secret" not in repr(only("penstock://secret@h")) + str(only("penstock://secret@h"))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:7420",
        "http://h",
        "penstock://",
        "penstock://h:port",
        "penstock://h:99999",
        "penstock://" + "x" * 64,
        "penstock://h/namespace",
        "penstock://h?x=1",
        "penstock://user:password@h",
        [],
    ],
)
def test_anything_else_is_invalid_and_is_not_repeated(url):
    with pytest.raises(Invalid) as caught:
        endpoints(url, None)
    assert "penstock://" in caught.value.hint
    assert "password@h" not in str(caught.value)
