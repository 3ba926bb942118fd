"""The rules: what a route is compared with, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from routesync.names import PROTOCOLS, Names
from routesync.route import Rewrite
from routesync.settings.fields import (
    FamilyWord,
    FlagBit,
    GatewayMatch,
    InterfaceGlob,
    LengthSpan,
    MetricSpan,
    Name,
    Network,
    NextHopText,
    OneOrMany,
    ProtocolWord,
    ScopeNumber,
    TableWord,
    TypeNumber,
    host_names,
)
from routesync.settings.model import Model
from routesync.settings.notation import MAX_U8, NotationError, kind_of, read_number, read_rewrite


class PrefixMatch(Model):
    """What a route's prefix is compared with. As a bare string: `exact`."""

    exact: OneOrMany[Network] | None = Field(default=None, description="The route's prefix is this one.")
    within: OneOrMany[Network] | None = Field(
        default=None, description="The route's prefix lies inside this one (or is it)."
    )
    covers: OneOrMany[Network] | None = Field(
        default=None, description="The route's prefix contains this address or prefix."
    )
    length: OneOrMany[LengthSpan] | None = Field(
        default=None, description='The length of the route\'s prefix: a number, or a range like "24-32".'
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_a_string(cls, value: object) -> object:
        if isinstance(value, str):
            return {"exact": value}
        if isinstance(value, dict) and not value:
            raise NotationError("the table is empty", "give exact, within, covers or length")
        if not isinstance(value, dict | PrefixMatch):
            raise NotationError(
                f'expected a prefix as a string, a table like {{ within = "10.0.0.0/8" }}, or a list of them, '
                f"got {kind_of(value)}"
            )
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Tell the schema of the bare string."""
        table = handler.resolve_ref_schema(handler(schema))
        return {"anyOf": [{"type": "string"}, table]}


class MatchSettings(Model):
    """What a rule matches: all keys that are given must hold; a list holds when one of its members does.

    Dead and linkdown hops are taken off an ECMP route before the keys about hops (gateway, interface, flags) are
    compared, and these hold only when all remaining hops match.
    """

    protocol: OneOrMany[ProtocolWord] | None = Field(
        default=None, description="Who made the route: a built-in name, one of rt_protos, or a number."
    )
    family: OneOrMany[FamilyWord] | None = Field(default=None, description="ipv4 or ipv6.")
    prefix: OneOrMany[PrefixMatch] | None = Field(
        default=None,
        description="The route's prefix: a string is exact; a table has exact, within, covers or length.",
    )
    host: bool | None = Field(default=None, description="Whether the prefix has full length: /32, /128.")
    default_route: bool | None = Field(
        default=None, description="Whether the route is a default route: 0.0.0.0/0, ::/0."
    )
    scope: OneOrMany[ScopeNumber] | None = Field(
        default=None, description="global, site, link, host, nowhere, or a number."
    )
    type: OneOrMany[TypeNumber] | None = Field(
        default=None, description="unicast, local, broadcast, blackhole, unreachable, …, or a number."
    )
    table: OneOrMany[TableWord] | None = Field(
        default=None, description="The routing table: a name of rt_tables, or a number."
    )
    metric: OneOrMany[MetricSpan] | None = Field(
        default=None, description='A number, or a range like "100-200", "1024-", "-50".'
    )
    gateway: GatewayMatch | None = Field(
        default=None,
        description="true: every hop has a gateway; false: none has; "
        "or a prefix that the gateway of every hop lies in.",
    )
    link_gateway: bool | None = Field(
        default=None,
        description="Whether it is a host route to the gateway of its link: unicast, full length, no gateway, for IPv4 "
        "scope link, and its address is the gateway of another route over the same interface.",
    )
    interface: OneOrMany[InterfaceGlob] | None = Field(
        default=None, description="Glob of the interface's name, for every hop."
    )
    flags: OneOrMany[FlagBit] | None = Field(
        default=None, description="A flag that every hop has: linkdown, onlink, dead, …"
    )
    source: OneOrMany[Network] | None = Field(
        default=None, description="The preferred source address (src), or a prefix that it lies in."
    )


class RuleSettings(Model):
    """One rule of the policy."""

    name: Name = Field(description="Names the rule in verdicts, events and metrics; unique.")
    match: MatchSettings = Field(default=MatchSettings(), description="Which routes; without it, all.")
    action: Literal["keep", "drop"] = Field(description="What becomes of them.")
    next_hop: OneOrMany[NextHopText] | None = Field(
        default=None,
        description="With keep: the gateway to send instead of the kernel's; one address, one of each family, or "
        '"self", our own address on the interface that reaches the target.',
    )
    report: bool = Field(
        default=False,
        description="Each drop by this rule is an event; without it drops are only counted.",
    )
    guard: bool = Field(
        default=False,
        description='With drop, in mode "guard": take the routes that this rule drops out of the kernel, where another '
        'route reaches the same neighbour. Only for DHCP host routes: match needs protocol = "dhcp", host = true and '
        "gateway = false, or link_gateway = true.",
    )

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name == "default":
            raise NotationError(
                "'default' is what verdicts name the default action by", "give the rule another name"
            )
        return name

    @field_validator("next_hop")
    @classmethod
    def _next_hop_is_for_keep(
        cls, value: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if value is not None:
            read_rewrite(value)
            if info.data.get("action") == "drop":
                raise NotationError(
                    "a dropped route has no next hop", 'leave the key out, or set action = "keep"'
                )
        return value

    @field_validator("guard")
    @classmethod
    def _guard_is_for_dhcp_host_routes(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  # pydantic's
        match, action = info.data.get("match"), info.data.get("action")
        if not value or match is None or action is None:  # what is wrong there is told already
            return value
        if action != "drop":
            raise NotationError(
                "a route that is kept is not to be removed", 'leave the key out, or set action = "drop"'
            )
        by_dhcp = _only(match, info, "dhcp") and match.host is True and match.gateway is False
        to_gateway = match.link_gateway is True and (
            match.protocol is None or _only(match, info, "dhcp", "boot")
        )
        if not (by_dhcp or to_gateway):
            raise NotationError(
                "only DHCP host routes are ever removed from the kernel, and this rule could match others",
                'write match = { protocol = "dhcp", host = true, gateway = false } or '
                'match = { protocol = ["dhcp", "boot"], link_gateway = true }, and narrow it further as you like',
            )
        return value


def _only(match: MatchSettings, info: ValidationInfo, *protocols: str) -> bool:
    """Whether a rule matches routes of these protocols alone."""
    names = (host_names(info) or Names()).protocols
    allowed = {PROTOCOLS[protocol] for protocol in protocols}
    return match.protocol is not None and all(
        read_number(word, "protocol", names, MAX_U8) in allowed for word in match.protocol
    )


class PolicySettings(Model):
    """Which routes are fit to be mirrored: ordered rules, first match wins, then the default."""

    default_action: Literal["keep", "drop"] = Field(
        default="keep", description="What becomes of routes that no rule matches."
    )
    rules: tuple[RuleSettings, ...] = Field(default=(), strict=False, description="The rules, in order.")


def rewrite_of(next_hop: str | Iterable[str] | None) -> Rewrite | None:
    """Turn a `next_hop` setting, of a rule or a target, into the hops to put in place; None where nothing is set.

    Raises:
        NotationError: no usable address, or two of one family. The models have seen to that.
    """
    return None if next_hop is None else read_rewrite(next_hop)
