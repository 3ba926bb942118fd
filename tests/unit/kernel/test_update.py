"""The kernel's own rules for routes that share a key, event by event: what facts of RTNL say, without a kernel.

Routes are written as `2` (by gateway …::2), `2+3` (multipath), `e0` (by device), `#7` (nexthop object), `_` is the
placeholder for zero or more siblings that the rules dropped. A route by gateway 9 is one that the rules drop.
"""

from __future__ import annotations

import pytest
from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE

from routesync.kernel.update import (
    PLACEHOLDER,
    HopRemoved,
    Sibling,
    Siblings,
    Updated,
    identity,
    inet6_del,
    inet6_new,
    inet_del,
    inet_new,
    is_mixed,
    tidy,
)
from routesync.names import PROTOCOLS
from routesync.route import Attributes, Evaluated, Family, HopFlag, NextHop, Verdict, parse_address

KEEP = Verdict(keep=True, rule="default")
ADD, APPEND = NLM_F_CREATE | NLM_F_EXCL, NLM_F_CREATE | NLM_F_APPEND
PREPEND, REPLACE = NLM_F_CREATE, NLM_F_CREATE | NLM_F_REPLACE
DEVICES = {"e0": 2, "e1": 3}


def route(text: str, family: Family = Family.INET, *, protocol: str = "static") -> Attributes:
    """Read a route as the docstring says."""
    inet = family is Family.INET
    nexthop_id = int(text[1:]) if text.startswith("#") else 0
    hops: tuple[NextHop, ...] = ()
    if text in DEVICES:
        hops = (NextHop(None, DEVICES[text]),)
    elif not nexthop_id:
        net = "192.0.2." if inet else "2001:db8::"
        hops = tuple(NextHop(parse_address(f"{net}{host}"), 2) for host in text.split("+"))
    metric = 0 if inet else 1024
    return Attributes(254, 0, metric, PROTOCOLS[protocol], 0, 1, hops, nexthop_id=nexthop_id)


def evaluated(it: Attributes) -> Sibling:
    dropped = any(hop.gateway is not None and hop.gateway[-1] == 9 for hop in it.hops)
    return PLACEHOLDER if dropped else Evaluated(it, KEEP)


def siblings(text: str, family: Family = Family.INET) -> Siblings:
    return tuple(PLACEHOLDER if word == "_" else evaluated(route(word, family)) for word in text.split())


def text_of(held: Siblings) -> str:
    def word(sibling: Sibling) -> str:
        if sibling is PLACEHOLDER:
            return "_"
        if sibling.attributes.nexthop_id:
            return f"#{sibling.attributes.nexthop_id}"
        (*hops,) = sibling.attributes.hops
        names = {ifindex: name for name, ifindex in DEVICES.items()}
        return "+".join(str(hop.gateway[-1]) if hop.gateway else names[hop.ifindex] for hop in hops)

    return " ".join(map(word, held))


def said(updated: Updated) -> str:
    return text_of(updated.siblings) + ("" if updated.certain else " ?")


@pytest.mark.parametrize(
    ("held", "flags", "new", "expected", "why"),
    [
        ("", ADD, "2", "2", "nothing shared the key"),
        ("", ADD, "9", "", "the rules drop it: nothing is held"),
        ("3", ADD, "2", "2", "what was held is gone without an event"),
        ("2", APPEND, "3", "2 3", "append goes last"),
        ("2 3", PREPEND, "4", "4 2 3", "neither goes first"),
        ("2 3", REPLACE, "4", "4 3", "replace takes the place of the first"),
        ("2 3", REPLACE, "3", "2 3", "reported again in its own place, as for an offload flag"),
        ("2", REPLACE, "9", "", "changed into one that the rules drop"),
        ("2 3", REPLACE, "9", "_ 3", "the same, with a sibling behind it"),
        ("2", APPEND, "9", "2 _", "a dropped sibling keeps its position"),
        ("2 _", APPEND, "9", "2 _", "several placeholders are one"),
        ("", APPEND, "3", "_ 3", "what shared the key had been dropped"),
        ("", PREPEND, "3", "3 _", "the same, in front"),
        ("", REPLACE, "3", "3 _", "the same: it may have had siblings"),
        ("_ 3", PREPEND, "2", "2 _ 3", "in front of all"),
        ("_ 3", REPLACE, "2", "_ 3 ?", "which of the dropped ones was first, and are there more?"),
        ("2 _", REPLACE, "4", "4 _ ?", "it may be a dropped one, announced again in its own place"),
        ("2 _", REPLACE, "#7", "2 _ ?", "the more so with a nexthop object"),
        ("#7 2", REPLACE, "#7", "#7 2", "its nexthop object was replaced"),
        ("2 3", APPEND, "3", "2 3 ?", "the kernel takes no equal twice"),
        ("2 2", REPLACE, "2", "2 2 ?", "two that differ by an MTU only"),
    ],
)
def test_ipv4_announcements(held: str, flags: int, new: str, expected: str, why: str) -> None:
    it = route(new)
    assert said(inet_new(siblings(held), it, evaluated(it), flags)) == expected, why


