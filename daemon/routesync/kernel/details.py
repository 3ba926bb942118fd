"""What a route says beside its way: metrics, the preference of its router, when it expires.

Read where people ask (`plan`, `explain`), and not part of a `Route`: no rule matches them, loxilb cannot be told of
them, and the kernel changes them without a word: a router advertisement renews an expiry and the MTU silently
(rt6_route_rcv(), fib6_add_rt2node()). A replica that held them would drift.
"""

from __future__ import annotations

import math
import struct
from typing import Final, Literal, NamedTuple

from routesync.kernel.errors import DecodeError
from routesync.kernel.surroundings import attributes
from routesync.route import Route

Preference = Literal["low", "medium", "high"]

_RTMSG_SIZE: Final = 12
_RTA_METRICS, _RTA_CACHEINFO, _RTA_PREF = 8, 12, 20
_U32: Final = struct.Struct("=I")
_CACHEINFO: Final = struct.Struct("=IIi")  # struct rta_cacheinfo as far as rta_expires
_USER_HZ: Final = 100  # clock_t of the kernel's interfaces, time(7)

_PREFERENCES: Final[dict[int, Preference]] = {0: "medium", 1: "high", 3: "low"}  # RFC 4191, linux/icmpv6.h
_RTAX_CC_ALGO: Final = 16
_METRICS: Final = (
    "lock",
    "mtu",
    "window",
    "rtt",
    "rttvar",
    "ssthresh",
    "cwnd",
    "advmss",
    "reordering",
    "hoplimit",
    "initcwnd",
    "features",
    "rto_min",
    "initrwnd",
    "quickack",
    "cc_algo",
    "fastopen_no_cookie",
)
"""RTAX_LOCK (1) and on, of linux/rtnetlink.h, as ip-route(8) calls them."""


class RouteDetails(NamedTuple):
    """What a route carries besides; nothing of it decides anything here."""

    metrics: tuple[tuple[str, int | str], ...] = ()  # RTA_METRICS by name, in the kernel's own units
    preference: Preference | None = None  # RTA_PREF: of the router that advertised it; IPv6 only
    expires_s: int | None = (
        None  # seconds until its lifetime ends; zero and less: it is over; None: no end is set
    )

    def expired(self, route: Route) -> bool:
        """Whether its lifetime is over: the kernel lists it still, and does not use it (fib6_check_expired()).

        A multipath route carries the lifetime of its first hop alone, which says nothing of the others.
        """
        return self.expires_s is not None and self.expires_s <= 0 and len(route.hops) < 2


def decode_details(data: bytes, start: int, end: int) -> RouteDetails:
    """Read the details from the body of a route message.

    Raises:
        DecodeError: not a route message.
    """
    if end - start < _RTMSG_SIZE or end > len(data):
        raise DecodeError(f"route message of {end - start} bytes")
    found = attributes(data, start + _RTMSG_SIZE, end)
    preference = found.get(_RTA_PREF)
    return RouteDetails(
        _metrics(found[_RTA_METRICS]) if _RTA_METRICS in found else (),
        _PREFERENCES.get(preference[0]) if preference else None,
        _expires_s(found[_RTA_CACHEINFO]) if _RTA_CACHEINFO in found else None,
    )


def _metrics(body: bytes) -> tuple[tuple[str, int | str], ...]:
    metrics: list[tuple[str, int | str]] = []
    for kind, value in sorted(attributes(body, 0, len(body)).items()):
        name = _METRICS[kind - 1] if 1 <= kind <= len(_METRICS) else f"metric {kind}"
        if kind == _RTAX_CC_ALGO:
            metrics.append((name, value.rstrip(b"\0").decode("ascii", "backslashreplace")))
        elif len(value) == _U32.size:
            metrics.append((name, _U32.unpack(value)[0]))
        else:
            raise DecodeError(f"{name}: a number of {len(value)} bytes, not 4")
    return tuple(metrics)


def _expires_s(body: bytes) -> int | None:
    if len(body) < _CACHEINFO.size:
        raise DecodeError(f"cache information of {len(body)} bytes")
    _, _, ticks = _CACHEINFO.unpack_from(body)
    return math.ceil(ticks / _USER_HZ) if ticks else None
