"""Short ways to make metric families."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from routesync.measure import Histogram

PREFIX: Final = "routesync"
Labelled = Iterable[tuple[Sequence[str], float]]


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """A present figure."""
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def gauges(name: str, text: str, labels: Sequence[str], values: Labelled) -> GaugeMetricFamily:
    """Present figures by labels."""
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def counter(name: str, text: str, value: float) -> CounterMetricFamily:
    """A figure that only grows; `_total` is added to its name."""
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def counters(name: str, text: str, labels: Sequence[str], values: Labelled) -> CounterMetricFamily:
    """Figures that only grow, by labels; `_total` is added to the name."""
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def histograms(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], Histogram]]
) -> HistogramMetricFamily:
    """Durations in seconds, by labels."""
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for label_values, histogram in values:
        bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
        family.add_metric(label_values, buckets, histogram.sum_s)
    return family
