"""Which host routes lead to a gateway of their own link (`link_gateway`), as far as events have shown by now.

A DHCP client that gets a lease with a mask of /32 writes a host route to the gateway, and then the default route by
that gateway; the kernel allows no other order. So what the host route is shows a moment later. Such a route is held
back for its first 2 s, and each gateway that is new has the host routes to its address judged again. Once recognised, a
host route stays recognised while it exists: DHCP clients remove the default first, and the verdict must not flap.

Two small indexes, both by link and address: gateways of routes, and host routes. A dump rebuilds them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Final

from routesync.route import Address, LinkAddress, NextHop

HOLD_S: Final = 2.0
HELD_BACK_PROTOCOLS: Final = frozenset({3, 16})
"""boot, which dhclient and dhcpcd use, and dhcp (linux/rtnetlink.h)."""
_NEVER: Final = float("inf")


class LinkGateways:
    """Gateways, and what is known of the host routes to them. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.gateways: set[LinkAddress] = set()
        self.recognised_addresses: set[Address] = set()
        """Addresses of host routes that were recognised, also of those that the rules drop."""
        self._recognised: dict[LinkAddress, set[Hashable]] = {}  # the routes, by whatever tells them apart
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
        """Take in the next hops of a route; return the gateways that are new."""
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
        """Take over what a dump shows, before its host routes are judged; return the gateways that are new.

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
                self._recognised[host] = set()  # each that exists is to be judged again
            elif host[1] in touched or missed_once(host):
                self._recognised[host] = routes
        self.recognised_addresses = {address for _, address in self._recognised}
        shown = (*gateways, *(host for host in hosts if host in self._recognised))
        self._last_dump = frozenset(it for it in shown if len(it[1]) == 16)
        self._addresses = None
        return [it for it in self.gateways if it not in before]
