"""loxilb in memory: its kernel's routes and its own table, modelled on a real one, with the clock as an argument.

It is for unit tests of the mirror's state machine: no I/O, no sleeps, and the truth can be asked for. What it knows:

- POST is RTM_NEWROUTE with CREATE|EXCL at metric 0 (IPv6: 1024). DELETE takes the route of the lowest metric, whoever
  wrote it; for IPv4 it passes over routes of scope link; of an IPv6 ECMP route it takes all hops.
- Its own table has one row per prefix and learns from its kernel's events, 128 of them each 500 ms. An event with
  the gateways that the row has changes nothing; one with others replaces the row; any removal drops the row.
- When too many events wait it goes deaf: what waits is ingested, later events never are, and nothing says so.
- A link that goes down takes its IPv4 routes without an event: their rows stay, stale.

Simplified: neighbours and addresses take effect at once, and an ECMP route does not get a hop back that it lost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, StrEnum
from itertools import islice
from typing import Final, Literal, NamedTuple

from routesync.loxilb.schema import Inventory, InventoryRow
from routesync.names import PROTOCOLS, SCOPES, TABLES, TYPES
from routesync.route import Address, Candidate, Family, NextHop, Prefix, Route, Verdict

TURN_S: Final = 0.5
EVENTS_A_TURN: Final = 128
FILL_A_TURN: Final = 500  # routes of the kernel's table, after a start
QUEUE_LIMIT: Final = 50_000
API_DELAY_S: Final = 5.0
FILL_DELAY_S: Final = 3.0  # from then until its table begins to fill

_PROTOCOL_WORDS: Final = ("unspec", "redirect", "kernel", "boot", "static")
_CONNECTED_METRIC: Final = {4: 0, 16: 256}
_OUR_METRIC: Final = {4: 0, 16: 1024}
_IPV4_DEFAULT: Final = Prefix.parse("0.0.0.0/0")
_KEEP: Final = Verdict(keep=True, rule="witness")


class Writer(StrEnum):
    """Who wrote a route, or changed one."""

    OURS = "ours"
    FOREIGN = "foreign"
    LOXILB = "loxilb"  # its kernel itself, for the addresses of its links


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    LOST = "carried out, and the answer is lost"
    DROPPED = "not carried out, and there is no answer"
    REFUSED = "no connection"


class Reply(NamedTuple):
    """An answer; the status is 0 where there is none."""

    status: int
    words: str


SUCCESS: Final = Reply(200, "Success")
FAILED: Final = Reply(200, "fail")
"""What any error of the kernel is before v0.9.8.5."""
UNANSWERED: Final = Reply(0, "no answer")
NOT_SENT: Final = Reply(0, "cannot connect")


class Hop(NamedTuple):
    """A next hop of a route in loxilb's kernel; without a gateway it is a device route's."""

    gateway: Address | None
    link: str
    writer: Writer
    protocol: int  # each hop of an IPv6 ECMP route has its own


class KernelRoute(NamedTuple):
    """A route in the main table of loxilb's kernel."""

    prefix: Prefix
    metric: int
    hops: tuple[Hop, ...]
    scope_link: bool
    since: float  # when it, or its last hop, was written

    @property
    def gateways(self) -> tuple[Address, ...]:
        """The gateways, in order."""
        return tuple(hop.gateway for hop in self.hops if hop.gateway is not None)

    @property
    def protocol(self) -> int:
        """The protocol that the kernel shows for the whole."""
        return self.hops[0].protocol

    @property
    def owner(self) -> Writer:
        """Whose it is: ours only if we wrote each hop."""
        return next((hop.writer for hop in self.hops if hop.writer is not Writer.OURS), Writer.OURS)

    def as_candidate(self) -> Candidate:
        """What a witness in that namespace reads off the kernel."""
        hops = tuple(sorted(NextHop(hop.gateway, 2) for hop in self.hops))
        scope = SCOPES["link"] if self.scope_link else SCOPES["global"]
        route = Route(
            self.prefix, TABLES["main"], 0, self.metric, self.protocol, scope, TYPES["unicast"], hops
        )
        return Candidate(route, _KEEP)


class Change(NamedTuple):
    """A change of the kernel's table."""

    at: float
    writer: Writer
    kind: Literal["add", "replace", "delete"]
    route: KernelRoute  # as it is after the change; of a delete, what went


