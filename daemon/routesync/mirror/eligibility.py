"""Which best route may be sent to which loxilb, with which gateway; decided before any request.

loxilb's API can express a prefix and one gateway, nothing else; and it accepts routes that harm it. So each best route
is either `Desired`, with the one gateway to send, or `Ineligible` with a stable reason code: *unrepresentable* (the API
cannot express it) or *refused* (it could, and must not). The codes are part of the contract with operators and
subscribers.

Everything here is pure. What a decision depends on is gathered before: `TargetFacts` once per inventory, `NodeFacts`
when the node changes, so that no decision scans a table.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import Final, Literal, NamedTuple, Self

from routesync.config.models import TargetSettings
from routesync.kernel import InterfaceAddress
from routesync.loxilb.schema import Inventory
from routesync.names import TYPES, type_name
from routesync.route import (
    Address,
    Candidate,
    Family,
    NextHop,
    Prefix,
    Rewrite,
    Route,
    address_family,
    format_address,
    is_link_local,
    is_multicast,
)

UNICAST: Final = TYPES["unicast"]


class Reason(StrEnum):
    """Why a route that the rules keep is not mirrored into a target."""

    # unrepresentable: loxilb's API cannot express it
    NOT_UNICAST = "not-unicast"
    TOS = "tos"
    ENCAPSULATED = "encapsulated"
    SOURCE_SPECIFIC = "source-specific"
    NO_GATEWAY = "no-gateway"
    OTHER_FAMILY_GATEWAY = "other-family-gateway"
    LINK_LOCAL_GATEWAY = "link-local-gateway"
    # refused: loxilb would accept it and be harmed, or we would lose it
    LINK_LOCAL_PREFIX = "link-local-prefix"
    MULTICAST_PREFIX = "multicast-prefix"
    LOOPBACK_PREFIX = "loopback-prefix"
    INVALID_GATEWAY = "invalid-gateway"
    CONTAINS_NEXT_HOP = "contains-next-hop"
    CONNECTED_AT_TARGET = "connected-at-target"
    GATEWAY_HOST_ROUTE = "gateway-host-route"
    SPLIT_HORIZON = "split-horizon"
    DEFAULT_NOT_ALLOWED = "default-not-allowed"
    DEFAULT_SHARED_WITH_IPV4 = "default-shared-with-ipv4"
    NEARLY_DEFAULT = "nearly-default"
    RETURN_PATH = "return-path"
    NO_SELF_ADDRESS = "no-self-address"
    TARGET_UNKNOWN = "target-unknown"

    @property
    def unrepresentable(self) -> bool:
        """Whether the API cannot express it; otherwise we refuse to send it."""
        return self in UNREPRESENTABLE


UNREPRESENTABLE: Final = frozenset(
    {
        Reason.NOT_UNICAST,
        Reason.TOS,
        Reason.ENCAPSULATED,
        Reason.SOURCE_SPECIFIC,
        Reason.NO_GATEWAY,
        Reason.OTHER_FAMILY_GATEWAY,
        Reason.LINK_LOCAL_GATEWAY,
    }
)


class Desired(NamedTuple):
    """What a target shall have for a prefix."""

    gateway: Address
    rule: str
    degraded: bool = False  # one hop of an ECMP route
    beside: bool = False  # a default that is also added where the target has one of another metric


class Ineligible(NamedTuple):
    """Why a target shall not have the prefix, and what to do about it."""

    reason: Reason
    detail: str
    rule: str


Evaluation = Desired | Ineligible


class Networks(tuple[Prefix, ...]):  # noqa: SLOT001 (the look-up is made once, and kept)
    """The networks that a target is connected to: a tuple that also finds the one an address or prefix lies in."""

    @cached_property
    def _by_length(self) -> dict[int, list[tuple[int, int, dict[int, Prefix]]]]:
        """By the size of an address: each length, longest first, its host bits, and the networks by their number."""
        found: dict[int, dict[int, dict[int, Prefix]]] = {4: {}, 16: {}}
        for it in self:
            size = len(it.packed)
            number = int.from_bytes(it.packed, "big") >> size * 8 - it.length
            found[size].setdefault(it.length, {})[number] = it
        return {
            size: [(length, size * 8 - length, lengths[length]) for length in sorted(lengths, reverse=True)]
            for size, lengths in found.items()
        }

    def covering(self, prefix: Prefix) -> Prefix | None:
        """The longest network that covers the prefix."""
        packed, prefix_length = prefix
        number = int.from_bytes(packed, "big")
        for length, host_bits, networks in self._by_length[len(packed)]:
            if length <= prefix_length and (network := networks.get(number >> host_bits)) is not None:
                return network
        return None

    def containing(self, address: Address) -> Prefix | None:
        """The longest network that contains the address."""
        return self.covering(Prefix(address, len(address) * 8))


class ReturnPath(NamedTuple):
    """What the target's table says of its way back to us, to A, our end of the connection (`return_path`)."""

    shared: int = -1
    """Length of the longest `Self` network that contains both ends of the connection; -1: none does."""
    device_row: bool = False
    """Whether a full-length device row leads to A."""
    gateways: tuple[Address, ...] | None = None
    """Of the longest row that contains A and is not ours; None: no such row."""
    only_ours: tuple[Prefix, Address] | None = None
    """The row of ours that leads to A while no other row does: without it the target does not reach us."""


