"""What the rules make of a route, and which host routes lead to a gateway of their own link (`link_gateway`).

A DHCP client that gets a lease with a mask of /32 writes a host route to the gateway, and then the default route by
that gateway; the kernel allows no other order. So only a moment later is it clear what the host route is. Such a route
is held back for its first 2 s, and the host routes to each new gateway are evaluated again. Once recognised, a host
route stays recognised while it exists: DHCP clients remove the default first, and the verdict must not flap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Final, NamedTuple

from routesync.kernel.decode import RTM_F_CLONED, RTMSG, RTMSG_SIZE, message_start
from routesync.kernel.links import Links, LinkTables
from routesync.kernel.replica import Subkey
from routesync.kernel.update import PLACEHOLDER, Sibling, identity
from routesync.route import (
    Address,
    Attributes,
    Evaluated,
    LinkAddress,
    NextHop,
    Prefix,
    Route,
    Verdict,
    link_host,
    preference,
)

Evaluate = Callable[[Route, Links], Verdict]
"""Pure. It may look at all of the route and at the links, at nothing else."""

EvaluateHeader = Callable[[int, int, int, int, int, int, int, int], Verdict | None]
"""By family, dst_len, tos, table, protocol, scope, type and flags (struct rtmsg): the verdict whatever the attributes
are; None where they matter. The flags of a withdrawal may differ from those of the announcement in the state of the
hops, so such a verdict must not depend on those."""

HOLD_S: Final = 2.0
HELD_BACK_PROTOCOLS: Final = frozenset({3, 16})
"""boot, which dhclient and dhcpcd use, and dhcp (linux/rtnetlink.h)."""
_NEVER: Final = float("inf")
_MEMO_SIZE: Final = 1 << 14
_AF_INET, _AF_INET6 = 2, 10


def needs_attributes(*_header: int) -> Verdict | None:
    """Decide nothing by the header alone."""
    return None


class Rules(NamedTuple):
    """The rules, as functions."""

    evaluate: Evaluate
    evaluate_header: EvaluateHeader = needs_attributes
    evaluate_link_gateway: Evaluate | None = None
    """For a host route on a link to the gateway of another route over the same link. None: the same as for others, and
    no host route is held back."""


class LinkGateways:
    """Gateways, and what is known of the host routes to them. Times are monotonic seconds.

    Two small indexes, both by link and address: gateways of routes, and host routes. A dump rebuilds them.
    """

    def __init__(self) -> None:
        self.gateways: set[LinkAddress] = set()
        self.recognised_addresses: set[Address] = set()
        """Addresses of host routes that were recognised, also of those that the rules drop."""
        self._recognised: dict[LinkAddress, set[Hashable]] = {}  # the routes, by what tells them apart
        self._held_until: dict[LinkAddress, float] = {}  # in this order, for all are held back equally long
        self._last_dump: frozenset[LinkAddress] = frozenset()  # IPv6 gateways and host routes that it showed
        self._addresses: frozenset[Address] | None = None

    @property
    def addresses(self) -> frozenset[Address]:
        """The gateways' addresses, whatever link they are on."""
        if self._addresses is None:
            self._addresses = frozenset(address for _, address in self.gateways)
        return self._addresses

    def learn(self, hops: Iterable[NextHop]) -> list[LinkAddress]:
        """Note the next hops of a route; return the gateways that are new."""
        new = [
            gateway
            for hop in hops
            if hop.gateway is not None and (gateway := (hop.ifindex, hop.gateway)) not in self.gateways
        ]
        if new:
            self.gateways.update(new)
            self._addresses = None
        return new

    def leads_to_gateway(self, host: LinkAddress) -> bool:
        """Whether a host route to this address leads to a gateway of its link."""
        return host in self._recognised or host in self.gateways

    def recognise(self, host: LinkAddress, route: Hashable) -> bool:
        """The same of a host route that exists: it stays so until `gone`."""
        if not self.leads_to_gateway(host):
            return False
        self._recognised.setdefault(host, set()).add(route)
        self.recognised_addresses.add(host[1])
        return True

    def gone(self, host: LinkAddress, route: Hashable) -> None:
        """A host route to this address is gone."""
        routes = self._recognised.get(host)
        if routes is not None:
            routes.discard(route)
            if not routes:
                del self._recognised[host]
                self.recognised_addresses.discard(host[1])

    def hold_back(self, host: LinkAddress, now: float) -> None:
        """A host route is new: do not keep it for a while."""
        self._held_until.pop(host, None)  # to be the last
        self._held_until[host] = now + HOLD_S

    def is_held_back(self, host: LinkAddress) -> bool:
        """Whether it is too new to be kept; so until `release` returns it."""
        return host in self._held_until

    @property
    def release_at(self) -> float:
        """When `release` has the next one to return; infinity: there is none."""
        return next(iter(self._held_until.values()), _NEVER)

    def release(self, now: float) -> list[LinkAddress]:
        """End the holding back of those whose time is over, and return them."""
        due = [host for host, until in self._held_until.items() if until <= now]
        for host in due:
            del self._held_until[host]
        return due

    def rebuild(
        self, gateways: Collection[LinkAddress], hosts: Collection[LinkAddress], touched: Collection[bytes]
    ) -> list[LinkAddress]:
        """Take over what a dump shows, before its host routes are evaluated; return the gateways that are new.

        An IPv6 dump under churn misses routes that nobody touched, so what is known goes only when two dumps in a row
        lack it.

        Args:
            gateways: those of the dump's routes, and of the routes that events announced meanwhile.
            hosts: the addresses of the dump's host routes.
            touched: addresses of the prefixes that events concerned meanwhile.
        """

        def missed_once(known: LinkAddress) -> bool:
            return len(known[1]) == 16 and known in self._last_dump

        before = self.gateways
        self.gateways = {*gateways, *filter(missed_once, before)}
        recognised, self._recognised = self._recognised, {}
        for host, routes in recognised.items():
            if host in hosts and host[1] not in touched:
                self._recognised[host] = set()  # each that exists is to be evaluated again
            elif host[1] in touched or missed_once(host):
                self._recognised[host] = routes
        self.recognised_addresses = {address for _, address in self._recognised}
        shown = (*gateways, *(host for host in hosts if host in self._recognised))
        self._last_dump = frozenset(it for it in shown if len(it[1]) == 16)
        self._addresses = None
        return [it for it in self.gateways if it not in before]


