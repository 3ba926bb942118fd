"""What one route event does to the routes that share a key: the kernel's own rules, IPv4 and IPv6 apart.

A key is a table, a prefix, a TOS and a metric. Several routes can share one, in an order ("aliases"). Only those that
the rules keep are held; `GAP` stands where zero or more others may be. Where an event leaves open what the kernel holds
now, the result says so: then only a dump can tell.

Facts that shaped this, from fib_table_insert() and fib_table_delete() in net/ipv4/fib_trie.c, and
fib6_add_rt2node(), ip6_route_multipath_add() and fib6_del_route() in net/ipv6:

- NLM_F_EXCL in an announcement says that nothing shared the key before, for IPv4 and for IPv6 routes of one hop.
- IPv4: NLM_F_REPLACE took the place of the first alias, NLM_F_APPEND went last, neither went first. But the
  kernel also says NLM_F_REPLACE when a route changed where it stands: its nexthop object was replaced
  (fib_info_notify_update()), or its offload flags changed (fib_alias_hw_flags_set()).
- IPv6: routes with a gateway that share a key are hops of one multipath route, announced whole each time; others
  (devices, blackholes, nexthop objects) stand beside it one by one, each new one last. NLM_F_REPLACE takes the first of
  its own sort, or else the first of all. A deletion names one hop, or the whole set.
- IPv6: an announced set carries the protocol and source of the hop that was added; a dump those of the first hop.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from routesync.kernel.netlink import NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE
from routesync.route import Candidate, HopFlag, NextHop, Route

GAP: Final = None
Alias = Candidate | None
Aliases = tuple[Alias, ...]

Identity = tuple[object, ...]

_STATE_FLAGS: Final = HopFlag.DEAD | HopFlag.LINKDOWN | HopFlag.OFFLOAD | HopFlag.TRAP | HopFlag.UNRESOLVED
_RTN_UNICAST: Final = 1
_RTPROT_REDIRECT, _RTPROT_KERNEL, _RTPROT_RA = 1, 2, 9


class Spliced(NamedTuple):
    """What shares the key now; unless certain, only a dump can tell."""

    aliases: Aliases
    certain: bool = True


class Subtracted(NamedTuple):
    """An IPv6 multipath route lost one hop; what remains has to be judged by the rules."""

    place: int  # where the route stands
    remaining: Route


def _stable(hop: NextHop) -> NextHop:
    flags = hop.flags & ~_STATE_FLAGS
    return hop if flags == hop.flags else hop._replace(flags=flags)


def identity(route: Route) -> Identity:
    """What makes a route itself among those that share its key: all but the state of its links."""
    hops: object = route.nexthop_id or tuple(map(_stable, route.hops))
    return (route.type, route.protocol, route.scope, route.prefsrc, hops)


def tidy(aliases: Aliases) -> Aliases:
    """Melt neighbouring gaps into one; a key of which nothing is kept is not held at all."""
    if len(aliases) == 1:
        return aliases if aliases[0] is not GAP else ()
    tidied: list[Alias] = []
    for alias in aliases:
        if alias is not GAP or not tidied or tidied[-1] is not GAP:
            tidied.append(alias)
    return tuple(tidied) if any(alias is not GAP for alias in tidied) else ()


def _find(aliases: Aliases, route: Route) -> list[int]:
    wanted = identity(route)
    return [
        place for place, alias in enumerate(aliases) if alias is not GAP and identity(alias.route) == wanted
    ]


def _put(aliases: Aliases, place: int, alias: Alias) -> Aliases:
    return tidy((*aliases[:place], alias, *aliases[place + 1 :]))


def inet_new(held: Aliases, route: Route, alias: Alias, flags: int) -> Spliced:
    """IPv4: a route was announced; `alias` is what the rules leave of it."""
    if flags & NLM_F_EXCL:
        return Spliced(tidy((alias,)))
    aliases = held or (GAP,)  # something shares the key; if we hold nothing of it, the rules dropped it
    same = _find(aliases, route)
    if flags & NLM_F_REPLACE:
        if same:
            return Spliced(_put(aliases, same[0], alias)) if len(same) == 1 else Spliced(held, certain=False)
        if aliases[0] is not GAP:
            replaced = _put(aliases, 0, alias)
            if GAP not in aliases:
                return Spliced(replaced)
            # It may as well be one that the rules dropped, told anew where it stands.
            return Spliced(held if route.nexthop_id else replaced, certain=False)
        return Spliced(tidy((alias, GAP))) if len(aliases) == 1 else Spliced(held, certain=False)
    if same:  # the kernel takes no equal twice: old news, or different in what a Route does not tell
        return Spliced(held, certain=False)
    return Spliced(tidy((*aliases, alias) if flags & NLM_F_APPEND else (alias, *aliases)))


def inet_del(held: Aliases, route: Route) -> Spliced:
    """IPv4: a route was withdrawn; the message describes exactly it."""
    same = _find(held, route)
    if len(same) == 1:
        return Spliced(tidy(held[: same[0]] + held[same[0] + 1 :]))
    return Spliced(held, certain=not same and (not held or GAP in held))


def _is_sibling(route: Route) -> bool:
    """Whether it is, or would be, a hop of the key's multipath route (rt6_qualify_for_ecmp())."""
    return not route.nexthop_id and bool(route.hops) and all(hop.gateway is not None for hop in route.hops)


