"""`routesync fleet`: all nodes at a broker, once; who has a prefix, and whose tables differ. It only subscribes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from routesync.characters import many
from routesync.cli.brokers import broker_or_fail
from routesync.cli.output import (
    EX_FAILED,
    EX_NOT_RUNNING,
    EX_USAGE,
    Page,
    age,
    fail,
    print_error,
    span,
    styled,
)
from routesync.config.models import MqttSettings
from routesync.control.models import read_covering
from routesync.events.fleet import Fleet, NodeSummary
from routesync.events.mqtt_client import BROKER_ERRORS, Remedies, explain
from routesync.events.node_status import TableBucket, TableManifest
from routesync.events.reader import (
    ReceivedMessage,
    Subscriber,
    describe_suspicion,
    is_suspicious,
    subscribing,
)
from routesync.events.retained import bucket_digest, bucket_name, bucket_of
from routesync.route import Prefix

A = TypeVar("A")
M = TypeVar("M", bound=BaseModel)
_MOST_NAMED: Final = 8
"""Nodes that are named where there may be many, at most."""


class Way(NamedTuple):
    """Which broker, and which nodes."""

    config: Path
    broker: str | None
    ca_file: Path | None
    nodes: Sequence[str] = ()
    labels: Sequence[tuple[str, str]] = ()

    def places(self, part: str) -> list[str]:
        """The topics below the root to subscribe to."""
        return [f"{node}/{part}" for node in self.nodes or ("+",)]

    def chooses(self, node: NodeSummary) -> bool:
        """Whether the node has all of the labels."""
        return all(node.labels.get(name) == value for name, value in self.labels)


def read_label(text: str) -> tuple[str, str]:
    """Read NAME=VALUE.

    Raises:
        ValueError: it is something else.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is no label; write NAME=VALUE")
    return name, value


def _run(way: Way, work: Callable[[Subscriber, MqttSettings], Coroutine[Any, Any, A]]) -> A:
    """Do this with a connection; what is wrong with the broker ends the command."""
    settings, remedies = broker_or_fail(way.config, way.broker, way.ca_file)

    async def connected() -> A:
        async with subscribing(settings, "fleet") as subscriber:
            return await work(subscriber, settings)

    try:
        return asyncio.run(connected())
    except BROKER_ERRORS as error:
        _unreachable(error, settings, remedies)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _unreachable(error: BaseException, settings: MqttSettings, remedies: Remedies) -> NoReturn:
    fail(explain(error, settings, "routesync-fleet", remedies), EX_NOT_RUNNING)


class Said(NamedTuple):
    """A manifest as it came."""

    node: str
    epoch: str
    manifest: TableManifest

    @property
    def table(self) -> tuple[str, str]:
        """Node and target."""
        return self.node, self.manifest.target


class _Read(NamedTuple):
    """What is retained of the chosen nodes."""

    nodes: list[NodeSummary]
    manifests: list[Said]
    warnings: list[str]
    now: float


async def _read(subscriber: Subscriber, settings: MqttSettings, way: Way, *, with_manifests: bool) -> _Read:
    messages = await subscriber.retained(*way.places("status"))
    unreadable = sorted(it.removesuffix("/status") for it in subscriber.passed_over)
    problem = _unreadable(unreadable, settings) if unreadable else ""
    tables = await subscriber.retained(*way.places("table/+/manifest")) if with_manifests else []
    now = time.monotonic()
    fleet = Fleet()
    for message in messages:
        fleet.take(message, now)
    if not fleet.nodes:
        fail(
            problem
            or f"broker {settings.place} has no status of {' or '.join(way.nodes) or 'any node'} below "
            f"{settings.root}: none publishes there, or {settings.user} may not read it",
            EX_NOT_RUNNING,
        )
    warnings = [
        describe_suspicion(len(found), settings) for found in (messages, tables) if is_suspicious(len(found))
    ]
    if fleet.overflow:
        warnings.append(f"there are more nodes than {len(fleet.nodes)}; choose with --node")
    nodes = [node for node in fleet.sorted(now) if way.chooses(node)]
    names = {node.name for node in nodes}
    warnings += [
        f"the broker has no status of {node}: is that its name?"
        for node in way.nodes
        if node not in fleet.nodes and node not in unreadable
    ]
    if problem:
        warnings.append(problem)
    if not nodes:
        labels = " and ".join(f"{name}={value}" for name, value in way.labels)
        warnings.append(f"none of {many(len(fleet.nodes), 'node')} has the label {labels}")
    manifests = [
        Said(message.node, message.epoch, manifest)
        for message in tables
        if message.node in names and (manifest := parse(TableManifest, message)) is not None
    ]
    return _Read(nodes, manifests, warnings, now)


