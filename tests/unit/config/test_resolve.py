"""`all_addresses`: one target for each address of a name."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from routesync.config import ConfigError, load
from routesync.config.models import Settings
from routesync.config.resolve import Resolver, look_up_and_resolve, look_up_name, target_named
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


class Answers(dict[str, tuple[str, ...]]):
    """The answers of a resolver; a name that is not among them does not exist."""

    def __call__(self, host: str) -> tuple[str, ...]:
        try:
            return self[host]
        except KeyError:
            raise OSError(-2, "Name or service not known") from None


def test_each_address_is_a_target(tmp_path: Path) -> None:
    written = settings(tmp_path)
    resolver = Resolver(Answers({"lb.example.net": ("192.0.2.1", "2001:db8::1")}))
    resolver.look_up_blocking(written.targets)
    found, troubles = resolver.resolved(written)
    assert [(it.name, it.url) for it in found.targets] == [
        ("plain", "http://192.0.2.9:11111"),
        ("edge-192.0.2.1", "http://192.0.2.1:11111"),
        ("edge-2001-db8--1", "http://[2001:db8::1]:11111"),
    ]
    assert not any(it.all_addresses for it in found.targets)
    assert troubles == ()


def test_a_certificate_is_still_checked_against_the_name(tmp_path: Path) -> None:
    written = settings(tmp_path, "https://lb.example.net:8091")
    resolver = Resolver(Answers({"lb.example.net": ("192.0.2.1",)}))
    resolver.look_up_blocking(written.targets)
    tls = resolver.resolved(written)[0].targets[1].tls
    assert tls is not None
    assert tls.server_name == "lb.example.net"


async def test_a_look_up_that_fails_keeps_the_last_answer(tmp_path: Path) -> None:
    written, answers = settings(tmp_path), Answers()
    resolver = Resolver(answers)
    await resolver.look_up(written.targets)
    found, troubles = resolver.resolved(written)
    assert [it.name for it in found.targets] == ["plain"]
    (trouble,) = troubles
    assert str(trouble) == (
        "target edge: lb.example.net does not resolve: Name or service not known; it is no target until it does"
    )
    answers["lb.example.net"] = ("192.0.2.1",)
    await resolver.look_up(written.targets)
    assert resolver.resolved(written)[1] == ()
    answers.clear()
    await resolver.look_up(written.targets)
    found, troubles = resolver.resolved(written)
    assert [it.name for it in found.targets] == ["plain", "edge-192.0.2.1"]
    assert str(troubles[0]).endswith("; its last addresses stay")


class Slow:
    """A resolver whose name servers answer for `lb` alone, until they are `back`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.back = threading.Event()

    def __call__(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        if host != "lb.example.net":
            assert self.back.wait(20)
        return ("192.0.2.1",)


SLOW = "http://slow.example.net:11111", "http://slower.example.net:11111", "http://lb.example.net:11111"


def slow_settings(tmp_path: Path) -> Settings:
    first, *others = (settings(tmp_path, url) for url in SLOW)
    targets = (
        *first.targets,
        *(it.targets[1].model_copy(update={"name": it.targets[1].url[7:9]}) for it in others),
    )
    return first.model_copy(update={"targets": targets})


def test_names_that_nobody_answers_for_delay_neither_others_nor_the_end(tmp_path: Path) -> None:
    written, slow = slow_settings(tmp_path), Slow()
    resolver = Resolver(slow)
    began = time.monotonic()
    asyncio.run(resolver.look_up(written.targets, 0.3))  # it ends the loop, too
    assert time.monotonic() - began < 5
    found, troubles = resolver.resolved(written)
    assert [it.url for it in found.targets] == ["http://192.0.2.9:11111", "http://192.0.2.1:11111"]
    assert len(troubles) == 2
    assert all("does not resolve: no answer within 0.3 s; it is no target" in str(it) for it in troubles)
    slow.back.set()


async def test_a_late_answer_is_taken_and_none_is_asked_for_twice(tmp_path: Path) -> None:
    written, slow = slow_settings(tmp_path), Slow()
    resolver = Resolver(slow)
    for _ in range(3):
        await resolver.look_up(written.targets, 0.05)
    assert slow.asked.count("slow.example.net") == slow.asked.count("slower.example.net") == 1
    slow.back.set()
    await resolver.look_up(written.targets, 20)
    found, troubles = resolver.resolved(written)
    assert len(found.targets) == 4
    assert troubles == ()


async def test_a_look_up_beside_another_one_does_not_end_its_patience(tmp_path: Path) -> None:
    written, slow = slow_settings(tmp_path), Slow()
    resolver = Resolver(slow)
    patient = asyncio.create_task(resolver.look_up(written.targets, 20))
    await resolver.look_up(written.targets, 0.05)
    slow.back.set()
    await patient
    assert resolver.resolved(written)[1] == ()


def test_a_command_waits_for_names_once(tmp_path: Path) -> None:
    found, troubles = look_up_and_resolve(settings(tmp_path, "http://localhost:11111"))
    assert "http://127.0.0.1:11111" in {it.url for it in found.targets}
    assert troubles == ()


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
