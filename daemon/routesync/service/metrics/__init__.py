"""Metrics for Prometheus, read off the rooms' own counters at the moment of a scrape.

Nothing is counted here and nothing is global: a room counts what it does anyhow, in plain integers, and does not know
that somebody reads them. So a scrape costs what it reads, and no scrape costs nothing. No label carries a prefix or an
address: what there is one of per route is a number here, and a name in `routesync explain`.

Names and units are a promise to dashboards (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from routesync.events.hub import EventHub
from routesync.events.publisher import MqttPublisher
from routesync.kernel import KernelSource
from routesync.mirror.status import TargetView
from routesync.service.metrics import daemon, events, guard, kernel, target
from routesync.service.status import StatusBuilder


class Metrics(Collector):
    """All metrics of one daemon.

    Each argument is asked at each scrape, so that what a reload exchanges is found by its successor.

    Args:
        status: how the daemon fares, and its table.
        source: the kernel side.
        kernel_troubles: why it cannot be read at the moment; empty while it can.
        targets: each target at this moment.
        hub: the events.
        publisher: the way to the broker; None: there is none.
    """

    def __init__(
        self,
        *,
        status: Callable[[], StatusBuilder],
        source: Callable[[], KernelSource],
        kernel_troubles: Callable[[], Sequence[str]],
        targets: Callable[[], Sequence[TargetView]],
        hub: Callable[[], EventHub],
        publisher: Callable[[], MqttPublisher | None],
    ) -> None:
        self._status = status
        self._source = source
        self._kernel_troubles = kernel_troubles
        self._targets = targets
        self._hub = hub
        self._publisher = publisher
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as an HTTP `Accept` header asks for them (OpenMetrics, or Prometheus's text): body and type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: at the time of registration there may be nothing to read yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        yield from daemon.metrics(self._status())
        yield from kernel.metrics(
            self._source(), self._status().kept(), unreadable=bool(self._kernel_troubles())
        )
        yield from target.metrics(self._targets())
        yield from events.metrics(self._hub(), self._publisher())
        if (view := self._status().guard()) is not None:
            yield from guard.metrics(view.status())