class TargetFacts(NamedTuple):
    """What is known of a target's place in the network, from its inventory and the connection to it."""

    addresses: frozenset[Address] = frozenset()  # its own, and its VIPs
    connected: Networks = Networks()
    neighbours: frozenset[Address] = frozenset()
    gateways: frozenset[Address] = frozenset()  # of rows that are not ours
    ends: tuple[Address, Address] | None = None  # of the TCP connection: ours, the target's; None: not known
    return_path: ReturnPath = ReturnPath()
    one_default: bool = False  # its table has one entry for 0.0.0.0/0 and ::/0
    known: bool = True  # False: it has not answered yet

    @classmethod
    def from_inventory(
        cls,
        inventory: Inventory,
        ends: tuple[Address, Address] | None = None,
        owned: Mapping[Prefix, Address] | None = None,
        version: str | None = None,
    ) -> TargetFacts:
        """Gather them in one go; see `gather`."""
        steps = cls.gather(inventory, ends, owned, version)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                facts: TargetFacts = end.value
                return facts

    @classmethod
    def gather(
        cls,
        inventory: Inventory,
        ends: tuple[Address, Address] | None,
        owned: Mapping[Prefix, Address] | None = None,
        version: str | None = None,
    ) -> Generator[None, None, TargetFacts]:
        """Gather them, row by row; see `finish_in_slices`.

        A `Self` row without a gateway is an own address (or a VIP) where it has full length, else a connected network,
        but for IPv6 rows of length 32: loxilb shows its own addresses so, wrongly.

        Args:
            inventory: the target's table.
            ends: of the connection to it, as getsockname(2) and getpeername(2) tell; None: not known, or no TCP.
            owned: gateways of the routes that are ours. A row that shows one says nothing of the target's own network.
            version: of the target; None: not known.
        """
        ours = owned or {}
        ends = None if ends is None else (_unmapped(ends[0]), _unmapped(ends[1]))
        around = frozenset() if ends is None else _around(ends[0])
        addresses: set[Address] = set()
        connected: set[Prefix] = set()
        neighbours: set[Address] = set()
        gateways: set[Address] = set()
        longest: dict[bool, Prefix] = {}  # that contains A, by whether the row is ours
        for prefix, row in inventory.rows.items():
            yield
            ours_here = ours.get(prefix)
            is_ours = ours_here is not None and row.gateways == (ours_here,)
            if prefix in around and (is_ours not in longest or longest[is_ours].length < prefix.length):
                longest[is_ours] = prefix
            if is_ours:
                continue
            if row.gateways == (prefix.packed,) and prefix.is_host:
                neighbours.add(prefix.packed)
            elif row.gateways:
                gateways.update(row.gateways)
            elif "Self" in row.flags:
                if prefix.is_host:
                    addresses.add(prefix.packed)
                elif not prefix.is_default and not (prefix.family is Family.INET6 and prefix.length == 32):
                    connected.add(prefix)
        way = ReturnPath()
        if ends is not None:
            both = (network.length for network in connected if all(map(network.contains, ends)))
            theirs, own = longest.get(False), longest.get(True)
            row_of_theirs = inventory.rows[theirs] if theirs is not None else None
            way = ReturnPath(
                max(both, default=-1),
                row_of_theirs is not None
                and theirs is not None
                and theirs.is_host
                and row_of_theirs.flags >= {"Host", "Interface"}
                and row_of_theirs.gateways in {(), (theirs.packed,)},
                row_of_theirs.gateways if row_of_theirs is not None else None,
                (own, ours[own]) if own is not None and theirs is None else None,
            )
        return cls(
            frozenset(addresses),
            Networks(sorted(connected)),
            frozenset(neighbours),
            frozenset(gateways),
            ends,
            way,
            version is not None and version.startswith("before"),
        )