def _may_hide(alias: Alias) -> bool:
    """Whether other routes of an IPv6 key may stand between the hops of this one, unseen by dumps."""
    return alias is GAP or (_is_sibling(alias.route) and len(alias.route.hops) > 1)


def is_mixed(aliases: Aliases) -> bool:
    """Whether an IPv6 key has a multipath route and others: dumps leave out what stands between its hops.

    rt6_dump_route()'s caller jumps from a multipath route to its last hop (fib6_dump_node()), over whatever was added
    between; such a route shows again, without a word, once the hops are gone. A gap may be such a multipath route.
    """
    return len(aliases) > 1 and any(map(_may_hide, aliases))


def _is_odd(route: Route) -> bool:
    """Whether it is of a kind whose merging depends on what RTNL does not tell (RTF_ADDRCONF, RTF_DYNAMIC)."""
    return route.protocol in (_RTPROT_REDIRECT, _RTPROT_KERNEL, _RTPROT_RA) and _is_sibling(route)


def _sort(route: Route) -> Identity:
    return (route.type, route.protocol, route.scope, route.prefsrc, route.encap)


def inet6_new(held: Aliases, route: Route, alias: Alias, flags: int) -> Spliced:
    """IPv6: a route was announced, with all hops that it has now; `alias` is what the rules leave of it."""
    if flags & NLM_F_EXCL:
        return Spliced(tidy((alias,)))
    doubt = Spliced(held, certain=False)
    if not held:
        # A set that grew out of hops that the rules dropped may be told under another protocol than a dump would.
        return Spliced(tidy((GAP, alias)), certain=len(route.hops) < 2 or bool(flags & NLM_F_REPLACE))
    same = _find(held, route)
    if same:
        return Spliced(_put(held, same[0], alias)) if len(same) == 1 else doubt
    if _is_odd(route) or any(other is not GAP and _is_odd(other.route) for other in held):
        return doubt
    sibling = _is_sibling(route)
    places = [
        place for place, other in enumerate(held) if other is not GAP and _is_sibling(other.route) == sibling
    ]
    if flags & NLM_F_REPLACE:
        if GAP in held:
            return doubt
        if any(
            map(_may_hide, held)
        ):  # what it took may be one that no dump has shown, and may show another now
            return Spliced(_put(held, places[0], alias) if places else tidy((*held, alias)), certain=False)
        return Spliced(_put(held, places[0] if places else 0, alias))
    if not sibling:
        return Spliced(tidy((*held, alias)))
    if not places:
        return doubt if GAP in held else Spliced(tidy((*held, alias)))
    old = held[places[0]]
    if old is GAP or len(places) > 1 or _sort(old.route) != _sort(route):
        return doubt
    grown = set(map(_stable, route.hops)) >= set(map(_stable, old.route.hops))
    return Spliced(_put(held, places[0], alias)) if grown else doubt


def inet6_del(held: Aliases, route: Route) -> Spliced | Subtracted:
    """IPv6: a route was withdrawn, or one hop of it.

    What is left of a set that the rules had dropped could be one that they keep: that is doubt.
    """
    same = _find(held, route)
    if len(same) == 1:
        left = tidy(held[: same[0]] + held[same[0] + 1 :])
        return Spliced(left, certain=not _may_hide(held[same[0]]))  # what it hid shows now, without a word
    hop_alone = _is_sibling(route) and len(route.hops) == 1
    if hop_alone:
        gone = (route.hops[0].gateway, route.hops[0].ifindex)
        for place, alias in enumerate(held):
            if alias is GAP or not _is_sibling(alias.route) or len(alias.route.hops) < 2:
                continue
            hops = tuple(hop for hop in alias.route.hops if (hop.gateway, hop.ifindex) != gone)
            if len(hops) == len(alias.route.hops) - 1:
                if len(hops) == 1:  # a single hop is told without its weight
                    hops = (hops[0]._replace(weight=1),)
                return Subtracted(place, alias.route._replace(hops=hops))
    return Spliced(held, certain=not same and not hop_alone and (not held or GAP in held))
