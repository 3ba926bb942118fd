"""Which elected route may be told to which loxilb, and how: the judgement before any request.

loxilb's API can say a prefix and one gateway, nothing else; and it takes things that harm it. So each elected route is
either `Wanted` (with the one gateway to tell), or `Blocked` with a stable reason code: *unrepresentable* (the API
cannot say it) or *refused* (it could, and must not). The codes are part of the contract with operators and subscribers.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from routesync.loxilb.wire import Inventory
from routesync.names import TYPES, type_name
from routesync.route import (
    Address,
    Candidate,
    Family,
    NextHop,
    Prefix,
    Rewrite,
    address_family,
    format_address,
    is_link_local,
    is_multicast,
    parse_address,
)

UNICAST: Final = TYPES["unicast"]


class Reason(StrEnum):
    """Why a route that the rules keep is not mirrored into a target."""

    # unrepresentable: loxilb's API has no words for it
    NOT_UNICAST = "not-unicast"
    TOS = "tos"
    ENCAPSULATED = "encapsulated"
    NO_GATEWAY = "no-gateway"
    OTHER_FAMILY_GATEWAY = "other-family-gateway"
    LINK_LOCAL_GATEWAY = "link-local-gateway"
    # refused: loxilb would take it and be harmed
    LINK_LOCAL_PREFIX = "link-local-prefix"
    MULTICAST_PREFIX = "multicast-prefix"
    LOOPBACK_PREFIX = "loopback-prefix"
    INVALID_GATEWAY = "invalid-gateway"
    CONTAINS_NEXT_HOP = "contains-next-hop"
    CONNECTED_AT_TARGET = "connected-at-target"
    SPLIT_HORIZON = "split-horizon"
    DEFAULT_NOT_ALLOWED = "default-not-allowed"

    @property
    def unrepresentable(self) -> bool:
        """Whether the API cannot say it; otherwise we refuse to."""
        return self in UNREPRESENTABLE


UNREPRESENTABLE: Final = frozenset(
    {
        Reason.NOT_UNICAST,
        Reason.TOS,
        Reason.ENCAPSULATED,
        Reason.NO_GATEWAY,
        Reason.OTHER_FAMILY_GATEWAY,
        Reason.LINK_LOCAL_GATEWAY,
    }
)


class Wanted(NamedTuple):
    """What a target shall have for a prefix."""

    gateway: Address
    rule: str
    degraded: bool = False  # one hop stands for an ECMP route


class Blocked(NamedTuple):
    """Why a target shall not have the prefix."""

    reason: Reason
    detail: str
    rule: str


class TargetFacts(NamedTuple):
    """What is known of a target's own place in the network."""

    addresses: frozenset[Address] = frozenset()
    connected: tuple[Prefix, ...] = ()

    @classmethod
    def from_inventory(cls, inventory: Inventory) -> TargetFacts:
        """Read them off its `Self` rows: full length is an own address (or a VIP), shorter a connected network.

        IPv6 `Self` rows of length 32 are left out: loxilb shows own addresses so, wrongly.
        """
        addresses: set[Address] = set()
        connected: set[Prefix] = set()
        for prefix, row in inventory.rows.items():
            if "Self" not in row.flags or row.gateways:
                continue
            if prefix.is_host:
                addresses.add(prefix.packed)
            elif not prefix.is_default and not (prefix.family is Family.INET6 and prefix.length == 32):
                connected.add(prefix)
        return cls(frozenset(addresses), tuple(sorted(connected, key=lambda prefix: prefix.sort_key)))


class TargetRules(NamedTuple):
    """What the configuration says of a target, as far as the judgement goes."""

    allow_default: bool = False
    force_connected: bool = False
    rewrite: Rewrite | None = None


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
LIMITED_BROADCAST: Final = b"\xff\xff\xff\xff"


def _covered(prefix: Prefix, networks: Iterable[Prefix]) -> Prefix | None:
    return next((network for network in networks if network.covers(prefix)), None)


def judge(
    candidate: Candidate, rules: TargetRules, facts: TargetFacts, targets: frozenset[Address]
) -> Wanted | Blocked:
    """Decide on one elected route for one target.

    Args:
        candidate: the elected route and the verdict that kept it.
        rules: the target's configuration.
        facts: the target's own addresses and networks, as far as they are known.
        targets: the addresses of all targets, for split horizon.
    """
    route, verdict = candidate
    prefix = route.prefix

    def blocked(reason: Reason, detail: str) -> Blocked:
        return Blocked(reason, detail, verdict.rule)

    if route.type != UNICAST:
        return blocked(Reason.NOT_UNICAST, f"its type is {type_name(route.type)}")
    if route.tos:
        return blocked(Reason.TOS, f"it holds for TOS {route.tos:#04x} only")
    if route.encap:
        return blocked(Reason.ENCAPSULATED, "it encapsulates")
    if prefix.packed[0] in SPECIAL[len(prefix.packed)]:
        for networks, reason in SPECIAL_NETWORKS:
            if network := _covered(prefix, networks):
                return blocked(reason, f"it lies in {network}")
    if prefix.is_default and not rules.allow_default:
        return blocked(Reason.DEFAULT_NOT_ALLOWED, "allow_default is false for this target")
    if not rules.force_connected and (network := _covered(prefix, facts.connected)):
        return blocked(Reason.CONNECTED_AT_TARGET, f"the target is connected to {network}")

    rewrite = verdict.rewrite or rules.rewrite
    gateway = rewrite.for_family(prefix.family) if rewrite else None
    degraded = False
    if gateway is None:
        chosen = _own_gateway(prefix, route.live_hops)
        if isinstance(chosen, tuple):
            return blocked(*chosen)
        gateway, degraded = chosen, len(route.live_hops) > 1

    if gateway in targets or gateway in facts.addresses:
        return blocked(
            Reason.SPLIT_HORIZON, f"its next hop {format_address(gateway)} is a target's own address"
        )
    if not any(gateway) or gateway == LIMITED_BROADCAST or is_multicast(gateway) or _is_loopback(gateway):
        return blocked(Reason.INVALID_GATEWAY, f"{format_address(gateway)} can be nobody's next hop")
    if not prefix.is_default and prefix.contains(gateway):
        return blocked(Reason.CONTAINS_NEXT_HOP, f"it contains its own next hop {format_address(gateway)}")
    return Wanted(gateway, verdict.rule, degraded)


def _is_loopback(address: Address) -> bool:
    return address[0] in SPECIAL[len(address)] and any(network.contains(address) for network in LOOPBACK)


def _own_gateway(prefix: Prefix, hops: tuple[NextHop, ...]) -> Address | tuple[Reason, str]:
    """The first hop, in sorted order, that the API has words for; or why there is none."""
    why: tuple[Reason, str] | None = None
    for hop in hops:
        if hop.gateway is None:
            why = why or (Reason.NO_GATEWAY, "it has no gateway, only a device")
        elif address_family(hop.gateway) is not prefix.family:
            why = why or (
                Reason.OTHER_FAMILY_GATEWAY,
                f"its gateway {format_address(hop.gateway)} is of the other family",
            )
        elif is_link_local(hop.gateway):
            why = why or (
                Reason.LINK_LOCAL_GATEWAY,
                f"its gateway {format_address(hop.gateway)} means nothing beyond this link",
            )
        else:
            return hop.gateway
    return why or (Reason.NO_GATEWAY, "it has no next hop")


def url_address(url: str) -> Address | None:
    """The address in a target's URL, if it is one and no name."""
    host = url.partition("://")[2].partition("/")[0]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    try:
        return parse_address(host)
    except ValueError:
        return None