class NodeFacts(NamedTuple):
    """What is known of this node."""

    targets: frozenset[Address] = frozenset()  # addresses of all targets
    gateways: frozenset[Address] = frozenset()  # of any route of this node
    self_addresses: Mapping[Family, Address] = {}  # for `next_hop = "self"`; see the function of this name
    interface_addresses: Mapping[str, Mapping[Family, Address]] = {}  # for `next_hop = { interface = … }`
    suspects: frozenset[Prefix] = frozenset()  # the target fell silent when they were posted


AllowDefault = Literal["no", "yes", "override"]


class TargetRules(NamedTuple):
    """What the configuration says of a target, as far as eligibility goes.

    `allow_default` "override" also sends an IPv4 default where the target has one of another metric.
    """

    allow_default: AllowDefault = "no"
    force_connected: bool = False
    rewrite: Rewrite | None = None
    return_path_ok: frozenset[Prefix] = frozenset()
    min_prefix_length: tuple[int, int] = (8, 16)  # IPv4, IPv6

    @classmethod
    def from_settings(cls, target: TargetSettings) -> Self:
        """The rules of a target in the configuration."""
        allow_default: AllowDefault = "override" if target.allow_default == "override" else "no"
        if target.allow_default is True:
            allow_default = "yes"
        return cls(
            allow_default,
            target.force_connected,
            target.next_hop,
            frozenset(target.return_path_ok),
            target.min_prefix_length,
        )


LOOPBACK: Final = (Prefix.parse("127.0.0.0/8"), Prefix.parse("::1/128"))
LINK_LOCAL: Final = (Prefix.parse("169.254.0.0/16"), Prefix.parse("fe80::/10"))
MULTICAST: Final = (Prefix.parse("224.0.0.0/4"), Prefix.parse("ff00::/8"))
SPECIAL_NETWORKS: Final = (
    (LINK_LOCAL, Reason.LINK_LOCAL_PREFIX),
    (MULTICAST, Reason.MULTICAST_PREFIX),
    (LOOPBACK, Reason.LOOPBACK_PREFIX),
)
SPECIAL: Final = {4: frozenset({127, 169, *range(224, 240)}), 16: frozenset({0, 0xFE, 0xFF})}
"""First bytes of addresses in these networks, by the address's length: a look that spares most routes the rest."""
NO_GATEWAYS: Final = {4: frozenset({0, 127, *range(224, 240), 255}), 16: frozenset({0, 0xFF})}
"""First bytes of addresses that may be no gateway, by the address's length."""
LIMITED_BROADCAST: Final = b"\xff\xff\xff\xff"
NEVER_NEARLY_DEFAULT: Final = (Prefix.parse("240.0.0.0/4"), Prefix.parse("fc00::/7"))
"""Short prefixes in here (reserved, unique local) carry no part of the Internet."""
REMEDY: Final = "set `next_hop` in the rule or the target"
MAPPED: Final = bytes(10) + b"\xff\xff"
"""First bytes of an IPv4 address that an IPv6 socket shows (RFC 4291, section 2.5.5.2)."""