def _unreadable(nodes: Sequence[str], settings: MqttSettings) -> str:
    more = f" and {len(nodes) - _MOST_NAMED} more" if len(nodes) > _MOST_NAMED else ""
    return (
        f"what broker {settings.place} has as status of {', '.join(nodes[:_MOST_NAMED])}{more} is no message of "
        f"routesync; if it stays, clear {settings.root}/NODE/status"
    )


def parse(model: type[M], message: ReceivedMessage) -> M | None:
    """Its data; None: it is none of ours, for anyone may publish anything."""
    try:
        return model.model_validate(message.data, extra="ignore")
    except ValidationError:
        return None


# -- the table of nodes --------------------------------------------------------------------------------------


def fleet(way: Way, *, all_nodes: bool, as_json: bool) -> None:
    """Show the nodes. Exit status: 0 if all are online, 1 if some are not, 3 if the broker does not say."""
    read = _run(way, lambda subscriber, settings: _read(subscriber, settings, way, with_manifests=False))
    for warning in read.warnings:
        print_error(warning)
    if as_json:
        print(json.dumps([_as_json(node, read.now) for node in read.nodes], indent=2))
    else:
        _show(read, all_nodes=all_nodes)
    if read.warnings or any(node.state(read.now) != "online" for node in read.nodes):
        raise typer.Exit(EX_FAILED)


def _as_json(node: NodeSummary, now: float) -> dict[str, object]:
    age_s = node.age_s(now)
    return {
        "node": node.name,
        "state": node.state(now),
        "why": node.why(now) or None,
        "since": node.since.isoformat() if node.since else None,
        "age_s": None if age_s is None else round(age_s, 1),
        "version": node.version,
        "mode": node.mode,
        "labels": dict(node.labels),
        "desired": node.desired,
        "mirrored": node.mirrored,
        "alarms": [
            {"kind": alarm.kind, "target": alarm.target, "detail": alarm.detail, "count": alarm.count}
            for alarm in node.alarms
        ],
        "targets": [target._asdict() for target in node.targets],
    }


def _show(read: _Read, *, all_nodes: bool) -> None:
    page, now = Page(), read.now
    states: dict[str, int] = defaultdict(int)
    versions: dict[str, int] = defaultdict(int)
    for node in read.nodes:
        states[node.state(now)] += 1
        versions[node.version or "unknown version"] += 1
    desired, mirrored = sum(node.desired for node in read.nodes), sum(node.mirrored for node in read.nodes)
    page.line(
        (many(len(read.nodes), "node"), "bold"),
        ": ",
        ", ".join(f"{count} {state}" for state, count in states.items()) or "none has these labels",
        f"; {mirrored} of {desired} routes mirrored; ",
        ", ".join(f"{count} with {version}" for version, count in sorted(versions.items())),
    )
    shown = [node for node in read.nodes if all_nodes or node.state(now) != "online"]
    page.rows(
        [
            (
                node.name,
                styled(node.state(now)),
                age(node.age_s(now)),
                f"{node.mirrored}/{node.desired}",
                _why(node, now),
            )
            for node in shown
        ]
    )


def _why(node: NodeSummary, now: float) -> str:
    since = f"for {span(datetime.now(UTC) - node.since)}: " if node.since and node.why(now) else ""
    labels = " ".join(f"{name}={value}" for name, value in node.labels.items())
    why = f"{since}{node.why(now)}" or (node.version or "")
    return f"{why} [{labels}]" if labels else why


# -- who has a prefix ----------------------------------------------------------------------------------------


class _Row(NamedTuple):
    node: str
    target: str
    prefix: Prefix
    gateway: str
    state: str


