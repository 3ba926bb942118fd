"""What the calls may use of the daemon.

Most attributes are callables because a reload may replace what they return: call them at each use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from routesync.config import Loaded
from routesync.config.models import TargetSettings
from routesync.control.models import ActiveConfig, ProblemError
from routesync.events.hub import EventHub
from routesync.events.node_status import Status
from routesync.kernel import KernelSource
from routesync.mirror.reconciler import Reconciler
from routesync.route import Prefix
from routesync.table import Table


class Withdrawn(NamedTuple):
    """Result of withdrawing all owned routes from a target."""

    withdrawn: int
    left: int  # still there, and still owned
    error: str | None  # why they are


class Ownership(Protocol):
    """Owned routes in targets that the daemon does not mirror into."""

    def owned(self) -> Mapping[str, int]:
        """How many routes are owned, by target."""

    async def forget(self, target: str, prefixes: Collection[Prefix] = ()) -> int:
        """Give up ownership of these routes in a target, or of all."""

    async def withdraw(self, settings: TargetSettings) -> Withdrawn:
        """Withdraw all owned routes from a target."""


@dataclass(frozen=True, slots=True)
class Context:
    """The daemon, as far as the calls use it.

    Attributes:
        loaded: the running configuration.
        source: follows the kernel's routes.
        table: the elected routes.
        targets: the reconcilers.
        hub: the events.
        status: builds the status.
        verdicts: how many routes each rule decides.
        ownership: owned routes in targets that are not mirrored into.
        reload: loads the configuration file; returns what is wrong with it, one line each.
        exposition: writes the metrics in a format that an Accept header allows; returns also the content type.
        ready: the daemon has started its work.
    """

    loaded: Callable[[], Loaded]
    source: Callable[[], KernelSource]
    table: Callable[[], Table]
    targets: Callable[[], Sequence[Reconciler]]
    hub: EventHub
    status: Callable[[], Status]
    verdicts: Callable[[], Mapping[str, int]]
    ownership: Ownership
    reload: Callable[[], Awaitable[Sequence[str]]]
    exposition: Callable[[str], tuple[bytes, str]]
    ready: asyncio.Event

    def active_config(self) -> ActiveConfig:
        loaded = self.loaded()
        return ActiveConfig(path=str(loaded.path), digest=loaded.digest)

    def require_ready(self) -> None:
        """Go on only if the daemon has started its work. Once it has, a target that is added later changes nothing.

        Raises:
            ProblemError: it has not; the message says what it waits for.
        """
        if self.ready.is_set():
            return
        waiting = [target.name for target in self.targets() if not target.contacted.is_set()]
        if waiting and self.source().synced.is_set():
            raise ProblemError("not-ready", f"not contacted yet: {', '.join(waiting)}")
        raise ProblemError("not-ready", "the kernel's routes are being dumped for the first time")

    def chosen(self, name: str | None) -> Sequence[Reconciler]:
        """The target of this name; None: all.

        Raises:
            ProblemError: there is none.
        """
        targets = self.targets()
        found = [target for target in targets if name in (None, target.name)]
        if name is not None and not found:
            known = ", ".join(target.name for target in targets) or "none"
            raise ProblemError("unknown-target", f"there is no target {name}; there are: {known}")
        return found
