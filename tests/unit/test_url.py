"""Base URLs: names, addresses, zones, and what is made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.config.parsers import SettingError, parse_url
from routesync.route import parse_address
from routesync.url import BaseUrl, url_address


@pytest.mark.parametrize(
    ("text", "place", "authority", "shown"),
    [
        ("http://[fe80::1%25e0]:11111", "fe80::1%e0", "[fe80::1]:11111", "http://[fe80::1%25e0]:11111"),
        ("http://[fe80::1%e0]:11111", "fe80::1%e0", "[fe80::1]:11111", "http://[fe80::1%25e0]:11111"),
        (
            "https://[fe80::1%eth0.100]/base/",
            "fe80::1%eth0.100",
            "[fe80::1]",
            "https://[fe80::1%25eth0.100]/base",
        ),
        ("http://[fe80::1%25eth0%2E5]", "fe80::1%eth0.5", "[fe80::1]", "http://[fe80::1%25eth0.5]"),
        (
            "http://[fe80::1%25]",
            "fe80::1%25",
            "[fe80::1]",
            "http://[fe80::1%2525]",
        ),  # an index, as people write it
        ("http://[2001:db8::1]:80", "2001:db8::1", "[2001:db8::1]:80", "http://[2001:db8::1]:80"),
        ("http://LB.example.net/x", "lb.example.net", "lb.example.net", "http://lb.example.net/x"),
        ("http://192.0.2.1:11111", "192.0.2.1", "192.0.2.1:11111", "http://192.0.2.1:11111"),
    ],
)
def test_a_url_is_taken_apart(text: str, place: str, authority: str, shown: str) -> None:
    url = BaseUrl.parse(text)
    assert (url.place, url.authority, str(url)) == (place, authority, shown)
    assert BaseUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://[fe80::1%]", "its zone"),
        ("http://[fe80::1%25an-interface-name]", "its zone"),
        ("http://[fe80::1%25e%20]", "its zone"),
        ("http://[fe80::1%25e%2F0]", "its zone"),
        ("http://[2001:db8::1%25e0]", "only a link-local address"),
        ("http://[fe80::x%25e0]", "host or port"),
        ("http://[fe80::1%25e0]:99999", "host or port"),
        ("ftp://[fe80::1%25e0]", "another scheme"),
    ],
)
def test_what_is_no_url_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        BaseUrl.parse(text)
    with pytest.raises(SettingError):
        parse_url(text)


def test_the_configuration_writes_a_zone_in_one_form_and_leaves_other_urls_as_they_are() -> None:
    assert parse_url("http://[fe80::1%e0]:11111/") == "http://[fe80::1%25e0]:11111"
    assert parse_url("http://LB_1:11111/") == "http://LB_1:11111"


def test_the_address_of_a_url_has_no_zone() -> None:
    assert (
        url_address("http://[fe80::1%25e0]:11111")
        == url_address("http://[fe80::1%e0]")
        == parse_address("fe80::1")
    )
    assert url_address("http://lb:11111") is None
    assert url_address("nonsense") is None


@given(st.text(alphabet="htps:/[]%25e0fF8.@?# a1\n\u0660", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_url_or_a_complaint(text: str) -> None:
    for form in (text, f"http://[{text}]", f"http://[fe80::1%{text}]"):
        try:
            url = BaseUrl.parse(form)
        except ValueError:
            continue
        finally:
            url_address(form)
        try:
            written = parse_url(form)
        except SettingError:
            continue
        assert BaseUrl.parse(written) == url