@pytest.mark.parametrize(
    ("held", "gone", "expected", "why"),
    [
        ("2", "2", "", "the only one"),
        ("2 3 4", "3", "2 4", "a withdrawal describes exactly one sibling"),
        ("2 _ 4", "4", "2 _", "others stay where they are"),
        ("_ 4", "4", "", "of dropped ones alone nothing is held"),
        ("2 _", "9", "2 _", "one of the dropped"),
        ("", "9", "", "the same"),
        ("2 3", "4", "2 3 ?", "it should have been held"),
        ("2 2", "2", "2 2 ?", "which of two equal ones?"),
    ],
)
def test_ipv4_withdrawals(held: str, gone: str, expected: str, why: str) -> None:
    assert said(inet_del(siblings(held), route(gone))) == expected, why


@pytest.mark.parametrize(
    ("held", "flags", "new", "expected", "why"),
    [
        ("", ADD, "2", "2", "nothing shared the key"),
        ("2", APPEND, "2+3", "2+3", "an appended hop comes with the whole set"),
        ("2+3", APPEND, "2+3+4", "2+3+4", "and so does the next"),
        ("2+3", APPEND, "2+4", "2+3 ?", "a set that lost a hop without an event"),
        ("2+3", REPLACE, "4", "4 ?", "a set may have hidden others, which show now"),
        ("2", REPLACE, "4", "4", "replace takes the first of its own sort"),
        ("e0 2", REPLACE, "4", "e0 4", "and leaves those of the other"),
        ("e0", REPLACE, "4", "4", "or else takes the first of all"),
        ("e0", APPEND, "e1", "e0 e1", "device routes are siblings, each new one last"),
        ("e0", APPEND, "2", "e0 2", "a route by gateway is another sibling"),
        ("e0 2", APPEND, "2+3", "e0 2+3", "its set grows in its place"),
        ("#7", APPEND, "2", "#7 2", "a nexthop object is no part of a set"),
        ("2", APPEND, "2", "2", "announced again"),
        ("", APPEND, "2", "_ 2", "what shared the key had been dropped"),
        ("", APPEND, "2+3", "_ 2+3 ?", "a set out of dropped hops may show another protocol in a dump"),
        ("", REPLACE, "2+3", "_ 2+3", "not so one that was made whole"),
        ("_ e0", APPEND, "2", "_ e0 ?", "the dropped ones may be hops of the same set"),
        ("_ 2", REPLACE, "4", "_ 2 ?", "which was the first?"),
        ("_ e0", APPEND, "e1", "_ e0 e1", "a device route is never merged"),
        ("e0 e1", REPLACE, "e0", "e0 e1", "the first was replaced by its equal"),
        ("e0 e1", REPLACE, "e1", "e0 e1 ?", "the first was replaced by an equal of the second, which stays"),
        ("e0 e1", APPEND, "e1", "e0 e1", "announced again in its own place: nothing was replaced"),
        ("e0 #7", REPLACE, "#7", "e0 #7", "its nexthop object was replaced: it is announced in its place"),
    ],
)
def test_ipv6_announcements(held: str, flags: int, new: str, expected: str, why: str) -> None:
    it = route(new, Family.INET6)
    assert said(inet6_new(siblings(held, Family.INET6), it, evaluated(it), flags)) == expected, why


@pytest.mark.parametrize("protocol", ["ra", "redirect", "kernel"])
def test_ipv6_routes_whose_merging_rtnl_does_not_show_are_in_doubt(protocol: str) -> None:
    it = route("3", Family.INET6, protocol=protocol)
    assert said(inet6_new(siblings("2", Family.INET6), it, evaluated(it), APPEND)) == "2 ?"
    it = route("3", Family.INET6)
    held = (evaluated(route("2", Family.INET6, protocol=protocol)),)
    assert said(inet6_new(held, it, evaluated(it), APPEND)) == "2 ?"
    it = route("e0", Family.INET6)
    assert said(inet6_new(held, it, evaluated(it), APPEND)) == "2 ?", "the one that is held is enough"
    it = route("2", Family.INET6, protocol=protocol)
    assert said(inet6_new(siblings("e0", Family.INET6), it, evaluated(it), APPEND)) == "e0 ?", (
        "and so is the new one"
    )


