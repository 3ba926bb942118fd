"""What a witness concludes from the routes of loxilb's kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from routesync.mirror.witness import Witness
from routesync.route import Evaluated, Prefix, parse_address
from support.loxilb_model import LoxilbModel

P, P6 = Prefix.parse("10.1.0.0/24"), Prefix.parse("2001:db8:1::/48")
GATEWAY, OTHER = parse_address("192.168.10.1"), parse_address("192.168.10.2")
GATEWAY6, OTHER6 = parse_address("fd00:10::1"), parse_address("fd00:10::2")


def seen(model: LoxilbModel) -> Witness:
    witness = Witness("lb", "somewhere")
    for prefix in (P, P6):
        witness._seen[prefix] = tuple(
            Evaluated(candidate.route.attributes, candidate.verdict)
            for candidate in (route.as_candidate() for route in model.kernel(prefix))
        )
    return witness


def post(lb: LoxilbModel) -> bool:
    return lb.post(P, GATEWAY, 0).status == lb.post(P6, GATEWAY6, 0).status == 200


Programme = Callable[[LoxilbModel], object]
PROGRAMMES: dict[str, tuple[Programme, Prefix, bool]] = {
    "ours alone, IPv4": (post, P, True),
    "ours alone, IPv6": (post, P6, True),
    "nothing": (lambda _lb: None, P, False),
    "IPv4, another metric": (lambda lb: (post(lb), lb.foreign_add(P, OTHER, now=0, metric=100)), P, True),
    "IPv4, another in front": (
        lambda lb: (post(lb), lb.foreign_add(P, OTHER, now=0, how="prepend")),
        P,
        False,
    ),
    "IPv4, another behind": (lambda lb: (post(lb), lb.foreign_add(P, OTHER, now=0, how="append")), P, False),
    "IPv4, replaced": (lambda lb: (post(lb), lb.foreign_replace(P, OTHER, now=0)), P, False),
    "IPv4, the same gateway by another": (
        lambda lb: lb.foreign_add(P, GATEWAY, now=0, protocol="dhcp"),
        P,
        False,
    ),
    "IPv4, ours lost, another metric": (
        lambda lb: lb.foreign_add(P, GATEWAY, now=0, metric=100, protocol="static"),
        P,
        False,
    ),
    "IPv6, a lower metric": (lambda lb: (post(lb), lb.foreign_add(P6, OTHER6, now=0, metric=20)), P6, False),
    "IPv6, a higher metric": (
        lambda lb: (post(lb), lb.foreign_add(P6, OTHER6, now=0, metric=2000)),
        P6,
        True,
    ),
    "IPv6, one route of two hops": (
        lambda lb: (post(lb), lb.foreign_add(P6, OTHER6, now=0, how="append")),
        P6,
        False,
    ),
    "IPv6, ours lost, a lower metric": (
        lambda lb: lb.foreign_add(P6, GATEWAY6, now=0, metric=100, protocol="static"),
        P6,
        False,
    ),
}


@pytest.mark.parametrize(("programme", "prefix", "alone"), PROGRAMMES.values(), ids=PROGRAMMES)
def test_only_ours_means_that_delete_takes_ours(programme: Programme, prefix: Prefix, *, alone: bool) -> None:
    model = LoxilbModel()
    programme(model)
    gateway = GATEWAY if prefix is P else GATEWAY6
    assert seen(model).only_ours(prefix, gateway) is alone
    assert not seen(model).only_ours(prefix, OTHER if prefix is P else OTHER6)
    if alone:
        model.delete(prefix, 0)
        assert not model.taken_from_others


MAY_BE_OURS: dict[str, tuple[Programme, Prefix, bool]] = {
    "ours, IPv4": (post, P, True),
    "ours, IPv6": (post, P6, True),
    "nothing": (lambda _lb: None, P, False),
    "IPv4, another in front": (
        lambda lb: (post(lb), lb.foreign_add(P, OTHER, now=0, how="prepend")),
        P,
        True,
    ),
    "IPv4, replaced by the same gateway": (
        lambda lb: (post(lb), lb.foreign_replace(P, GATEWAY, now=0, protocol="bgp")),
        P,
        False,
    ),
    "IPv4, replaced by two hops": (
        lambda lb: (post(lb), lb.foreign_replace(P, GATEWAY, OTHER, now=0, protocol="static")),
        P,
        False,
    ),
    "IPv4, the same gateway with another metric": (
        lambda lb: lb.foreign_add(P, GATEWAY, now=0, metric=100, protocol="static"),
        P,
        False,
    ),
    "IPv6, replaced by the same gateway": (
        lambda lb: (post(lb), lb.foreign_replace(P6, GATEWAY6, now=0, protocol="bgp")),
        P6,
        False,
    ),
    "IPv6, a hop of another appended": (
        lambda lb: (post(lb), lb.foreign_add(P6, OTHER6, now=0, how="append")),
        P6,
        True,
    ),
    "IPv6, ours appended to another's": (
        lambda lb: (
            lb.foreign_add(P6, OTHER6, now=0, protocol="bgp"),
            lb.foreign_add(P6, GATEWAY6, now=0, how="append"),
        ),
        P6,
        True,
    ),
}


@pytest.mark.parametrize(("programme", "prefix", "may_be"), MAY_BE_OURS.values(), ids=MAY_BE_OURS)
def test_what_may_be_ours_is_held(programme: Programme, prefix: Prefix, *, may_be: bool) -> None:
    model = LoxilbModel()
    programme(model)
    assert seen(model).holds(prefix, GATEWAY if prefix is P else GATEWAY6) is may_be


def test_the_routes_of_a_loxilb_that_makes_them_boot_are_held_before_its_version_is_known() -> None:
    model = LoxilbModel()
    model.foreign_add(P, GATEWAY, now=0, protocol="boot")
    assert seen(model).holds(P, GATEWAY)
