"""The policy in the configuration: models of the rules, and the compiler from them to `routesync.policy`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from pydantic import Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from routesync.config.parsers import (
    FamilyWord,
    FlagBit,
    GatewayMatch,
    InterfaceGlob,
    LengthSpan,
    MetricSpan,
    Model,
    Name,
    Network,
    NextHops,
    OneOrMany,
    ProtocolNumber,
    ScopeNumber,
    SettingError,
    TableNumber,
    TypeNumber,
    kind_of,
)
from routesync.names import PROTOCOLS
from routesync.policy import Policy, Rule
from routesync.policy.conditions import (
    ALL_SHAPES,
    Condition,
    GatewayIn,
    HasFlags,
    HasGateway,
    InterfaceLike,
    LinkGateway,
    MetricIn,
    NumberIn,
    PrefixIs,
    PrefixTerm,
    ShapeIn,
    SourceIn,
    TableIn,
)
from routesync.route import Rewrite, Verdict


class PrefixMatch(Model):
    """What a route's prefix is compared with. A bare string means `exact`."""

    exact: OneOrMany[Network] | None = None
    """The route's prefix is this one."""
    within: OneOrMany[Network] | None = None
    """The route's prefix lies inside this one, or equals it."""
    covers: OneOrMany[Network] | None = None
    """The route's prefix contains this address or prefix."""
    length: OneOrMany[LengthSpan] | None = None
    """The length of the route's prefix: a number, or a range like "24-32"."""
    list: Name | None = None  # the key's name
    """A list of [policy.prefix_lists], by its name; it cannot be combined with the other keys in one entry."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_string(cls, value: object) -> object:
        if isinstance(value, str):
            return {"exact": value}
        if isinstance(value, dict) and not value:
            raise SettingError("the table is empty", "give exact, within, covers, length or list")
        if isinstance(value, dict) and not value.keys().isdisjoint(("le", "ge")):
            lengths = f"{value.get('ge', '')}-{value.get('le', '')}"
            raise SettingError(
                "le and ge are written as one range of lengths",
                f'write length = "{lengths}", beside within = "PREFIX"',
            )
        if isinstance(value, dict) and "list" in value and len(value) > 1:
            raise SettingError(
                "list cannot be combined with other keys in one entry",
                "write the other keys into the entries of the list, or, as an alternative to it, into a second entry",
            )
        if not isinstance(value, dict | PrefixMatch):
            raise SettingError(
                f'expected a prefix as a string, a table like {{ within = "10.0.0.0/8" }}, or a list of them, '
                f"got {kind_of(value)}"
            )
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        table = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"type": "string"}, table]}


class MatchSettings(Model):
    """What a rule matches: all given keys must match; a list matches when one of its members does.

    Dead and linkdown hops of an ECMP route are ignored. The keys about hops (gateway, interface, flags) match only when
    all remaining hops do.
    """

    protocol: OneOrMany[ProtocolNumber] | None = None
    """The route's protocol: a built-in name, a name from rt_protos, or a number."""
    family: OneOrMany[FamilyWord] | None = None
    """ipv4 or ipv6."""
    prefix: OneOrMany[PrefixMatch] | None = None
    """The route's prefix: a string is exact; a table has exact, within, covers or length."""
    host: bool | None = None
    """Whether the prefix has full length: /32, /128."""
    default_route: bool | None = None
    """Whether the route is a default route: 0.0.0.0/0, ::/0."""
    scope: OneOrMany[ScopeNumber] | None = None
    """global, site, link, host, nowhere, or a number."""
    type: OneOrMany[TypeNumber] | None = None
    """unicast, local, broadcast, blackhole, unreachable, …, or a number."""
    table: OneOrMany[TableNumber] | None = None
    """The routing table: a name from rt_tables, or a number."""
    metric: OneOrMany[MetricSpan] | None = None
    """A number, or a range like "100-200", "1024-", "-50"."""
    gateway: GatewayMatch | None = None
    """true: every hop has a gateway; false: no hop has one; or a prefix that contains the gateway of every hop."""
    link_gateway: bool | None = None
    """Whether this is a host route to the gateway of its link: unicast, full length, no gateway, for IPv4 scope
    link, and its address is the gateway of another route over the same interface."""
    interface: OneOrMany[InterfaceGlob] | None = None
    """Name or glob that the interface of every hop matches."""
    flags: OneOrMany[FlagBit] | None = None
    """A flag that every hop has: linkdown, onlink, dead, …"""
    source: OneOrMany[Network] | None = None
    """The preferred source address (src), or a prefix that contains it."""