class Evaluator:
    """Applies the active rules; remembers verdicts by header, and shares equal results."""

    def __init__(
        self,
        tables: Sequence[int],
        rules: Rules,
        links: LinkTables,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateways = LinkGateways()
        self.generation = 0
        """How often the rules were replaced."""
        self._rules = rules
        self._links = links
        self._now = now
        self._ranks = {table: rank for rank, table in enumerate(tables)}
        self._subkeys: dict[tuple[bytes, int, int, int], Subkey] = {}
        self._by_header: dict[tuple[bytes, int], Verdict | None] = {}
        self._starts = {
            message_start(family, table): (table, size)
            for table in tables
            for family, size in ((_AF_INET, 4), (_AF_INET6, 16))
        }
        self._by_beginning: dict[bytes, tuple[int, Verdict | None]] = {}
        self._evaluated: dict[tuple[int, int], Evaluated] = {}  # by id(): the values keep alive what is meant

    def replace_rules(self, rules: Rules) -> None:
        """Apply other rules from now on."""
        self._rules = rules
        self._by_header.clear()
        self._by_beginning.clear()
        self.generation += 1

    def subkey(self, attributes: Attributes) -> Subkey | None:
        """What a route's key has beside its prefix; None for a table that is not followed."""
        rank = self._ranks.get(attributes.table)
        if rank is None:
            return None
        key = preference(attributes, rank)
        known = self._subkeys.get(key)
        if known is not None:
            return known
        if len(self._subkeys) >= _MEMO_SIZE:
            self._subkeys.clear()
        subkey = Subkey(*key)
        self._subkeys[subkey] = subkey
        return subkey

    def header(self, header: bytes, table: int) -> Verdict | None:
        """The verdict on every route with this header; None: the rules need its attributes, or follow the drop."""
        key = (header, table)
        try:
            return self._by_header[key]
        except KeyError:
            pass
        family, dst_len, src_len, tos, _, protocol, scope, kind, flags = RTMSG.unpack(header)
        verdict = None
        if not flags & RTM_F_CLONED and not (src_len and family == _AF_INET):
            verdict = self._rules.evaluate_header(family, dst_len, tos, table, protocol, scope, kind, flags)
        if verdict is not None and verdict.followed:
            verdict = None
        if len(self._by_header) >= _MEMO_SIZE:
            self._by_header.clear()
        self._by_header[key] = verdict
        return verdict

    def beginning(self, beginning: bytes) -> tuple[int, Verdict | None]:
        """What the first `BEGINNING_SIZE` bytes of a route message say.

        Returns:
            How many bytes of the prefix follow, 0 where the message has another order; and the verdict that drops the
            route whatever follows, None where there is none.
        """
        known = self._by_beginning.get(beginning)
        if known is None:
            table, size = self._starts.get(beginning[RTMSG_SIZE:], (0, 0))
            verdict = self.header(beginning[:RTMSG_SIZE], table) if size else None
            known = size, None if verdict is None or verdict.keep else verdict
            if len(self._by_beginning) >= _MEMO_SIZE:
                self._by_beginning.clear()
            self._by_beginning[beginning] = known
        return known

    def route(
        self, prefix: Prefix, attributes: Attributes, by_header: Verdict | None = None
    ) -> tuple[Sibling, Verdict]:
        """What the rules keep of a route, and the verdict; `by_header` is the one that `header` gave."""
        verdict = by_header or self._rules.evaluate(attributes.at(prefix), self._links.links)
        return self._sibling(attributes, verdict), verdict

    def _sibling(self, attributes: Attributes, verdict: Verdict) -> Sibling:
        """What is held of a route; the same object for the same two."""
        if not verdict.keep:
            return PLACEHOLDER
        key = (id(attributes), id(verdict))
        known = self._evaluated.get(key)
        if known is None:
            if len(self._evaluated) >= _MEMO_SIZE:
                self._evaluated.clear()
            known = self._evaluated[key] = Evaluated(attributes, verdict)
        return known

    def host(self, prefix: Prefix, attributes: Attributes) -> LinkAddress | None:
        """The address that a host route on a link leads to; None for others, or if the rules make no difference."""
        return None if self._rules.evaluate_link_gateway is None else link_host(attributes.at(prefix))

    def host_route(self, prefix: Prefix, attributes: Attributes, *, new: bool) -> tuple[Sibling, Verdict]:
        """Evaluate a route of which `host` returned an address, by the gateways that are known now.

        Args:
            prefix: its prefix.
            attributes: the rest of it.
            new: whether it came just now, so that it is to be held back.

        Returns:
            What is to be held of it, also where the rules drop it and a gateway could change that; and the verdict.
        """
        route = attributes.at(prefix)
        host = link_host(route)
        assert host is not None  # noqa: S101 - see above
        if self.gateways.recognise(host, host_route_key(attributes)):
            verdict = self._to_link_gateway(route)
            return self._sibling(attributes, verdict), verdict
        sibling, verdict = self.route(prefix, attributes)
        if sibling is not PLACEHOLDER:
            if new and attributes.protocol in HELD_BACK_PROTOCOLS:
                self.gateways.hold_back(host, self._now())
            if self.gateways.is_held_back(host):
                sibling = Evaluated(attributes, Verdict(keep=False, rule=verdict.rule))
        elif self._to_link_gateway(route) != verdict:
            sibling = Evaluated(attributes, verdict)
        return sibling, verdict

    def _to_link_gateway(self, route: Route) -> Verdict:
        evaluate = self._rules.evaluate_link_gateway or self._rules.evaluate
        return evaluate(route, self._links.links)


def host_route_key(attributes: Attributes) -> Hashable:
    """What tells host routes to one address of one link apart."""
    return (attributes.table, attributes.tos, attributes.metric, identity(attributes))
