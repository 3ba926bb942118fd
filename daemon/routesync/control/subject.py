"""What the control room is given of the daemon: the rooms below it, by callables, since a reload may swap them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from routesync.config import Loaded
from routesync.config.models import TargetSettings
from routesync.control.models import ConfigInForce
from routesync.control.problems import ProblemError
from routesync.events.hub import EventHub
from routesync.events.status import Status
from routesync.kernel import KernelSource
from routesync.mirror.reconciler import Reconciler
from routesync.table import Table


class Metrics(Protocol):
    """The metrics, ready to be sent."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Write them as the Accept header wants them; return also the content type."""


class Emptied(NamedTuple):
    """What came of a withdrawal of all our routes."""

    withdrawn: int
    left: int  # still there, and still ours
    error: str | None  # why they are


class Ownership(Protocol):
    """Which routes are ours at targets that are not mirrored into, changed by hand."""

    def owned(self) -> Mapping[str, int]:
        """How many routes are ours, by target."""

    async def forget(self, target: str) -> int:
        """Give up all claims on a target."""

    async def withdraw(self, settings: TargetSettings) -> Emptied:
        """Take all of our routes out of a target."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The daemon, as far as it is asked and told here.

    Attributes:
        loaded: the configuration in force.
        source: where the kernel's routes come from.
        table: the elected routes.
        targets: the reconcilers.
        hub: the events.
        status: builds the status.
        verdicts: how many routes each rule decides on.
        ownership: changes by hand what is ours.
        reload: has the configuration read again; tells what is wrong with it, one line each.
        metrics: the metrics; None: there are none.
        ready: the daemon has begun its work.
    """

    loaded: Callable[[], Loaded]
    source: Callable[[], KernelSource]
    table: Callable[[], Table]
    targets: Callable[[], Sequence[Reconciler]]
    hub: Callable[[], EventHub]
    status: Callable[[], Status]
    verdicts: Callable[[], Mapping[str, int]]
    ownership: Ownership
    reload: Callable[[], Awaitable[Sequence[str]]]
    metrics: Metrics | None
    ready: asyncio.Event


def in_force(subject: Subject) -> ConfigInForce:
    """The configuration in force."""
    loaded = subject.loaded()
    return ConfigInForce(path=str(loaded.path), digest=loaded.digest)


def require_ready(subject: Subject) -> None:
    """Go on only if the daemon has begun its work. Once it has, a target that is added later does not change that.

    Raises:
        ProblemError: it has not; this says what it waits for.
    """
    if subject.ready.is_set():
        return
    waiting = [target.name for target in subject.targets() if not target.contacted.is_set()]
    if waiting and subject.source().synced.is_set():
        raise ProblemError("not-ready", f"not contacted yet: {', '.join(waiting)}")
    raise ProblemError("not-ready", "the kernel's routes are being dumped for the first time")


def chosen(subject: Subject, name: str | None) -> Sequence[Reconciler]:
    """The target of this name; None: all.

    Raises:
        ProblemError: there is none.
    """
    targets = subject.targets()
    found = [target for target in targets if name in (None, target.name)]
    if name is not None and not found:
        known = ", ".join(target.name for target in targets) or "none"
        raise ProblemError("unknown-target", f"there is no target {name}; there are: {known}")
    return found
