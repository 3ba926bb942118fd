"""Asks targets who and where they are. Never for their table: reading that can crash a loxilb."""

from __future__ import annotations

from typing import Final

from routesync.config.models import TargetSettings
from routesync.doctor.facts import LocalLoxilb, TargetFacts
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import AccessDenied, LoxilbError

_LOCAL_URL: Final = "http://127.0.0.1:11111"


async def ask_target(target: TargetSettings, *, contact: bool) -> TargetFacts:
    """Ask one target for its version and ports."""
    if not contact:
        return TargetFacts(target.name, target.url, asked=False)
    version = None
    try:
        async with LoxilbClient.from_settings(target) as client:
            version = await client.version()
            ports = await client.ports()
    except AccessDenied as error:
        return TargetFacts(target.name, target.url, version, error=str(error), denied=True)
    except LoxilbError as error:
        return TargetFacts(target.name, target.url, version, error=str(error))
    return TargetFacts(target.name, target.url, version, ports)


async def ask_local(local: LocalLoxilb) -> LocalLoxilb:
    """Ask a loxilb that shares our namespace for its version, where its API usually is."""
    if not local.shares_namespace:
        return local
    try:
        async with LoxilbClient(_LOCAL_URL, connect_timeout_s=1, request_timeout_s=3) as client:
            return local._replace(version=await client.version())
    except LoxilbError:
        return local