class RuleSettings(Model):
    """One rule of the policy."""

    name: Name
    """Unique name, used in verdicts, events and metrics."""
    match: MatchSettings = MatchSettings()
    """Which routes; without it, all routes."""
    action: Literal["keep", "drop"]
    """Whether matching routes are kept or dropped."""
    next_hop: NextHops | None = None
    """With keep: the gateway to send instead of the kernel's; one address, one of each family, "self", this
    host's address on the interface that reaches the target, or { interface = "ens3" }, its address on that one."""
    report: bool = False
    """Publish an event for each drop by this rule; without it drops are only counted."""
    guard: bool = False
    """With drop, in mode "guard": remove the routes that this rule drops from the kernel, where another route
    reaches the same neighbour. Only for DHCP host routes: match needs protocol = "dhcp", host = true and gateway =
    false, or link_gateway = true."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name == "default":
            raise SettingError(
                "'default' is reserved for the default action in verdicts", "give the rule another name"
            )
        return name

    @field_validator("next_hop")
    @classmethod
    def _next_hop_is_for_keep(cls, value: Rewrite | None, info: ValidationInfo) -> Rewrite | None:
        if value is not None and info.data.get("action") == "drop":
            raise SettingError("a dropped route has no next hop", 'leave the key out, or set action = "keep"')
        return value

    @field_validator("guard")
    @classmethod
    def _guard_is_for_dhcp_host_routes(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  # pydantic's
        match, action = info.data.get("match"), info.data.get("action")
        if not value or match is None or action is None:  # reported as errors of their own
            return value
        if action != "drop":
            raise SettingError(
                "a rule that keeps routes cannot remove them", 'leave the key out, or set action = "drop"'
            )
        by_dhcp = _only(match, "dhcp") and match.host is True and match.gateway is False
        to_gateway = match.link_gateway is True and (match.protocol is None or _only(match, "dhcp", "boot"))
        if not (by_dhcp or to_gateway):
            raise SettingError(
                "only DHCP host routes are removed from the kernel, and this rule could match others",
                'write match = { protocol = "dhcp", host = true, gateway = false } or '
                'match = { protocol = ["dhcp", "boot"], link_gateway = true }, and narrow it further as you like',
            )
        return value


def _only(match: MatchSettings, *protocols: str) -> bool:
    """Whether a rule matches routes of these protocols alone."""
    allowed = {PROTOCOLS[protocol] for protocol in protocols}
    return match.protocol is not None and allowed.issuperset(match.protocol)


class PolicySettings(Model):
    """Which routes are mirrored: ordered rules, first match wins, then the default action."""

    default_action: Literal["keep", "drop"] = "keep"
    """Whether routes that no rule matches are kept or dropped."""
    prefix_lists: dict[Name, OneOrMany[PrefixMatch]] = Field(default={}, max_length=1000)
    """Named lists of prefixes, usable in several rules: `match = { prefix = { list = "internal" } }`. Each entry is
    written as the key prefix of a rule."""
    rules: tuple[RuleSettings, ...] = Field(default=(), strict=False)
    """The rules, in order."""


def compile_policy(settings: PolicySettings) -> Policy:
    rules = tuple(
        Rule(
            rule.name,
            tuple(_conditions(rule.match, settings.prefix_lists)),
            Verdict(
                keep=rule.action == "keep",
                rule=rule.name,
                rewrite=rule.next_hop,
                report=rule.report,
                guard=rule.guard,
            ),
        )
        for rule in settings.rules
    )
    return Policy(rules, Verdict(keep=settings.default_action == "keep", rule="default"))


def _conditions(match: MatchSettings, lists: Mapping[str, tuple[PrefixMatch, ...]]) -> Iterator[Condition]:
    if match.protocol is not None:
        yield NumberIn("protocol", frozenset(match.protocol))
    if match.type is not None:
        yield NumberIn("type", frozenset(match.type))
    if match.scope is not None:
        yield NumberIn("scope", frozenset(match.scope))
    if match.family is not None or match.host is not None or match.default_route is not None:
        yield ShapeIn(frozenset(_shapes(match)))
    if match.table is not None:
        yield TableIn(frozenset(match.table))
    if match.link_gateway is not None:
        yield LinkGateway(match.link_gateway)
    if match.metric is not None:
        yield MetricIn(match.metric)
    if match.flags is not None:
        yield HasFlags(sum(set(match.flags)))
    if isinstance(match.gateway, bool):
        yield HasGateway(match.gateway)
    elif match.gateway is not None:
        yield GatewayIn(match.gateway)
    if match.source is not None:
        yield SourceIn(match.source)
    if match.prefix is not None:
        yield PrefixIs(
            _terms(entry for it in match.prefix for entry in (lists[it.list] if it.list else (it,)))
        )
    if match.interface is not None:
        yield InterfaceLike(match.interface)


def _shapes(match: MatchSettings) -> Iterator[tuple[int, int]]:
    families = None if match.family is None else {family.bits // 8 for family in match.family}
    for width, length in ALL_SHAPES:
        if (
            (families is None or width in families)
            and (match.host is None or match.host == (length == width * 8))
            and (match.default_route is None or match.default_route == (length == 0))
        ):
            yield width, length


def _terms(matches: Iterable[PrefixMatch]) -> tuple[PrefixTerm, ...]:
    """Gather the terms; those that only list networks become one, so that a long list costs one look-up."""
    terms = [PrefixTerm(match.exact, match.within, match.covers, match.length) for match in matches]
    exact = tuple(prefix for term in terms if _is_exact(term) for prefix in term.exact or ())
    rest = tuple(term for term in terms if not _is_exact(term))
    return (PrefixTerm(exact=exact), *rest) if exact else rest


def _is_exact(term: PrefixTerm) -> bool:
    return term.exact is not None and term.within is None and term.covers is None and term.lengths is None