def evaluate(
    candidate: Candidate,
    rules: TargetRules,
    facts: TargetFacts,
    node: NodeFacts,
    current: Address | None = None,
) -> Desired | Ineligible:
    """Decide on one best route for one target.

    Args:
        candidate: the best route and the verdict that kept it.
        rules: the target's configuration.
        facts: what is known of the target.
        node: what is known of this node.
        current: the gateway that the target was sent for this prefix: of an ECMP route it is kept while it is alive.
    """
    route, verdict = candidate
    prefix = route.prefix
    if (no := _unrepresentable(route) or _refused_prefix(prefix, rules, facts, node)) is not None:
        return Ineligible(*no, verdict.rule)
    rewrite = verdict.rewrite or rules.rewrite
    beside = rules.allow_default == "override" and prefix.is_default and prefix.family is Family.INET
    gateway: Address | None = None
    if rewrite is not None:
        if rewrite.to_self and not facts.known:
            if current is not None:  # what a run before found out
                return Desired(current, verdict.rule, beside=beside)
            return Ineligible(
                Reason.TARGET_UNKNOWN,
                'which of our addresses `next_hop = "self"` means is known when the target has answered',
                verdict.rule,
            )
        if rewrite.to_self and (gateway := node.self_addresses.get(prefix.family)) is None:
            return Ineligible(
                Reason.NO_SELF_ADDRESS,
                f"we have no {prefix.family.label} address on the interface that reaches the target, on a network that "
                'the target is connected to; set `next_hop` to an address instead of "self"',
                verdict.rule,
            )
        if rewrite.interface:
            gateway = node.interface_addresses.get(rewrite.interface, {}).get(prefix.family)
            if gateway is None:
                return Ineligible(
                    Reason.NO_SELF_ADDRESS,
                    f"we have no {prefix.family.label} address on {rewrite.interface}; give it one, or set "
                    "`next_hop` to another interface or an address",
                    verdict.rule,
                )
        gateway = gateway or rewrite.for_family(prefix.family)
    if gateway is not None:
        no = _refused_gateway(prefix, gateway, rules, facts, node)
        return Desired(gateway, verdict.rule, beside=beside) if no is None else Ineligible(*no, verdict.rule)
    chosen = _choose(route, rules, facts, node, current)
    if isinstance(chosen, tuple):
        return Ineligible(*chosen, verdict.rule)
    return Desired(chosen, verdict.rule, len(route.live_hops) > 1, beside)


No = tuple[Reason, str]


def _unrepresentable(route: Route) -> No | None:
    if route.type != UNICAST:
        return Reason.NOT_UNICAST, f"its type is {type_name(route.type)}"
    if route.tos:
        return Reason.TOS, f"it is for TOS {route.tos:#04x} only"
    if route.encap:
        return Reason.ENCAPSULATED, "it encapsulates"
    if route.source is not None:
        return Reason.SOURCE_SPECIFIC, f"it is for packets from {route.source} only"
    return None


def _refused_prefix(prefix: Prefix, rules: TargetRules, facts: TargetFacts, node: NodeFacts) -> No | None:
    """Why no gateway could make the prefix eligible."""
    address, length = prefix
    if address[0] in SPECIAL[len(address)]:
        for networks, reason in SPECIAL_NETWORKS:
            if network := _covered(prefix, networks):
                return reason, f"it lies in {network}"
    if not length:
        if rules.allow_default == "no":
            return Reason.DEFAULT_NOT_ALLOWED, "allow_default is false for this target"
        if facts.one_default and len(address) == 16:
            return (
                Reason.DEFAULT_SHARED_WITH_IPV4,
                (
                    "this version of loxilb has one entry for 0.0.0.0/0 and ::/0, and mirroring both destroys one; "
                    "use loxilb v0.9.8 or newer"
                ),
            )
    elif length < (least := rules.min_prefix_length[len(address) == 16]) and not _covered(
        prefix, NEVER_NEARLY_DEFAULT
    ):
        return (
            Reason.NEARLY_DEFAULT,
            (
                f"it is shorter than /{least}, nearly a default route, which allow_default does not cover; lower "
                "`min_prefix_length` of this target to mirror it"
            ),
        )
    if length == len(address) * 8 and (whose := _gateway_of(address, facts, node)):
        return (
            Reason.GATEWAY_HOST_ROUTE,
            f"{format_address(address)} is {whose}, and a host route to it could cut it off; drop it by a rule",
        )
    if not rules.force_connected and (network := facts.connected.covering(prefix)):
        return Reason.CONNECTED_AT_TARGET, f"the target is connected to {network}"
    return None


def _gateway_of(address: Address, facts: TargetFacts, node: NodeFacts) -> str | None:
    if address in node.gateways:
        return "a gateway of this node"
    if address in facts.gateways:
        return "a gateway of the target"
    return "a neighbour of the target" if address in facts.neighbours else None


