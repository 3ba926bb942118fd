"""What one route event does to the routes that share a key: the kernel's own rules, IPv4 and IPv6 apart.

A key is a prefix, a source prefix, a TOS, a table and a metric. Several routes can share one, in an order: siblings.
What happens does not depend on the prefix, so routes are handled by their attributes.
Only what the rules keep is held; a `PLACEHOLDER` marks a position where zero or more other siblings may be. Where an
event leaves open what the kernel has now, the result is not certain: then only a dump can tell.

Facts that shaped this, from fib_table_insert() and fib_table_delete() in net/ipv4/fib_trie.c, and
fib6_add_rt2node(), ip6_route_multipath_add() and fib6_del_route() in net/ipv6:

- NLM_F_EXCL in an announcement says that nothing shared the key before, for IPv4 and for IPv6 routes of one hop.
- IPv4: NLM_F_REPLACE took the place of the first sibling, NLM_F_APPEND went last, neither went first. But the kernel
  also says NLM_F_REPLACE when a route changed in its place: its nexthop object was replaced
  (fib_info_notify_update()), or its offload flags changed (fib_alias_hw_flags_set()).
- IPv6: routes with a gateway that share a key are hops of one multipath route, announced whole each time; others
  (devices, blackholes, nexthop objects) are siblings of it one by one, each new one last. NLM_F_REPLACE takes the first
  of its own sort, or else the first of all. A deletion names one hop, or the whole set.
- IPv6: an announced set carries the protocol and source of the hop that was added; a dump those of the first hop.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pyroute2.netlink import NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE

from routesync.route import Attributes, Evaluated, HopFlag, NextHop, Route

PLACEHOLDER: Final = None
Sibling = Evaluated | None
Siblings = tuple[Sibling, ...]

Identity = tuple[object, ...]

_STATE_FLAGS: Final = HopFlag.DEAD | HopFlag.LINKDOWN | HopFlag.OFFLOAD | HopFlag.TRAP | HopFlag.UNRESOLVED
_RTPROT_REDIRECT, _RTPROT_KERNEL, _RTPROT_RA = 1, 2, 9


class Updated(NamedTuple):
    """What shares the key now; unless certain, only a dump can tell."""

    siblings: Siblings
    certain: bool = True


class HopRemoved(NamedTuple):
    """An IPv6 multipath route lost one hop; the rules have to evaluate what remains of it."""

    place: int  # its position among the siblings
    remaining: Attributes


def _stable(hop: NextHop) -> NextHop:
    flags = hop.flags & ~_STATE_FLAGS
    return hop if flags == hop.flags else hop._replace(flags=flags)


def identity(route: Attributes | Route) -> Identity:
    """What tells a route from its siblings: all but the state of its links."""
    hops: object = route.nexthop_id or tuple(map(_stable, route.hops))
    return (route.type, route.protocol, route.scope, route.prefsrc, hops)


def tidy(siblings: Siblings) -> Siblings:
    """Merge neighbouring placeholders; a key of which nothing is kept is not held at all."""
    if len(siblings) == 1:
        return siblings if siblings[0] is not PLACEHOLDER else ()
    tidied: list[Sibling] = []
    for sibling in siblings:
        if sibling is not PLACEHOLDER or not tidied or tidied[-1] is not PLACEHOLDER:
            tidied.append(sibling)
    return tuple(tidied) if any(sibling is not PLACEHOLDER for sibling in tidied) else ()


def _find(siblings: Siblings, route: Attributes) -> list[int]:
    wanted = identity(route)
    return [
        place
        for place, sibling in enumerate(siblings)
        if sibling is not PLACEHOLDER and identity(sibling.attributes) == wanted
    ]


def _put(siblings: Siblings, place: int, sibling: Sibling) -> Siblings:
    return tidy((*siblings[:place], sibling, *siblings[place + 1 :]))


def inet_new(held: Siblings, route: Attributes, evaluated: Sibling, flags: int) -> Updated:
    """IPv4: a route was announced; `evaluated` is what the rules leave of it."""
    if flags & NLM_F_EXCL:
        return Updated(tidy((evaluated,)))
    siblings = held or (PLACEHOLDER,)  # others share the key; those of which nothing is held were dropped
    same = _find(siblings, route)
    if flags & NLM_F_REPLACE:
        if same:
            return (
                Updated(_put(siblings, same[0], evaluated))
                if len(same) == 1
                else Updated(held, certain=False)
            )
        if siblings[0] is not PLACEHOLDER:
            replaced = _put(siblings, 0, evaluated)
            if PLACEHOLDER not in siblings:
                return Updated(replaced)
            # It may as well be one that the rules dropped, announced again in its own place.
            return Updated(held if route.nexthop_id else replaced, certain=False)
        if len(siblings) == 1:
            return Updated(tidy((evaluated, PLACEHOLDER)))
        return Updated(held, certain=False)
    if same:  # the kernel takes no equal twice: an old event, or a difference that a Route does not carry
        return Updated(held, certain=False)
    return Updated(tidy((*siblings, evaluated) if flags & NLM_F_APPEND else (evaluated, *siblings)))


def inet_del(held: Siblings, route: Attributes) -> Updated:
    """IPv4: a route was withdrawn; the message describes exactly that one."""
    same = _find(held, route)
    if len(same) == 1:
        return Updated(tidy(held[: same[0]] + held[same[0] + 1 :]))
    return Updated(held, certain=not same and (not held or PLACEHOLDER in held))


def _joins_multipath(route: Attributes) -> bool:
    """Whether it is, or would become, a hop of the key's multipath route (rt6_qualify_for_ecmp())."""
    return not route.nexthop_id and bool(route.hops) and all(hop.gateway is not None for hop in route.hops)


