"""`routesync takeover`: remove what a node that is gone left in a loxilb, by the daemon of a node with the same loxilb.

The command reads at the broker what the node had; the daemon removes it, with its inventories, proofs and limits. MQTT
has no compare-and-set, so that two nodes begin at the same moment cannot be excluded by it alone: each publishes its
marker, then reads all of them, and if there are two both stop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import typer

from routesync.characters import many
from routesync.cli.brokers import broker_or_fail
from routesync.cli.fleet import Said, Way, parse, read_buckets, shown
from routesync.cli.output import EX_CONFIG, EX_FAILED, fail
from routesync.cli.requests import daemon_errors
from routesync.config.models import MqttSettings
from routesync.control.client import Client
from routesync.control.models import StatusResponse, TakeoverRequest, TakeoverResponse, TakeoverRoute
from routesync.events.cloudevents import StreamIdentity, encode_state
from routesync.events.fleet import summarize
from routesync.events.mqtt_client import BROKER_ERRORS, Publication, Refusal, explain
from routesync.events.node_status import Instance, TableManifest, Takeover
from routesync.events.peers import is_name
from routesync.events.reader import Subscriber, subscribing

MARKER_S: Final = 600
"""Another's marker that is younger keeps us from beginning."""
FIRST_BATCH: Final = 8
"""Few at first: a node that lives adds them again, and only they were touched."""
BATCH: Final = 100
SETTLE_S: Final = 10.0
"""A node that lives needs time to notice that routes of it are gone: so long after the first batch and the last."""


class _Here(NamedTuple):
    """This node, its target, and which loxilb that is."""

    node: str
    epoch: str
    target: str
    instance: str


class _Left(NamedTuple):
    """What the node that is gone had, by its retained table."""

    routes: list[TakeoverRoute]
    sequence: int


class RefusedError(Exception):
    """A condition of a takeover does not hold."""


def takeover(
    config: Path, socket: Path | None, node: str, target: str, *, for_real: bool, as_json: bool
) -> None:
    """Show what would be taken over, or do it. Exit status 1: it is refused, or something is left."""
    settings, remedies = broker_or_fail(config, None, None)
    client = Client(socket, timeout_s=None)
    here = _here(client, target)
    if node == here.node:
        fail(f"{node} is this node")
    try:
        asyncio.run(_takeover(settings, client, here, node, for_real=for_real, as_json=as_json))
    except BROKER_ERRORS as error:
        fail(explain(error, settings, "routesync-takeover", remedies))
    except RefusedError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _here(client: Client, target: str) -> _Here:
    with daemon_errors():
        status = client.ask(StatusResponse, "GET", "/v1/status").status
    found = next((it for it in status.targets if it.name == target), None)
    if found is None:
        fail(
            f"there is no target {target}; there are: {', '.join(it.name for it in status.targets)}",
            EX_CONFIG,
        )
    if found.instance is None:
        fail(f"target {target}: which loxilb it is is not known yet; it is {found.state}")
    return _Here(status.node, status.epoch or "", target, found.instance)


async def _takeover(
    settings: MqttSettings, client: Client, here: _Here, node: str, *, for_real: bool, as_json: bool
) -> None:
    async with subscribing(settings, "takeover") as subscriber:
        await _require_gone(subscriber, node)
        left = await _left(subscriber, here, node)
        await _require_no_other(subscriber, here, node)
        if not for_real:
            _show(left, here, node, as_json=as_json)
            return
        await _publish(subscriber, settings, here, _marker(here, node, left, "running"))
        done = unproved = 0
        try:
            await _require_no_other(subscriber, here, node)  # one that began at the same moment
            for number, batch in enumerate(_batches(left.routes)):
                if number == 1 or not batch:
                    await asyncio.sleep(SETTLE_S)
                await _require_gone(subscriber, node)
                taken, there = await asyncio.to_thread(_take, client, here, node, batch)
                done, unproved = done + taken, unproved + there
        except BaseException:
            await _publish(subscriber, settings, here, None, node)
            raise
        marker = _marker(here, node, left, "done").model_copy(update={"left": unproved})
        await _publish(subscriber, settings, here, marker)
    not_there = len(left.routes) - done - unproved
    if as_json:
        print(json.dumps({"taken": done, "not_there": not_there, "unproved": unproved}, indent=2))
    else:
        print(
            f"{here.target}: {many(done, 'route')} of {node} taken over, {not_there} were not there as its own, "
            f"{unproved} stay, since nothing proves that a DELETE would take them and no other"
        )
    if unproved:
        raise typer.Exit(EX_FAILED)


def _batches(routes: list[TakeoverRoute]) -> Iterator[list[TakeoverRoute]]:
    yield routes[:FIRST_BATCH]
    for start in range(FIRST_BATCH, len(routes), BATCH):
        yield routes[start : start + BATCH]
    yield []  # takes nothing, and looks once more whether something came back


