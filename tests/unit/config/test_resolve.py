"""`all_addresses`: one target for each address of a name."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from routesync.config import ConfigError, load
from routesync.config.models import Settings
from routesync.config.resolve import Known, has_names, look_up_name, resolved, target_named
from routesync.names import Names

TEXT = """\
[[targets]]
name = "plain"
url = "http://192.0.2.9:11111"

[[targets]]
name = "edge"
url = "{url}"
all_addresses = true
"""


def settings(tmp_path: Path, url: str = "http://lb.example.net:11111", name: str = "edge") -> Settings:
    file = tmp_path / "routesync.toml"
    file.write_text(TEXT.format(url=url).replace("edge", name))
    return load(file, {}, Names()).settings


def refused(_host: str) -> tuple[str, ...]:
    raise OSError(-2, "Name or service not known")


def test_each_address_is_a_target(tmp_path: Path) -> None:
    written = settings(tmp_path)
    assert has_names(written)
    found, troubles = resolved(written, {}, lambda _: ("192.0.2.1", "2001:db8::1"))
    assert [(it.name, it.url) for it in found.targets] == [
        ("plain", "http://192.0.2.9:11111"),
        ("edge-192.0.2.1", "http://192.0.2.1:11111"),
        ("edge-2001-db8--1", "http://[2001:db8::1]:11111"),
    ]
    assert not has_names(found)
    assert troubles == ()


def test_a_certificate_is_still_checked_against_the_name(tmp_path: Path) -> None:
    found, _ = resolved(settings(tmp_path, "https://lb.example.net:8091"), {}, lambda _: ("192.0.2.1",))
    tls = found.targets[1].tls
    assert tls is not None
    assert tls.server_name == "lb.example.net"


def test_a_look_up_that_fails_keeps_the_last_answer(tmp_path: Path) -> None:
    known: Known = {}
    written = settings(tmp_path)
    found, troubles = resolved(written, known, refused)
    assert [it.name for it in found.targets] == ["plain"]
    (trouble,) = troubles
    assert str(trouble) == (
        "target edge: lb.example.net does not resolve: Name or service not known; it is no target until it does"
    )
    resolved(written, known, lambda _: ("192.0.2.1",))
    found, troubles = resolved(written, known, refused)
    assert [it.name for it in found.targets] == ["plain", "edge-192.0.2.1"]
    assert str(troubles[0]).endswith("; its last addresses stay")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["fd00::9", "10.244.0.9", "10.244.0.8"], ("10.244.0.8", "10.244.0.9")),  # a dual-stack Service
        (["fd00::9", "fd00::8", "fe80::1%eth0"], ("fd00::8", "fd00::9")),
    ],
)
def test_a_pod_with_an_address_of_each_family_is_one_target(
    monkeypatch: pytest.MonkeyPatch, found: list[str], expected: tuple[str, ...]
) -> None:
    answer = [(None, None, 0, "", (address, 0)) for address in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: answer)
    assert look_up_name("pods.example.net") == expected


def test_the_resolver_of_the_host_is_asked() -> None:
    assert "127.0.0.1" in look_up_name("localhost")
    with pytest.raises(OSError, match=r"not known|failure"):
        look_up_name("nowhere.invalid")


def test_a_name_that_has_only_addresses_with_a_zone_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", 0, 0, 2))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(OSError, match="link-local addresses only"):
        look_up_name("lb")


@pytest.mark.parametrize(
    ("url", "name", "said"),
    [
        (
            "http://192.0.2.1",
            "edge",
            "the URL has an address, which resolves to nothing else; write a host's name",
        ),
        ("http://lb.example.net", "e" * 24, "the target's name has more than 23 characters"),
    ],
)
def test_what_cannot_have_several_addresses(tmp_path: Path, url: str, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, url, name)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("plain", "http://192.0.2.9:11111"),
        ("edge", "http://lb.example.net:11111"),
        ("edge-192.0.2.1", "http://192.0.2.1:11111"),
        ("edge-2001-db8--1", "http://[2001:db8::1]:11111"),
        ("edge-lb2", None),
        ("edge-", None),
        ("plain-192.0.2.1", None),
        ("other", None),
    ],
)
def test_an_address_is_found_by_its_name_without_a_look_up(
    name: str, url: str | None, tmp_path: Path
) -> None:
    found = target_named(settings(tmp_path), name)
    assert (found and found.url) == url
    assert found is None or found.name == name
