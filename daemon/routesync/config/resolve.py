"""Targets with `all_addresses`: one target for each address that the name in the URL resolves to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeAlias

from routesync.config.models import Settings, TargetSettings, TlsSettings
from routesync.threads import in_thread
from routesync.url import BaseUrl

PATIENCE_S: Final = 5.0
"""How long names are waited for, all together."""

_Answer: TypeAlias = Future[tuple[str, ...] | OSError]


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


class Resolver:
    """Looks names up, all at once, and keeps what is known of them.

    A look-up blocks for half a minute and longer while no name server answers, and cannot be cancelled. So it has a
    thread of its own, and one that took too long is waited for again the next time.
    """

    def __init__(self, look_up_one: Callable[[str], tuple[str, ...]] = look_up_name) -> None:
        self._look_up_one = look_up_one
        self._under_way: dict[str, _Answer] = {}
        self._known: dict[str, tuple[str, ...]] = {}  # by the last answer; a failure leaves them
        self._faults: dict[str, str] = {}  # why the last look-up of a name failed

    async def look_up(self, targets: Iterable[TargetSettings], within_s: float = PATIENCE_S) -> None:
        """Look up the names of these targets; return when all have answered, or after this time."""
        begun = self._begin(targets)
        waiting = [asyncio.wrap_future(answer) for answer in begun.values()]
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=within_s)
        finally:
            for it in waiting:
                it.cancel()
        self._take(begun, within_s)

    def look_up_blocking(self, targets: Iterable[TargetSettings], within_s: float = PATIENCE_S) -> None:
        """Do as `look_up`, for those who have no event loop."""
        begun = self._begin(targets)
        wait(begun.values(), within_s)
        self._take(begun, within_s)

    def resolved(self, settings: Settings) -> tuple[Settings, tuple[Unresolved, ...]]:
        """The settings with a target for each known address, and the targets whose last look-up failed."""
        troubles: list[Unresolved] = []
        targets: dict[str, TargetSettings] = {}
        for target in settings.targets:
            if not target.all_addresses:
                targets[target.name] = target
                continue
            host = BaseUrl.parse(target.url).host
            known = self._known.get(host, ())
            if fault := self._faults.get(host):
                troubles.append(Unresolved(target.name, host, fault, kept=bool(known)))
            targets |= {it.name: it for it in _each(target, known) if it.name not in targets}
        return settings.model_copy(update={"targets": tuple(targets.values())}), tuple(troubles)

    def _begin(self, targets: Iterable[TargetSettings]) -> dict[str, _Answer]:
        hosts = {BaseUrl.parse(target.url).host for target in targets if target.all_addresses}
        for host in hosts - self._under_way.keys():
            self._under_way[host] = in_thread(partial(self._ask, host))
        return {host: self._under_way[host] for host in hosts}

    def _ask(self, host: str) -> tuple[str, ...] | OSError:
        try:
            return self._look_up_one(host)
        except OSError as error:
            return error

    def _take(self, begun: Mapping[str, _Answer], within_s: float) -> None:
        for host, answer in begun.items():
            if not answer.done():
                self._faults[host] = f"no answer within {within_s:g} s"
                continue
            if self._under_way.get(host) is answer:
                del self._under_way[host]
            found = answer.result()
            if isinstance(found, OSError):
                self._faults[host] = found.strerror or str(found)
            else:
                self._known[host] = found
                self._faults.pop(host, None)


def look_up_and_resolve(settings: Settings) -> tuple[Settings, tuple[Unresolved, ...]]:
    """Look up the names of all targets, once, and give what `Resolver.resolved` does; for commands."""
    resolver = Resolver()
    resolver.look_up_blocking(settings.targets)
    return resolver.resolved(settings)


def target_named(settings: Settings, name: str) -> TargetSettings | None:
    """A target of the file, or one address of a target with `all_addresses`, by its name NAME-ADDRESS.

    Nothing is looked up: it may be an address that the host's name does not resolve to any more.
    """
    for target in settings.targets:
        if target.name == name:
            return target
    for target in settings.targets:
        if target.all_addresses and (address := address_in(name, target.name)) is not None:
            return next(_each(target, (address,)))
    return None


def address_in(name: str, target: str) -> str | None:
    """The address in a name NAME-ADDRESS of this target with `all_addresses`; None: it is no such name."""
    text = name.removeprefix(f"{target}-")
    if text != name:
        for address in (text, text.replace("-", ":")):
            with suppress(ValueError):
                return str(ip_address(address))
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
