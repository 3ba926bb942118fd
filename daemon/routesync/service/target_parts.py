"""What a target's configuration becomes: the client that talks to it, and how it is judged and treated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.token import FileToken
from routesync.mirror.eligibility import AllowDefault, TargetRules
from routesync.mirror.limits import Limits
from routesync.route import Prefix
from routesync.settings import TargetSettings, rewrite_of
from routesync.settings.tls import client_context


def make_client(target: TargetSettings) -> LoxilbClient:
    """A client for a target, as its configuration says."""
    return LoxilbClient(
        target.url,
        connect_timeout_s=target.connect_timeout_s,
        request_timeout_s=target.request_timeout_s,
        token=_token_of(target),
        tls=client_context(target.tls) if target.tls else None,
        server_name=target.tls.server_name if target.tls else None,
    )


def _token_of(target: TargetSettings) -> Callable[[], str | None]:
    if target.token_file is not None:
        return FileToken(Path(target.token_file))
    fixed = target.token.get_secret_value() if target.token else None
    return lambda: fixed


def target_rules(target: TargetSettings) -> TargetRules:
    """What eligibility needs of a target's configuration."""
    allow_default: AllowDefault = "override" if target.allow_default == "override" else "no"
    if target.allow_default is True:
        allow_default = "yes"
    return TargetRules(
        allow_default,
        target.force_connected,
        rewrite_of(target.next_hop),
        frozenset(map(Prefix.parse, target.return_path_ok)),
        target.min_prefix_length,
    )


def target_limits(target: TargetSettings) -> Limits:
    """How a target is treated, its rate divided among all who write to it."""
    return Limits(
        rate=target.rate / target.writers,
        burst=max(1, target.burst // target.writers),
        writers=target.writers,
        inventory_interval_s=target.inventory_interval_s,
        probe_interval_s=target.canary_interval_s,
        verify_interval_s=target.sweep_interval_s,
        startup_hold_s=target.startup_hold_s,
        withdraw_delay_s=target.withdraw_delay_s,
        max_inet=target.max_routes_ipv4,
        max_inet6=target.max_routes_ipv6,
        withdraw_share=target.brake_share,
        withdraw_minimum=target.brake_minimum,
    )


_JUDGED_OR_TREATED = frozenset(
    {
        "allow_default",
        "force_connected",
        "min_prefix_length",
        "return_path_ok",
        "next_hop",
        "rate",
        "burst",
        "writers",
        "inventory_interval_s",
        "canary_interval_s",
        "sweep_interval_s",
        "startup_hold_s",
        "withdraw_delay_s",
        "max_routes_ipv4",
        "max_routes_ipv6",
        "brake_share",
        "brake_minimum",
    }
)
"""Keys that `target_rules` and `target_limits` are made of. All others are of the way to it."""


class Way(NamedTuple):
    """How a target is reached and observed; where two differ, contact has to be made anew."""

    settings: TargetSettings  # without what is judged and treated by
    files: tuple[tuple[str, int, int], ...]  # of TLS: name, time of change in ns, size


def way_to(target: TargetSettings) -> Way:
    """The way to a target, with the state in which its files are: certificates are renewed under the same name."""
    defaults = {name: TargetSettings.model_fields[name].get_default() for name in _JUDGED_OR_TREATED}
    tls = target.tls
    names = (tls.ca_file, tls.cert_file, tls.key_file) if tls else ()
    return Way(target.model_copy(update=defaults), tuple(map(_state_of, filter(None, names))))


def _state_of(name: str) -> tuple[str, int, int]:
    try:
        found = Path(name).stat()
    except OSError:
        return (name, 0, 0)
    return (name, found.st_mtime_ns, found.st_size)
