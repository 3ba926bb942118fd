"""The suite is careful with a real loxilb: links of its own, time to attach and detach, and nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.contract import ATTACH_S, DETACH_S, LINK_PREFIX, Kernel, Place, delete_routes, real_place
from support.netns import Namespace, namespace
from support.standin import running_standin


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespace("care") as made:
        made.ip("link add ens3 type veth peer name ens4")
        made.ip("addr add 192.168.10.20/24 dev ens3")
        made.ip("link set ens4 up")
        made.ip("link set ens3 up")
        yield made


@pytest.fixture
def real(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> Place:
    """What the environment may name."""
    for name, value in (("URL", "http://192.0.2.1:1"), ("GATEWAY", "192.168.10.1/24"), ("NETNS", space.name)):
        monkeypatch.setenv(f"ROUTESYNC_LOXILB_{name}", value)
    place = real_place()
    assert place is not None
    return place


def _links(space: Namespace) -> set[str]:
    return {link["ifname"] for link in json.loads(space.ip("-j link show"))}


def test_links_have_names_of_their_own_and_a_real_loxilb_gets_its_time(space: Namespace, real: Place) -> None:
    kernel, waits, names, before = Kernel(space, "192.168.10.1"), list[float](), set(), _links(space)
    for _ in range(2):
        with kernel.link(real, sleep=waits.append) as name:
            assert waits[-1] == ATTACH_S
            assert name in _links(space)
            names.add(name)
        assert waits[-1] == DETACH_S
    assert len(names) == 2
    assert all(name.startswith(LINK_PREFIX) for name in names)
    assert _links(space) == before


@pytest.mark.parametrize("moment", ["while it is waited for", "in the test"])
def test_a_link_goes_also_when_the_suite_is_interrupted(space: Namespace, real: Place, moment: str) -> None:
    kernel, before, waits = Kernel(space, "192.168.10.1"), _links(space), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1 and moment == "while it is waited for":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), kernel.link(real, sleep=sleep):
        raise KeyboardInterrupt
    assert waits == [ATTACH_S, DETACH_S]
    assert _links(space) == before


def test_what_a_killed_run_left_is_removed(space: Namespace) -> None:
    kernel, before = Kernel(space, "192.168.10.1"), _links(space)
    space.ip(f"link add {LINK_PREFIX}0123 type veth peer name {LINK_PREFIX}0123p")
    assert kernel.remove_links()
    assert _links(space) == before
    assert not kernel.remove_links()


@pytest.mark.parametrize("by_kernel", [True, False])
def test_routes_are_deleted_without_an_event_loop(space: Namespace, real: Place, *, by_kernel: bool) -> None:
    with running_standin(space, "--fragile", "off") as standin:
        space.ip("route add 198.18.0.0/24 via 192.168.10.1")
        place = real._replace(url=type(real.url)(standin.url), kernel=space if by_kernel else None)
        delete_routes(place, {"198.18.0.0/24", "198.18.1.0/24"})
        assert not space.ip("route show 198.18.0.0/24")
    if not by_kernel:
        with pytest.raises(RuntimeError, match=r"these routes are left there: \['198\.18\.2\.0/24'\]"):
            delete_routes(place, {"198.18.2.0/24"})


def test_a_variable_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUTESYNC_LOXILB_URL", raising=False)
    assert real_place() is None
    monkeypatch.setenv("ROUTESYNC_LOXILB_URL", "http://192.0.2.1:11111")
    monkeypatch.delenv("ROUTESYNC_LOXILB_GATEWAY", raising=False)
    with pytest.raises(ValueError, match="needs ROUTESYNC_LOXILB_GATEWAY beside it"):
        real_place()
