"""The addresses of all targets, for split horizon."""

from __future__ import annotations

import pytest

from routesync.mirror.targets_addresses import TargetsAddresses
from routesync.route import parse_address
from routesync.url import url_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://192.168.10.20:11111", "192.168.10.20"),
        ("https://192.168.10.20", "192.168.10.20"),
        ("http://192.168.10.20:11111/base", "192.168.10.20"),
        ("http://[2001:db8::20]:11111", "2001:db8::20"),
        ("http://[fe80::20%25e0]:11111", "fe80::20"),
        ("http://[fe80::20%e0]:11111", "fe80::20"),
        ("http://[fe80::20%25e0]", "fe80::20"),
        ("http://loxilb:11111", None),
        ("http://[broken:11111", None),
        ("nonsense", None),
    ],
)
def test_the_address_in_a_url(url: str, address: str | None) -> None:
    assert url_address(url) == (parse_address(address) if address else None)


def test_others_learn_of_an_address_that_a_targets_table_shows_and_of_its_end() -> None:
    addresses = TargetsAddresses(["http://192.0.2.20:11111"])
    calls: list[str] = []
    addresses.join("a", lambda: calls.append("a"))
    addresses.join("b", lambda: calls.append("b"))
    vip = frozenset({parse_address("20.20.20.1")})
    addresses.see("a", vip)
    assert (calls, addresses.addresses) == (["b"], vip | {parse_address("192.0.2.20")})
    addresses.see("a", vip)
    assert calls == ["b"], "nothing new"
    addresses.leave("a")
    assert (calls, addresses.addresses) == (["b", "b"], frozenset({parse_address("192.0.2.20")}))
    addresses.configure(["http://192.0.2.21:11111"])
    assert addresses.addresses == {parse_address("192.0.2.21")}