def _refused_gateway(
    prefix: Prefix, gateway: Address, rules: TargetRules, facts: TargetFacts, node: NodeFacts
) -> No | None:
    """Why the target must not send the prefix to this gateway."""
    if gateway in node.targets or gateway in facts.addresses:
        return Reason.SPLIT_HORIZON, f"its next hop {format_address(gateway)} is a target's own address"
    if gateway[0] in NO_GATEWAYS[len(gateway)] and (
        not any(gateway) or gateway == LIMITED_BROADCAST or is_multicast(gateway) or _is_loopback(gateway)
    ):
        return Reason.INVALID_GATEWAY, f"{format_address(gateway)} cannot be a next hop"
    if prefix.length and prefix.contains(gateway):
        return (
            Reason.CONTAINS_NEXT_HOP,
            f"its next hop {format_address(gateway)} lies inside the prefix itself; {REMEDY}",
        )
    if prefix in node.suspects:
        return (
            Reason.RETURN_PATH,
            "the target fell silent when it was posted; `routesync resync --force` tries it again",
        )
    if cuts_return_path(prefix, gateway, facts, rules.return_path_ok):
        return (
            Reason.RETURN_PATH,
            (
                "it contains the address that we speak to the target from: by the gateway "
                f"{format_address(gateway)} the target's answers might not reach us any more, and we could never "
                "withdraw it; if they do reach us, list the prefix in `return_path_ok` of this target"
            ),
        )
    return None


def cuts_return_path(
    prefix: Prefix, gateway: Address, facts: TargetFacts, allowed: frozenset[Prefix] = frozenset()
) -> bool:
    """Whether the target's answers might not reach us any more once it sends this prefix to this gateway.

    So it is for every prefix that contains A, our end of the connection, unless one of these holds (seen on a real
    loxilb; T is its end):

    - A is link-local or loopback: no such route leads to it.
    - The gateway is A itself. Another address of ours works only without rp_filter=1.
    - A network that the target is connected to contains A and T and is at least as long as the prefix. `Self` rows
      outlive a link that went down, so containing A is not enough.
    - The target shows a full-length device row for A, and the prefix is shorter.
    - The target's longest row that contains A has this one gateway already.
    - The operator allows it.
    - Nothing but this very route of ours leads to A: then withdrawing it would cut us off.
    """
    if facts.ends is None or not prefix.contains(facts.ends[0]):
        return False
    ours = facts.ends[0]
    way = facts.return_path
    return not (
        is_link_local(ours)
        or _is_loopback(ours)
        or gateway == ours
        or way.shared >= prefix.length
        or (way.device_row and not prefix.is_host)
        or way.gateways == (gateway,)
        or prefix in allowed
        or way.only_ours == (prefix, gateway)
    )


def contains_our_end(prefix: Prefix, facts: TargetFacts) -> bool:
    """Whether the prefix contains our end of the connection: such prefixes are withdrawn last."""
    return facts.ends is not None and prefix.contains(facts.ends[0])


def _choose(
    route: Route,
    rules: TargetRules,
    facts: TargetFacts,
    node: NodeFacts,
    current: Address | None,
) -> Address | No:
    """The one hop to send; or why there is none, by the hop that would have been the first choice.

    The hop that was sent before is kept while it is alive: flows that are balanced elsewhere are not disturbed. Else a
    hop on a network that the target is connected to goes first, for loxilb's kernel takes no other gateway; then the
    heaviest, then the lowest address.
    """
    prefix = route.prefix
    why: No | None = None
    found: list[tuple[Address, int]] = []
    for hop in route.live_hops:
        if (no := _inexpressible(prefix, hop)) is None and hop.gateway is not None:
            found.append((hop.gateway, hop.weight))
        else:
            why = why or no
    if not found:
        return why or (Reason.NO_GATEWAY, "it has no next hop")
    if len(found) > 1:
        # the hops of a route are in the order of their addresses, and a sort keeps that
        found.sort(key=lambda it: (it[0] != current, facts.connected.containing(it[0]) is None, -it[1]))
    refused: list[No] = []
    for gateway, _ in found:
        if (no := _refused_gateway(prefix, gateway, rules, facts, node)) is None:
            return gateway
        refused.append(no)
    return refused[0]


