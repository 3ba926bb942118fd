"""What the control room is given of the daemon: the rooms below it, by callables, since a reload may swap them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from routesync.config import Loaded
from routesync.events.hub import EventHub
from routesync.events.status import Status
from routesync.kernel import KernelSource
from routesync.mirror.reconciler import Reconciler
from routesync.table import Table


class Metrics(Protocol):
    """The metrics, ready to be sent."""

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Write them as the Accept header wants them; return also the content type."""


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
        reload: has the configuration read again; tells what is wrong with it, one line each.
        metrics: the metrics; None: there are none.
    """

    loaded: Callable[[], Loaded]
    source: Callable[[], KernelSource]
    table: Callable[[], Table]
    targets: Callable[[], Sequence[Reconciler]]
    hub: Callable[[], EventHub]
    status: Callable[[], Status]
    verdicts: Callable[[], Mapping[str, int]]
    reload: Callable[[], Awaitable[Sequence[str]]]
    metrics: Metrics | None
