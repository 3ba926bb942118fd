"""Targets with `all_addresses`: one target for each address that the name in the URL resolves to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from routesync.config.models import Settings, TargetSettings, TlsSettings
from routesync.url import BaseUrl

Known: TypeAlias = dict[str, tuple[str, ...]]
"""The addresses of each name, as of the last answer: what a look-up that fails leaves as it is."""


class Unresolved(NamedTuple):
    """A target whose name cannot be looked up now."""

    target: str
    host: str
    why: str
    kept: bool  # its last addresses are still targets

    def __str__(self) -> str:
        kept = "its last addresses stay" if self.kept else "it is no target until it does"
        return f"target {self.target}: {self.host} does not resolve: {self.why}; {kept}"


def look_up_name(host: str) -> tuple[str, ...]:
    """The addresses of a name, sorted; of a name with both families the IPv4 ones. Blocks as long as the resolver does.

    A pod behind a dual-stack Service has an address of each family, and is one loxilb.

    Raises:
        OSError: it has none, or nobody answers.
    """
    found = {str(it[4][0]) for it in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    found = {address for address in found if "%" not in address}  # a zone is no target's
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "it has link-local addresses only")
    return tuple(sorted({address for address in found if ":" not in address} or found))


def has_names(settings: Settings) -> bool:
    """Whether there is anything to look up."""
    return any(target.all_addresses for target in settings.targets)


def resolved(
    settings: Settings, known: Known, look_up: Callable[[str], tuple[str, ...]] = look_up_name
) -> tuple[Settings, tuple[Unresolved, ...]]:
    """The settings with a target for each address, and the targets whose name cannot be looked up now.

    Args:
        settings: as they are in the file.
        known: from earlier calls; it is updated.
        look_up: finds the addresses of a name.
    """
    troubles: list[Unresolved] = []
    targets: dict[str, TargetSettings] = {}
    for target in settings.targets:
        if not target.all_addresses:
            targets[target.name] = target
            continue
        host = BaseUrl.parse(target.url).host
        try:
            known[host] = look_up(host)
        except OSError as error:
            troubles.append(Unresolved(target.name, host, str(error.strerror), kept=bool(known.get(host))))
        targets |= {it.name: it for it in _each(target, known.get(host, ())) if it.name not in targets}
    return settings.model_copy(update={"targets": tuple(targets.values())}), tuple(troubles)


def target_named(settings: Settings, name: str) -> TargetSettings | None:
    """A target of the file, or one address of a target with `all_addresses`, by its name NAME-ADDRESS.

    Nothing is looked up: it may be an address that the host's name does not resolve to any more.
    """
    for target in settings.targets:
        if target.name == name:
            return target
    for target in settings.targets:
        text = name.removeprefix(f"{target.name}-")
        if target.all_addresses and text != name:
            for address in (text, text.replace("-", ":")):
                with suppress(ValueError):
                    return next(_each(target, (str(ip_address(address)),)))
    return None


def _each(target: TargetSettings, addresses: tuple[str, ...]) -> Iterator[TargetSettings]:
    url = BaseUrl.parse(target.url)
    tls = target.tls
    if url.scheme == "https" and (tls is None or tls.server_name is None):
        tls = (tls or TlsSettings()).model_copy(update={"server_name": url.host})
    for address in addresses:
        name = f"{target.name}-{address.replace(':', '-')}"
        yield target.model_copy(
            update={"name": name, "url": str(url._replace(host=address)), "tls": tls, "all_addresses": False}
        )
