"""What becomes of routes: at the rules, and at a target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from routesync.events.fields import Detail, FamilyLabel, Gateway, PrefixText, Reason, Rule, Seconds, Target
from routesync.events.models.base import Event


class RouteAccepted(Event):
    """The target took the route (2xx): a new one, or one in place of another gateway."""

    group = "route"
    name = "accepted"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    rule: Rule
    degraded: bool = Field(
        default=False,
        description="A part could not be told, such as the other hops of an ECMP route.",
    )
    previous_gateway: Annotated[
        str | None, Field(description="The gateway that this one replaces; null for a new route.")
    ] = None
    gap_ms: Annotated[
        float | None,
        Field(
            description="Of a replacement: how long the target had no route of ours for the prefix, in milliseconds.",
            ge=0,
        ),
    ] = None


class RouteConfirmed(Event):
    """The target's own table shows the route with our gateway: it is not only accepted, it is there."""

    group = "route"
    name = "confirmed"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway


class RouteWithdrawn(Event):
    """The route is no longer in the target; or, with the reason `left-behind`, it stays there and is not desired."""

    group = "route"
    name = "withdrawn"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    reason: Reason


class RouteRefused(Event):
    """The target refused the route, so it does not have it; it is tried again, with back-off."""

    group = "route"
    name = "refused"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    status: Annotated[int, Field(description="HTTP status of the answer.", examples=[500])]
    message: Annotated[str, Field(description="The target's own words.", examples=["network is unreachable"])]
    retry_in_s: Seconds


class RouteIneligible(Event):
    """The route is not sent to the target: loxilb's API cannot express it, or it would do harm there."""

    group = "route"
    name = "ineligible"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    reason: Reason
    detail: Detail
    rule: Rule


class RouteConflicting(Event):
    """Another writer has a route to this prefix in the target. It is never touched; ours waits."""

    group = "route"
    name = "conflicting"

    target: Target
    prefix: PrefixText
    family: FamilyLabel
    gateway: Gateway
    detail: Detail


class RouteDropped(Event):
    """A rule with `report = true` dropped a route of the kernel.

    Under churn most of these are left out; `route/summary` tells how many.
    """

    group = "route"
    name = "dropped"

    prefix: PrefixText
    family: FamilyLabel
    protocol: Annotated[str, Field(description="The routing protocol's name.", examples=["dhcp"])]
    rule: Rule
    interface: Annotated[
        str | None,
        Field(description="Interface of its first hop; null where there is none.", examples=["ens3"]),
    ] = None


class RouteSummary(Event):
    """Drops that were not told one by one, at most once a second: how many, by rule."""

    group = "route"
    name = "summary"

    window_s: Seconds
    dropped: Annotated[
        dict[str, int], Field(description="Rule to number of drops.", examples=[{"dhcp-host-routes": 118}])
    ]
