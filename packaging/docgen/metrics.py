"""The table of docs/metrics.md, made from the tables that the metrics are served from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from routesync.service import metrics

TABLES: Final = (
    ((), metrics.DAEMON),
    ((), metrics.KERNEL),
    (metrics.LABELS_OF_TARGET, metrics.TARGET),
    ((), metrics.EVENTS_EMITTED),
    ((), metrics.BROKER),
    ((), metrics.GUARD),
)


class Described(NamedTuple):
    """One metric, as Prometheus sees it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def described() -> Iterator[Described]:
    """All metrics of routesync's own, in the order in which they are served."""
    for labels, families in TABLES:
        for family in families:
            name = family.full_name + family.suffix
            yield Described(name, family.kind, (*labels, *family.labels), family.meaning)


def markdown() -> str:
    """Write the list."""
    rows = (
        f"| `{it.name}` | {it.kind} | {', '.join(f'`{label}`' for label in it.labels)} | {it.meaning} |\n"
        for it in described()
    )
    return "| metric | type | labels | meaning |\n|---|---|---|---|\n" + "".join(rows)