def _inexpressible(prefix: Prefix, hop: NextHop) -> No | None:
    if hop.gateway is None:
        return (
            Reason.NO_GATEWAY,
            f"it has no gateway, only a device; {REMEDY}",
        )
    if len(hop.gateway) != len(prefix.packed):
        return (
            Reason.OTHER_FAMILY_GATEWAY,
            f"its gateway {format_address(hop.gateway)} is of the other family; {REMEDY}",
        )
    if is_link_local(hop.gateway):
        return (
            Reason.LINK_LOCAL_GATEWAY,
            f"its gateway {format_address(hop.gateway)} means nothing beyond this link; {REMEDY}",
        )
    return None


def beside_nearly_default(
    evaluated: Iterable[tuple[Candidate, Desired | Ineligible]],
) -> dict[Prefix, int]:
    """Count what passes over the same hop, device and gateway, as a route that is refused as nearly a default.

    A VPN client's list "all but the private networks" holds short and longer prefixes with one next hop: the short ones
    are refused, the others are mirrored. The result has each refused prefix beside which something is mirrored.
    """
    passing: dict[tuple[Address | None, int], int] = {}
    refused: list[Route] = []
    for (route, _), result in evaluated:
        if isinstance(result, Desired):
            for hop in route.live_hops:
                passing[hop.gateway, hop.ifindex] = passing.get((hop.gateway, hop.ifindex), 0) + 1
        elif result.reason is Reason.NEARLY_DEFAULT:
            refused.append(route)
    counts = {
        route.prefix: max((passing.get((hop.gateway, hop.ifindex), 0) for hop in route.live_hops), default=0)
        for route in refused
    }
    return {prefix: count for prefix, count in counts.items() if count}


def self_addresses(addresses: Iterable[InterfaceAddress], facts: TargetFacts) -> dict[Family, Address]:
    """The addresses that `next_hop = "self"` means at a target, by family.

    They are of the interface that reaches the target: the one with a network that the target's address lies in, or else
    the one with our end of the connection. Each lies in a network that the target is connected to. Of several our end
    of the connection goes first, then the lowest.

    Args:
        addresses: of this node's interfaces, in the namespace that routes are read from.
        facts: of the target. Without the ends of a TCP connection there is no such address.
    """
    if facts.ends is None:
        return {}
    ours, theirs = facts.ends
    every = tuple(addresses)
    reaching = [it for it in every if it.network.contains(theirs)]
    best = max(reaching, key=lambda it: (it.address == ours, it.network.length), default=None) or next(
        (it for it in every if it.address == ours), None
    )
    found: dict[Family, Address] = {}
    for it in sorted(every, key=lambda it: (it.address != ours, it.address)):
        family = address_family(it.address)
        if (
            best is not None
            and it.ifindex == best.ifindex
            and family not in found
            and not is_link_local(it.address)
            and facts.connected.containing(it.address) is not None
        ):
            found[family] = it.address
    return found


def interface_addresses(
    addresses: Iterable[InterfaceAddress], names: Mapping[int, str], facts: TargetFacts
) -> dict[str, dict[Family, Address]]:
    """The addresses that `next_hop = { interface = … }` means at a target, for the interfaces that are named.

    Of several, those on a network that the target is connected to go first, then the lowest.

    Args:
        addresses: as for `self_addresses`.
        names: of interfaces, by ifindex.
        facts: of the target.
    """
    found: dict[str, dict[Family, Address]] = {}
    for it in sorted(addresses, key=lambda it: (facts.connected.containing(it.address) is None, it.address)):
        if it.ifindex in names and not is_link_local(it.address):
            found.setdefault(names[it.ifindex], {}).setdefault(address_family(it.address), it.address)
    return found


def _covered(prefix: Prefix, networks: Iterable[Prefix]) -> Prefix | None:
    return next((network for network in networks if network.covers(prefix)), None)


def _is_loopback(address: Address) -> bool:
    return address[0] in SPECIAL[len(address)] and any(network.contains(address) for network in LOOPBACK)


def _unmapped(address: Address) -> Address:
    return Address(address[12:]) if len(address) == 16 and address[:12] == MAPPED else address


def _around(address: Address) -> frozenset[Prefix]:
    """Every prefix that contains the address."""
    return frozenset(Prefix.of(address, length) for length in range(len(address) * 8 + 1))
