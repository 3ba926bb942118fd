"""How the guard goes about removing routes."""

from __future__ import annotations

from pydantic import Field

from routesync.settings.model import Model


class GuardSettings(Model):
    """Mode "guard": routes of rules with `guard = true` are taken out of the kernel, where that is safe.

    See docs/guard.md.
    """

    dry_run: bool = Field(
        default=True,
        description="Only say what would be removed. Look at what it says before you turn this off.",
    )
    settle_s: float = Field(
        default=2,
        ge=0,
        le=600,
        description="A route has to have stood this long before it is looked at, in seconds: its DHCP client may still "
        "be at work.",
    )
    removals_per_minute: float = Field(
        default=6, gt=0, le=600, description="How many routes are removed in a minute at most."
    )
    burst: int = Field(
        default=3, ge=1, le=100, description="How many may be removed at once after a quiet time."
    )
    check_interval_s: float = Field(
        default=300,
        ge=10,
        le=86400,
        description="Routes that stay are looked at again this often, in seconds; at once when links or addresses "
        "change.",
    )
    contended_within_s: float = Field(
        default=60,
        ge=1,
        le=86400,
        description="A route that comes back sooner than this after its removal, in seconds, is contended: somebody "
        "wants it there. It is removed again ever more slowly. One that a lease renewal brings back later is not.",
    )
    contended_delay_s: float = Field(
        default=10,
        ge=1,
        le=86400,
        description="How long a contended route stays the first time, in seconds; doubled each time it comes back.",
    )
    contended_delay_most_s: float = Field(
        default=3600, ge=1, le=86400, description="How long a contended route stays at most, in seconds."
    )
    verify_timeout_s: float = Field(
        default=60,
        ge=5,
        le=3600,
        description="How long after a removal, in seconds, loxilb may show its entry before it is said that it needs a "
        "restart.",
    )
