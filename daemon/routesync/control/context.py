"""What the calls may use of the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from routesync.best_routes import BestRoutes
from routesync.config import Loaded
from routesync.control.models import ActiveConfig, ProblemError
from routesync.control.ownership import Ownership
from routesync.events.hub import EventHub
from routesync.events.node_status import Status
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.targets import Targets


@dataclass(frozen=True, slots=True)
class Context:
    """The daemon, as far as the calls use it.

    Attributes:
        best_routes: the kernel's routes, and the elected ones.
        targets: the reconcilers.
        hub: the events.
        ownership: owned routes in targets that are not mirrored into.
        loaded: the running configuration.
        status: builds the status.
        reload: loads the configuration file; returns what is wrong with it, one line each.
        exposition: writes the metrics in a format that an Accept header allows; returns also the content type.
        ready: the daemon has started its work.
    """

    best_routes: BestRoutes
    targets: Targets
    hub: EventHub
    ownership: Ownership
    loaded: Callable[[], Loaded]
    status: Callable[[], Status]
    reload: Callable[[], Awaitable[Sequence[str]]]
    exposition: Callable[[str], tuple[bytes, str]]
    ready: asyncio.Event

    def active_config(self) -> ActiveConfig:
        loaded = self.loaded()
        return ActiveConfig(path=str(loaded.path), digest=loaded.digest, warnings=loaded.warnings)

    def require_ready(self) -> None:
        """Go on only if the daemon has started its work. Once it has, a target that is added later changes nothing.

        Raises:
            ProblemError: it has not; the message says what it waits for.
        """
        if self.ready.is_set():
            return
        waiting = [it.name for it in self.targets.reconcilers if not it.contacted.is_set()]
        if waiting and self.best_routes.source.synced.is_set():
            raise ProblemError("not-ready", f"not contacted yet: {', '.join(waiting)}")
        raise ProblemError("not-ready", "the kernel's routes are being dumped for the first time")

    def chosen(self, name: str | None) -> Sequence[Reconciler]:
        """The target of this name; None: all.

        Raises:
            ProblemError: there is none.
        """
        targets = self.targets.reconcilers
        found = [target for target in targets if name in (None, target.name)]
        if name is not None and not found:
            known = ", ".join(target.name for target in targets) or "none"
            raise ProblemError("unknown-target", f"there is no target {name}; there are: {known}")
        return found