class Request(NamedTuple):
    """A request that reached us or was meant to; status 0: no answer."""

    at: float
    method: Literal["POST", "DELETE", "GET"]
    prefix: Prefix | None
    status: int


class _Event(NamedTuple):
    removal: bool
    route: KernelRoute
    from_api: bool


class _Network(NamedTuple):
    prefix: Prefix
    address: Address
    link: str


class LoxilbModel:
    """One loxilb. Each call takes the time in seconds, which never goes back.

    Args:
        now: when it is; it has long been running.
        networks: its own addresses with their lengths, on the link `eth0`.
        old: it is v0.9.1: no `static`, no words for errors, no ECMP, one row for both defaults.
        queue_limit: events that may wait, before it goes deaf.
    """

    def __init__(
        self,
        now: float = 0.0,
        *,
        networks: tuple[str, ...] = ("192.168.10.20/24", "fd00:10::20/64"),
        old: bool = False,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.now = now
        self.deaf = False
        self.requests: list[Request] = []
        self.changes: list[Change] = []
        """Each change of the kernel's table that it announced."""
        self.taken_from_others: list[KernelRoute] = []
        """Routes that a DELETE of ours removed though we did not write all of them."""
        self.unsafe_reads = 0
        """Inventories that were read while changes of ours waited for ingestion: each could have ended it."""
        self._old = old
        self._queue_limit = queue_limit
        self._kernel: dict[Prefix, tuple[KernelRoute, ...]] = {}
        self._rows: dict[Prefix, InventoryRow] = {}
        self._networks: list[_Network] = []
        self._links_down: set[str] = set()
        self._queue: deque[_Event] = deque()
        self._from_api = 0  # events in the queue that our requests caused
        self._filled = True
        self._fill: Iterator[KernelRoute] | None = None  # while its table fills
        self._answers_at = self._fills_at = now
        self._next_turn = now + TURN_S
        for network in networks:
            self.add_network(network, now)

    # -- requests of ours -------------------------------------------------------------------------------------------

    def post(self, prefix: Prefix, gateway: Address, now: float, fate: Fate = Fate.ANSWERED) -> Reply:
        """POST /config/route."""
        return self._request("POST", prefix, now, fate, lambda: self._add_ours(prefix, gateway))

    def delete(self, prefix: Prefix, now: float, fate: Fate = Fate.ANSWERED) -> Reply:
        """DELETE /config/route/destinationIPNet/PREFIX."""
        return self._request("DELETE", prefix, now, fate, lambda: self._delete_first(prefix))

    def inventory(self, now: float, fate: Fate = Fate.ANSWERED) -> Inventory | None:
        """GET /config/route/all; None: there is no answer."""
        reply = self._request("GET", None, now, fate, lambda: SUCCESS)
        self.unsafe_reads += reply is not NOT_SENT and self._from_api > 0
        return Inventory(dict(self._rows), 0) if reply is SUCCESS else None

    def _request(
        self,
        method: Literal["POST", "DELETE", "GET"],
        prefix: Prefix | None,
        now: float,
        fate: Fate,
        carry_out: Callable[[], Reply],
    ) -> Reply:
        self.tick(now)
        if fate is Fate.REFUSED or now < self._answers_at:
            reply = NOT_SENT
        elif fate is Fate.DROPPED:
            reply = UNANSWERED
        else:
            reply = carry_out()
            if fate is Fate.LOST:
                reply = UNANSWERED
            elif self._old and reply.status != 200:
                reply = FAILED
        self.requests.append(Request(now, method, prefix, reply.status))
        return reply

    def _add_ours(self, prefix: Prefix, gateway: Address) -> Reply:
        if len(gateway) != len(prefix.packed):
            return Reply(500, "gateway, source, and destination ip are not the same IP family")
        link = self._link_to(gateway)
        if link is None:  # the kernel looks at the next hop before it looks whether the route exists
            return Reply(500, "network is unreachable" if len(gateway) == 4 else "no route to host")
        metric = _OUR_METRIC[len(gateway)]
        if any(route.metric == metric for route in self.kernel(prefix)):
            return Reply(409, "file exists")
        protocol = PROTOCOLS["boot" if self._old else "static"]
        hops = (Hop(gateway, link, Writer.OURS, protocol),)
        self._insert(KernelRoute(prefix, metric, hops, scope_link=False, since=self.now))
        return SUCCESS

    def _delete_first(self, prefix: Prefix) -> Reply:
        for route in self.kernel(prefix):
            if not route.scope_link:
                if route.owner is not Writer.OURS:
                    self.taken_from_others.append(route)
                self._remove(route, Writer.OURS)
                return SUCCESS
        return Reply(404, "no such process")

    # -- other writers ----------------------------------------------------------------------------------------------

    def foreign_add(
        self,
        prefix: Prefix,
        *gateways: Address,
        now: float,
        metric: int | None = None,
        protocol: str = "bgp",
        how: Literal["add", "append", "prepend"] = "add",
    ) -> bool:
        """Do `ip route add|append|prepend`; without a gateway it is a device route. False: the kernel refused.

        The metric is the kernel's own by default: 0, for IPv6 1024. An IPv6 append to a route of the same metric adds
        its hops to that route.
        """
        self.tick(now)
        made = self._foreign(prefix, gateways, metric, protocol)
        same = [route for route in self.kernel(prefix) if made and route.metric == made.metric]
        if made is None or (same and how == "add"):
            return False
        if any(self._duplicates(made, route) for route in same):
            return False
        if same and prefix.family is Family.INET6:
            added = tuple(hop for hop in made.hops if hop.gateway not in same[0].gateways)
            whole = same[0]._replace(hops=same[0].hops + added, since=now)
            self._swap(same[0], whole)
            self._announce(whole._replace(hops=added + same[0].hops), Writer.FOREIGN, "replace")
        else:
            self._insert(made, Writer.FOREIGN, first=how == "prepend")
        return True

    def foreign_replace(
        self,
        prefix: Prefix,
        *gateways: Address,
        now: float,
        metric: int | None = None,
        protocol: str = "bgp",
    ) -> bool:
        """Do `ip route replace`: it takes the place of the first route of this metric, also of ours."""
        self.tick(now)
        made = self._foreign(prefix, gateways, metric, protocol)
        if made is None:
            return False
        same = [route for route in self.kernel(prefix) if route.metric == made.metric]
        if not same:
            self._insert(made, Writer.FOREIGN)
        elif prefix.family is Family.INET6 or not any(self._duplicates(made, route) for route in same):
            self._put_in_place(same[0], made, Writer.FOREIGN)
        else:  # the kernel leaves an equal route as it is
            return self._duplicates(made, same[0])
        return True

    def foreign_delete(
        self, prefix: Prefix, now: float, *, metric: int | None = None, gateway: Address | None = None
    ) -> bool:
        """Do `ip route del`: the first route that fits, also of ours; of IPv6 ECMP routes the named hop only."""
        self.tick(now)
        for route in self.kernel(prefix):
            if metric not in (None, route.metric) or (
                gateway is not None and route.gateways != (gateway,) and gateway not in self._ipv6_hops(route)
            ):
                continue
            left = tuple(hop for hop in route.hops if hop.gateway != gateway)
            if gateway is None or not left:
                self._remove(route, Writer.FOREIGN)
            else:
                self._swap(route, route._replace(hops=left, since=now))
                gone = route._replace(hops=tuple(hop for hop in route.hops if hop.gateway == gateway))
                self._announce(gone, Writer.FOREIGN, "delete")
            return True
        return False

    @staticmethod
    def _duplicates(made: KernelRoute, route: KernelRoute) -> bool:
        if made.prefix.family is Family.INET6:
            return set(made.gateways) <= set(route.gateways)
        return (made.gateways, made.protocol) == (route.gateways, route.protocol)

    @staticmethod
    def _ipv6_hops(route: KernelRoute) -> tuple[Address, ...]:
        return route.gateways if route.prefix.family is Family.INET6 else ()

    def _foreign(
        self, prefix: Prefix, gateways: tuple[Address, ...], metric: int | None, protocol: str
    ) -> KernelRoute | None:
        size = len(prefix.packed)
        links = [self._link_to(gateway) for gateway in gateways] or ["eth0"]
        hops = tuple(
            Hop(gateway, link, Writer.FOREIGN, PROTOCOLS[protocol])
            for gateway, link in zip(gateways or (None,), links, strict=True)
            if link is not None and link not in self._links_down
        )
        if len(hops) < len(links):
            return None
        scope_link = size == 4 and not gateways
        number = _OUR_METRIC[size] if metric is None else metric
        return KernelRoute(prefix, number, hops, scope_link, self.now)

    # -- links and addresses ----------------------------------------------------------------------------------------

    def add_network(self, text: str, now: float, link: str = "eth0") -> None:
        """Give a link an address such as 192.168.10.20/24; again: bring back one that was removed."""
        self.tick(now)
        address = Address(Prefix.parse(text.partition("/")[0]).packed)
        network = _Network(Prefix.of(address, int(text.partition("/")[2])), address, link)
        self._networks.append(network)
        self._show_self(network)
        self._connect(network)

    def remove_address(self, network: Prefix, now: float) -> None:
        """Take an address from a link that has others: routes over its network stay, a POST of one is refused."""
        self.tick(now)
        for entry in [entry for entry in self._networks if entry.prefix == network]:
            self._networks.remove(entry)
            for route in self.kernel(network):
                if route.owner is Writer.LOXILB:
                    self._remove(route, Writer.LOXILB)
            self._hide_self(entry)

    def link_down(self, now: float, link: str = "eth0") -> None:
        """Take a link down: its IPv4 routes go without an event, the IPv6 ones with; ECMP routes keep other hops."""
        self.tick(now)
        self._links_down.add(link)
        for routes in list(self._kernel.values()):
            for route in routes:
                left = tuple(hop for hop in route.hops if hop.link != link)
                if left:
                    if left != route.hops:
                        self._swap(route, route._replace(hops=left))
                elif route.prefix.family is Family.INET6:
                    self._remove(route, Writer.LOXILB)
                else:
                    self._swap(route, None)
        for network in self._networks:
            if network.link == link and network.prefix.family is Family.INET6:
                self._hide_self(network)

    def link_up(self, now: float, link: str = "eth0") -> None:
        """Bring it up again, with all its addresses: its connected routes come back, no others."""
        self.tick(now)
        if link not in self._links_down:
            return
        self._links_down.discard(link)
        for network in self._networks:
            if network.link == link:
                self._show_self(network)
                self._connect(network)

    def _connect(self, network: _Network) -> None:
        if network.link not in self._links_down:
            size = len(network.address)
            hops = (Hop(None, network.link, Writer.LOXILB, PROTOCOLS["kernel"]),)
            made = KernelRoute(network.prefix, _CONNECTED_METRIC[size], hops, size == 4, self.now)
            self._insert(made, Writer.LOXILB)

    def _link_to(self, gateway: Address) -> str | None:
        for network in self._networks:
            if network.prefix.contains(gateway) and any(
                route.owner is Writer.LOXILB for route in self.kernel(network.prefix)
            ):
                return network.link
        return None

    # -- its life ---------------------------------------------------------------------------------------------------

    def restart(self, now: float, *, new_namespace: bool = False) -> None:
        """End it and start it again: no answers for 5 s, an empty table for 3 more, then it fills.

        The kernel's routes stay, except in a new namespace, which has the connected ones only.
        """
        self.tick(now)
        self._answers_at = now + API_DELAY_S
        self._fills_at = self._answers_at + FILL_DELAY_S
        self._filled, self._fill = False, None
        self.deaf, self._from_api = False, 0
        self._queue.clear()
        self._rows.clear()
        if new_namespace:
            for prefix, routes in list(self._kernel.items()):
                self._set(prefix, tuple(route for route in routes if route.owner is Writer.LOXILB))

    def tick(self, now: float) -> None:
        """Let it ingest until now."""
        assert now >= self.now, "time goes back"
        self.now = now
        while self._next_turn <= now:
            if self._queue or not self._filled:
                self._turn(self._next_turn)
                self._next_turn += TURN_S
            else:
                self._next_turn += TURN_S * max(1, math.floor((now - self._next_turn) / TURN_S))

    def _turn(self, at: float) -> None:
        if at < self._fills_at:
            return
        if not self._filled:
            self._fill_more()
            return
        for _ in range(min(EVENTS_A_TURN, len(self._queue))):
            event = self._queue.popleft()
            self._from_api -= event.from_api
            self._ingest(event)

    def _fill_more(self) -> None:
        if self._fill is None:
            self._fill = iter(self.kernel_routes())
            for network in self._networks:
                self._show_self(network)
        routes = list(islice(self._fill, FILL_A_TURN))
        for route in routes:
            self._ingest(_Event(removal=False, route=route, from_api=False))
        self._filled = len(routes) < FILL_A_TURN

    # -- the truth --------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Events that are not ingested yet."""
        return len(self._queue)

    def kernel(self, prefix: Prefix) -> tuple[KernelRoute, ...]:
        """Its kernel's routes of a prefix, in the order in which DELETE takes them."""
        return self._kernel.get(prefix, ())

    def kernel_routes(self, *owners: Writer) -> list[KernelRoute]:
        """All its kernel's routes, or those of these owners."""
        return [
            route
            for routes in self._kernel.values()
            for route in routes
            if not owners or route.owner in owners
        ]

    def row(self, prefix: Prefix) -> InventoryRow | None:
        """The row by which it forwards, without a request."""
        return self._rows.get(prefix)

    # -- its kernel -------------------------------------------------------------------------------------------------

    def _insert(self, made: KernelRoute, writer: Writer = Writer.OURS, *, first: bool = False) -> None:
        routes = self.kernel(made.prefix)
        place = sum(
            route.metric < made.metric or (route.metric == made.metric and not first) for route in routes
        )
        self._set(made.prefix, (*routes[:place], made, *routes[place:]))
        self._announce(made, writer, "add")

    def _remove(self, route: KernelRoute, writer: Writer) -> None:
        self._swap(route, None)
        self._announce(route, writer, "delete")

    def _put_in_place(self, old: KernelRoute, new: KernelRoute, writer: Writer) -> None:
        self._swap(old, new)
        self._announce(new, writer, "replace")

    def _swap(self, old: KernelRoute, new: KernelRoute | None) -> None:
        routes = self.kernel(old.prefix)
        place = routes.index(old)
        self._set(old.prefix, (*routes[:place], *([new] if new else []), *routes[place + 1 :]))

    def _set(self, prefix: Prefix, routes: tuple[KernelRoute, ...]) -> None:
        if routes:
            self._kernel[prefix] = routes
        else:
            self._kernel.pop(prefix, None)

    def _announce(
        self, route: KernelRoute, writer: Writer, kind: Literal["add", "replace", "delete"]
    ) -> None:
        self.changes.append(Change(self.now, writer, kind, route))
        self.deaf = self.deaf or len(self._queue) >= self._queue_limit
        if not self.deaf:
            from_api = writer is Writer.OURS
            self._queue.append(_Event(kind == "delete", route, from_api))
            self._from_api += from_api

    # -- its own table ----------------------------------------------------------------------------------------------

    def _ingest(self, event: _Event) -> None:
        route = event.route
        prefix = _IPV4_DEFAULT if self._old and route.prefix.is_default else route.prefix
        if event.removal:
            self._rows.pop(prefix, None)
            return
        if self._old and len(route.hops) > 1:
            return
        gateways, flags = route.gateways, "Ind"
        if not gateways and prefix.is_host:
            gateways, flags = (prefix.packed,), "Ind Host Interface"
        elif not gateways:
            flags = "Self"
        row = self._rows.get(prefix)
        if row is not None and (
            row.gateways == gateways or (self._old and len(row.gateways) == len(gateways))
        ):
            return  # and keeps the protocol of the route that was there first; an old one also keeps the gateway
        self._put_row(prefix, gateways, flags, route.protocol)
        for gateway in gateways:
            host = Prefix(gateway, len(gateway) * 8)
            if host not in self._rows:
                self._put_row(host, (gateway,), "Ind Host", 0)

    def _show_self(self, network: _Network) -> None:
        if not self._filled and self._fill is None:
            return
        for prefix in self._self_rows(network):
            if prefix not in self._rows:
                self._put_row(prefix, (), "Self", 0)

    def _hide_self(self, network: _Network) -> None:
        for prefix in self._self_rows(network):
            self._rows.pop(prefix, None)

    @staticmethod
    def _self_rows(network: _Network) -> tuple[Prefix, ...]:
        """The network, and the address with length 32, whatever its family: a mistake of the original's own."""
        return network.prefix, Prefix.of(network.address, 32)

    def _put_row(self, prefix: Prefix, gateways: tuple[Address, ...], flags: str, protocol: int) -> None:
        named = not self._old and protocol < len(_PROTOCOL_WORDS)
        word = _PROTOCOL_WORDS[protocol] if named else str(protocol)
        self._rows[prefix] = InventoryRow(gateways, frozenset(flags.split()), word)