def who_has(way: Way, wanted: str, *, as_json: bool) -> None:
    """Show which nodes have mirrored a prefix, or the longest one that covers an address, into which target."""
    candidates = _candidates(wanted)
    read, rows, unknown = _run(way, lambda subscriber, settings: _find(subscriber, settings, way, candidates))
    best: dict[tuple[str, str], _Row] = {}
    for row in rows:
        at = row.node, row.target
        if at not in best or row.prefix.length > best[at].prefix.length:
            best[at] = row
    found = sorted(best.values())
    without = {said.table for said in read.manifests} - best.keys() - unknown
    for warning in read.warnings:
        print_error(warning)
    if as_json:
        has = [row._asdict() | {"prefix": str(row.prefix)} for row in found]
        answer = {"has": has, "has_not": sorted(without), "unknown": sorted(unknown)}
        print(json.dumps(answer, indent=2))
    else:
        page, states = Page(), {node.name: node.state(read.now) for node in read.nodes}
        page.rows(
            [
                (
                    row.node,
                    styled(states[row.node]),
                    row.target,
                    str(row.prefix),
                    f"via {row.gateway} ({row.state})",
                )
                for row in found
            ]
        )
        not_known = f", {many(len(unknown), 'table')} could not be read whole" if unknown else ""
        have = many(len(found), "table has", "tables have")
        page.line(f"{have} a route to {wanted}, {len(without)} not{not_known}")
    if not found:
        raise typer.Exit(EX_FAILED)


def _candidates(text: str) -> list[Prefix]:
    """The prefix; of an address all that cover it, 33 or 129."""
    try:
        if "/" in text or text == "default":
            return [Prefix.parse(text)]
        prefix = read_covering(text)
    except ValueError as error:
        fail(str(error), EX_USAGE)
    return [prefix.cut(length) for length in range(prefix.length + 1)]


async def _find(
    subscriber: Subscriber, settings: MqttSettings, way: Way, candidates: Sequence[Prefix]
) -> tuple[_Read, list[_Row], set[tuple[str, str]]]:
    """The rows of these prefixes, and the tables whose buckets for them did not come.

    A bucket is named by a hash of the prefix: so one subscription for each depth in use reads it at all nodes.
    """
    read = await _read(subscriber, settings, way, with_manifests=True)
    texts = {*map(str, candidates)}
    depths = {said.manifest.depth for said in read.manifests}
    wanted = {depth: {bucket_of(text, depth) for text in texts} for depth in depths}
    names = {bucket_name(number, depth) for depth, numbers in wanted.items() for number in numbers}
    buckets = await read_buckets(subscriber, way, names)
    unknown: set[tuple[str, str]] = set()
    rows: list[_Row] = []
    for said in read.manifests:
        for number in wanted[said.manifest.depth]:
            bucket = shown(buckets, said, number)
            if bucket is None:
                unknown.add(said.table)
                continue
            rows += [
                _Row(*said.table, Prefix.parse(row.prefix), row.gateway, row.state)
                for row in bucket.routes
                if row.prefix in texts
            ]
    return read, rows, unknown


Buckets = Mapping[tuple[str, str, str, int, int], TableBucket]
"""By node, epoch, target, depth and number."""


async def read_buckets(subscriber: Subscriber, way: Way, names: Iterable[str]) -> Buckets:
    """The buckets with these names (`+`: all)."""
    found: dict[tuple[str, str, str, int, int], TableBucket] = {}
    places = [place for name in sorted(names) for place in way.places(f"table/+/{name}")]
    for message in await subscriber.retained(*places) if places else ():
        bucket = parse(TableBucket, message)
        if bucket is None or message.place != f"table/{bucket.target}/{bucket.bucket}":
            continue
        with suppress(ValueError):
            number = int(bucket.bucket, 16)
            found[message.node, message.epoch, bucket.target, bucket.depth, number] = bucket
    return found


def shown(buckets: Buckets, said: Said, number: int) -> TableBucket | None:
    """The bucket of this number, if it is as the manifest says, or newer in the same epoch; else None."""
    node, epoch, manifest = said
    bucket = buckets.get((node, epoch, manifest.target, manifest.depth, number))
    if bucket is None or number >= min(len(manifest.sequences), len(manifest.digests)):
        return None
    if bucket.sequence == manifest.sequences[number]:
        return bucket if bucket_digest(bucket) == manifest.digests[number] else None
    return bucket if bucket.sequence > manifest.sequences[number] else None