def _may_hide(sibling: Sibling) -> bool:
    """Whether other siblings of an IPv6 key may lie between the hops of this one, unseen by dumps."""
    return sibling is PLACEHOLDER or (
        len(sibling.attributes.hops) > 1 and _joins_multipath(sibling.attributes)
    )


def is_mixed(siblings: Siblings) -> bool:
    """Whether an IPv6 key has a multipath route and others: dumps leave out what lies between its hops.

    rt6_dump_route()'s caller jumps from a multipath route to its last hop (fib6_dump_node()), over whatever was added
    between; such a route shows again, without an event, once the hops are gone. A placeholder may be such a multipath
    route.
    """
    return len(siblings) > 1 and any(map(_may_hide, siblings))


def _is_odd(route: Attributes) -> bool:
    """Whether its merging depends on what RTNL does not show (RTF_ADDRCONF, RTF_DYNAMIC)."""
    return route.protocol in (_RTPROT_REDIRECT, _RTPROT_KERNEL, _RTPROT_RA) and _joins_multipath(route)


def _sort(route: Attributes) -> Identity:
    return (route.type, route.protocol, route.scope, route.prefsrc, route.encap)


def inet6_new(held: Siblings, route: Attributes, evaluated: Sibling, flags: int) -> Updated:
    """IPv6: a route was announced, with all hops that it has now; `evaluated` is what the rules leave of it."""
    if flags & NLM_F_EXCL:
        return Updated(tidy((evaluated,)))
    doubt = Updated(held, certain=False)
    if not held:
        # A set that grew out of hops that the rules dropped may come with another protocol than a dump would show.
        certain = len(route.hops) < 2 or bool(flags & NLM_F_REPLACE)
        return Updated(tidy((PLACEHOLDER, evaluated)), certain)
    same = _find(held, route)
    joins = _joins_multipath(route)
    places = [
        place
        for place, other in enumerate(held)
        if other is not PLACEHOLDER and _joins_multipath(other.attributes) == joins
    ]
    if same:
        # Announced again in its own place; or it took the place of another, and equals a sibling, which stays.
        in_place = len(same) == 1 and (
            same == places[:1] or bool(route.nexthop_id) or not flags & NLM_F_REPLACE
        )
        return Updated(_put(held, same[0], evaluated)) if in_place else doubt
    if _is_odd(route) or any(other is not PLACEHOLDER and _is_odd(other.attributes) for other in held):
        return doubt
    if flags & NLM_F_REPLACE:
        if PLACEHOLDER in held:
            return doubt
        if any(map(_may_hide, held)):  # it may have replaced one that no dump showed, and uncovered another
            replaced = _put(held, places[0], evaluated) if places else tidy((*held, evaluated))
            return Updated(replaced, certain=False)
        return Updated(_put(held, places[0] if places else 0, evaluated))
    if not joins:
        return Updated(tidy((*held, evaluated)))
    if not places:
        return doubt if PLACEHOLDER in held else Updated(tidy((*held, evaluated)))
    old = held[places[0]]
    if old is PLACEHOLDER or len(places) > 1 or _sort(old.attributes) != _sort(route):
        return doubt
    grown = set(map(_stable, route.hops)) >= set(map(_stable, old.attributes.hops))
    return Updated(_put(held, places[0], evaluated)) if grown else doubt


def inet6_del(held: Siblings, route: Attributes) -> Updated | HopRemoved:
    """IPv6: a route was withdrawn, or one hop of it.

    What is left of a set that the rules had dropped could be one that they keep: that is doubt.
    """
    same = _find(held, route)
    if len(same) == 1:
        left = tidy(held[: same[0]] + held[same[0] + 1 :])
        return Updated(left, certain=not _may_hide(held[same[0]]))  # what it hid shows now, without an event
    hop_alone = _joins_multipath(route) and len(route.hops) == 1
    if hop_alone:
        gone = (route.hops[0].gateway, route.hops[0].ifindex)
        for place, sibling in enumerate(held):
            if sibling is PLACEHOLDER or not _may_hide(sibling):
                continue
            hops = tuple(hop for hop in sibling.attributes.hops if (hop.gateway, hop.ifindex) != gone)
            if len(hops) == len(sibling.attributes.hops) - 1:
                if len(hops) == 1:  # the kernel writes a single hop without its weight
                    hops = (hops[0]._replace(weight=1),)
                return HopRemoved(place, sibling.attributes._replace(hops=hops))
    return Updated(held, certain=not same and not hop_alone and (not held or PLACEHOLDER in held))