def _take(client: Client, here: _Here, node: str, batch: list[TakeoverRoute]) -> tuple[int, int]:
    """How many were taken, and how many are there and no proof allows it."""
    body = TakeoverRequest(node=node, target=here.target, routes=tuple(batch))
    with daemon_errors():
        answer = client.ask(TakeoverResponse, "POST", "/v1/takeover", body)
    if answer.came_back:
        raise RefusedError(
            f"peer-alive: {node} added {', '.join(answer.came_back[:3])} again, so it lives; nothing more is touched"
        )
    if answer.left:
        left = many(answer.left, "route")
        raise RefusedError(f"{left} of {node} could not be removed in time; see `routesync status`")
    return len(answer.taken), len(answer.unproved)


async def _require_gone(subscriber: Subscriber, node: str) -> None:
    """Refuse unless the node is offline, or silent for three heartbeats."""
    messages = [it for it in await subscriber.retained(f"{node}/status") if it.place == "status"]
    if not messages:
        if subscriber.passed_over:
            raise RefusedError(f"what the broker has as status of {node} is no message of routesync")
        raise RefusedError(f"the broker has no status of {node}: is that its name?")
    now = time.monotonic()
    summary = summarize(messages[-1], now)
    if (state := summary.state(now)) not in ("offline", "silent"):
        raise RefusedError(
            f"{node} is {state}: only what a node left that is offline or silent can be taken over"
        )


async def _left(subscriber: Subscriber, here: _Here, node: str) -> _Left:
    """What the node had in the same loxilb, by its retained table; refused unless that is whole."""
    found = await subscriber.retained(f"{node}/instance/{here.instance}")
    notes = [it for message in found if (it := parse(Instance, message)) is not None and is_name(it.target)]
    if not notes:
        raise RefusedError(
            f"{node} does not mirror into the loxilb of target {here.target} (instance {here.instance}), by what it "
            "published"
        )
    theirs = notes[-1].target
    said = [
        Said(node, message.epoch, manifest)
        for message in await subscriber.retained(f"{node}/table/{theirs}/manifest")
        if (manifest := parse(TableManifest, message)) is not None and manifest.target == theirs
    ]
    if not said:
        raise RefusedError(f"the broker has no manifest of the table of {node} for {theirs}")
    manifest = said[-1].manifest
    buckets = await read_buckets(subscriber, Way(Path(), None, None, (node,)), ["+"])
    routes: list[TakeoverRoute] = []
    for number, sequence in enumerate(manifest.sequences):
        bucket = shown(buckets, said[-1], number)
        if bucket is None or bucket.sequence != sequence:
            raise RefusedError(
                f"the table of {node} at the broker is not whole, so what it left is not known"
            )
        routes += [
            TakeoverRoute.model_validate(row.model_dump(include={"prefix", "gateway"}))
            for row in bucket.routes
        ]
    if len(manifest.sequences) != 2**manifest.depth or len(routes) != manifest.routes:
        raise RefusedError(f"the table of {node} at the broker is not whole, so what it left is not known")
    return _Left(routes, manifest.sequence)


async def _require_no_other(subscriber: Subscriber, here: _Here, node: str) -> None:
    """Refuse while another node takes over from the same one."""
    for message in await subscriber.retained(f"+/takeover/{here.instance}/{node}"):
        marker = parse(Takeover, message)
        age_s = time.time() - message.time.timestamp()
        if (
            message.node != here.node
            and marker is not None
            and marker.state == "running"
            and age_s < MARKER_S
        ):
            raise RefusedError(
                f"{message.node} takes over from {node} at the moment, since {message.time:%H:%M:%S} UTC"
            )


def _marker(here: _Here, node: str, left: _Left, state: str) -> Takeover:
    return Takeover.model_validate(
        {"instance": here.instance, "node": node, "state": state, "sequence": left.sequence}
    )


async def _publish(
    subscriber: Subscriber, settings: MqttSettings, here: _Here, marker: Takeover | None, node: str = ""
) -> None:
    """Publish our marker, or clear it, and wait until the broker has it."""
    place = f"takeover/{here.instance}/{marker.node if marker is not None else node}"
    payload = b""
    if marker is not None:
        identity, at = StreamIdentity(here.node, here.epoch), time.time()
        payload = encode_state(Takeover.type_name, identity, marker, at=at, subject=place, serial=f"{at:.6f}")
    expiry_s = MARKER_S if marker is not None and marker.state == "running" else None
    answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
    publication = Publication(f"{settings.root}/{here.node}/{place}", payload, retain=True, expiry_s=expiry_s)
    subscriber.connection.post(publication, answer.set_result)
    async with asyncio.timeout(settings.timeout_s):
        refusal = await answer
    if refusal is not None:
        raise RefusedError(f"the broker denies publishing {publication.topic} ({refusal.words})")


def _show(left: _Left, here: _Here, node: str, *, as_json: bool) -> None:
    if as_json:
        rows = [{"prefix": str(row.prefix), "gateway": row.gateway} for row in left.routes]
        print(json.dumps({"would_take": rows}, indent=2))
        return
    for row in left.routes:
        print(f"{row.prefix} via {row.gateway}")
    print(
        f"{node} left {many(len(left.routes), 'route')} in {here.target}; with --yes-node-is-down those that a fresh "
        "inventory shows are removed, or replaced by what this node wants. Nothing was changed."
    )