def test_an_ipv6_set_of_another_protocol_is_in_doubt() -> None:
    it = route("2+3", Family.INET6, protocol="bgp")
    assert said(inet6_new(siblings("2", Family.INET6), it, evaluated(it), APPEND)) == "2 ?"


def test_which_of_two_ipv6_sets_grows_is_in_doubt() -> None:
    held = (evaluated(route("2", Family.INET6)), evaluated(route("3", Family.INET6, protocol="bgp")))
    it = route("2+4", Family.INET6)
    assert said(inet6_new(held, it, evaluated(it), APPEND)) == "2 3 ?"


def test_a_single_hop_of_another_protocol_does_not_go_with_its_equal() -> None:
    updated = inet6_del((evaluated(route("2", Family.INET6, protocol="bgp")),), route("2", Family.INET6))
    assert isinstance(updated, Updated)
    assert said(updated) == "2 ?"


@pytest.mark.parametrize(
    ("held", "gone", "expected", "why"),
    [
        ("2", "2", "", "the only one"),
        ("e0 e1", "e0", "e1", "one of several device routes"),
        ("2+3", "2+3", " ?", "a whole set: what it hid from dumps shows now"),
        ("", "9", " ?", "a hop of a set that the rules dropped: they may keep what is left"),
        ("2 _", "9", "2 _ ?", "the same beside one that is kept"),
        ("2", "3", "2 ?", "it should have been held"),
        ("", "e0", "", "a dropped device route"),
        ("e0", "e1", "e0 ?", "it should have been held"),
    ],
)
def test_ipv6_withdrawals(held: str, gone: str, expected: str, why: str) -> None:
    updated = inet6_del(siblings(held, Family.INET6), route(gone, Family.INET6))
    assert isinstance(updated, Updated), why
    assert said(updated) == expected, why


@pytest.mark.parametrize(
    ("held", "gone", "place", "remaining"),
    [("2+3+4", "3", 0, "2+4"), ("e0 2+3", "2", 1, "3"), ("e0 _ 2+3", "3", 2, "2")],
)
def test_an_ipv6_hop_that_goes_is_subtracted_from_its_set(
    held: str, gone: str, place: int, remaining: str
) -> None:
    updated = inet6_del(siblings(held, Family.INET6), route(gone, Family.INET6))
    assert updated == HopRemoved(place, route(remaining, Family.INET6))


def test_the_last_hop_of_an_ipv6_set_shows_no_weight() -> None:
    both = route("2+3", Family.INET6)
    weighted = both._replace(hops=tuple(hop._replace(weight=7) for hop in both.hops))
    assert inet6_del((evaluated(weighted),), route("2", Family.INET6)) == HopRemoved(
        0, route("3", Family.INET6)
    )


def test_the_state_of_its_links_makes_no_other_route() -> None:
    up = route("2")
    down = up._replace(hops=(up.hops[0]._replace(flags=HopFlag.DEAD | HopFlag.LINKDOWN),))
    assert identity(up) == identity(down)
    assert identity(up) != identity(up._replace(hops=(up.hops[0]._replace(flags=HopFlag.ONLINK),)))
    assert said(inet_del((evaluated(down),), up)) == ""


def test_a_nexthop_object_is_known_by_its_number_whatever_its_hops() -> None:
    one = route("#7")._replace(hops=route("2").hops)
    assert identity(one) == identity(one._replace(hops=route("3").hops))


@pytest.mark.parametrize(
    ("held", "mixed"),
    [("2+3", False), ("e0 e1", False), ("e0 2+3", True), ("_ e0", True), ("e0 2", False), ("", False)],
)
def test_dumps_hide_what_lies_between_the_hops_of_an_ipv6_set(held: str, *, mixed: bool) -> None:
    assert is_mixed(siblings(held, Family.INET6)) is mixed


@pytest.mark.parametrize(
    ("held", "expected"), [("_", ""), ("_ _", ""), ("2 _ _ 3", "2 _ 3"), ("_ _ 2", "_ 2"), ("2", "2")]
)
def test_placeholders_are_merged_and_alone_hold_nothing(held: str, expected: str) -> None:
    assert text_of(tidy(siblings(held))) == expected