# -- whose tables differ -------------------------------------------------------------------------------------


def diff(way: Way, *, as_json: bool) -> None:
    """Show the nodes whose tables differ, by the digests in their manifests. Exit status 1: some do."""
    read = _run(way, lambda subscriber, settings: _read(subscriber, settings, way, with_manifests=True))
    tables: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    routes: dict[tuple[str, str], int] = {}
    for node, _, manifest in read.manifests:
        tables[manifest.target][manifest.routes_digest].append(node)
        routes[manifest.target, manifest.routes_digest] = manifest.routes
    for warning in read.warnings:
        print_error(warning)
    groups = {
        target: sorted(digests.items(), key=lambda group: (-len(group[1]), group[1]))
        for target, digests in sorted(tables.items())
    }
    if as_json:
        print(
            json.dumps(
                {
                    target: [
                        {"digest": digest, "routes": routes[target, digest], "nodes": sorted(nodes)}
                        for digest, nodes in found
                    ]
                    for target, found in groups.items()
                },
                indent=2,
            )
        )
    else:
        _show_groups(groups, routes)
    if any(len(found) > 1 for found in groups.values()) or read.warnings:
        raise typer.Exit(EX_FAILED)


def _show_groups(groups: dict[str, list[tuple[str, list[str]]]], routes: dict[tuple[str, str], int]) -> None:
    page = Page()
    if not groups:
        page.line("no node publishes a table")
    for target, found in groups.items():
        same = "all have the same" if len(found) == 1 else many(len(found), "different table")
        page.line((target, "bold"), f": {many(sum(len(nodes) for _, nodes in found), 'node')}, {same}")
        page.rows(
            [
                (
                    f"  {many(len(nodes), 'node')}",
                    many(routes[target, digest], "route"),
                    "" if number == 0 and len(nodes) > _MOST_NAMED else ", ".join(sorted(nodes)),
                )
                for number, (digest, nodes) in enumerate(found)
            ]
        )


def compare(way: Way, one: str, other: str, *, as_json: bool) -> None:
    """Show the prefixes in which the tables of two nodes differ. Exit status 1: in some."""
    way = way._replace(nodes=(one, other))
    read, tables = _run(way, lambda subscriber, settings: _tables(subscriber, settings, way))
    for warning in read.warnings:
        print_error(warning)
    differences = [
        (target, str(prefix), *(tables.get((node, target), {}).get(prefix, "-") for node in (one, other)))
        for target in sorted({target for _, target in tables})
        for prefix in sorted(
            {*tables.get((one, target), {}), *tables.get((other, target), {})},
            key=lambda it: it.sort_key,
        )
        if tables.get((one, target), {}).get(prefix) != tables.get((other, target), {}).get(prefix)
    ]
    if as_json:
        fields = ("target", "prefix", one, other)
        print(json.dumps([dict(zip(fields, it, strict=True)) for it in differences], indent=2))
    else:
        page = Page()
        page.rows([(target, prefix, f"{one}: {a}", f"{other}: {b}") for target, prefix, a, b in differences])
        page.line(f"{many(len(differences), 'difference')} between {one} and {other}")
    if differences:
        raise typer.Exit(EX_FAILED)


async def _tables(
    subscriber: Subscriber, settings: MqttSettings, way: Way
) -> tuple[_Read, dict[tuple[str, str], dict[Prefix, str]]]:
    """Prefix to gateway, by node and target; a table that is not whole ends the command."""
    read = await _read(subscriber, settings, way, with_manifests=True)
    buckets = await read_buckets(subscriber, way, ["+"])
    tables: dict[tuple[str, str], dict[Prefix, str]] = {}
    for said in read.manifests:
        table = tables[said.table] = {}
        for number in range(2**said.manifest.depth):
            bucket = shown(buckets, said, number)
            if bucket is None:
                node, target = said.table
                fail(f"the table of {node} for {target} is not whole at the broker; try again in a minute")
            try:
                table |= {read_covering(row.prefix): row.gateway for row in bucket.routes}
            except ValueError as error:
                fail(f"{said.node} publishes an invalid prefix: {error}")
    missing = {*way.nodes} - {said.node for said in read.manifests}
    if missing:
        fail(f"{', '.join(sorted(missing))}: no table is published")
    return read, tables
