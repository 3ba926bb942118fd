"""The handshake with a target: its version, whether it shares our network namespace, and a table that can be believed.

After its start a loxilb answers before it knows anything: its table is empty for some seconds, then fills, and its
ports are missing at first. So both count only when two answers agree. The reads are spread, for other daemons may be
reconnecting to the same loxilb in the same moment, and reads while it ingests can crash it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from hashlib import sha256
from time import monotonic
from typing import Final, NamedTuple

from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.schema import Inventory, Port
from routesync.mirror.namespace import SHARED, Settling, Sharing
from routesync.mirror.state import MirrorState
from routesync.mirror.status import TargetState

PATIENCE_S: Final = 30.0
"""The longest pause between two looks at a target that cannot be mirrored into yet."""
STARTS_WITHIN_S: Final = 60.0
"""An empty table for longer than this is no start-up."""

TRICKLE: Final = 16.0
"""Rows a second: a table that changes more slowly is not filling, for loxilb ingests 256; other writers change it."""
TRICKLE_SEEN_S: Final = 5.0
"""It takes looks so far apart to tell."""

_UNSETTLED: Final = (
    "whether it shares this host's network namespace is not known: it lists no ports yet, or changing ones"
)


class Dump(NamedTuple):
    """A table that was read.

    Attributes:
        inventory: its rows.
        started: when reading it began, in monotonic seconds.
        restarted: the target may have been restarted since the inventory before.
    """

    inventory: Inventory
    started: float
    restarted: bool


class Handshake:
    """Gets to know a target.

    Args:
        client: the connection to it.
        links: the links of the namespace whose routes are mirrored.
        state: says when it is quiet enough to be read, and how gently it is treated.
        waiting: is called with why the target is not mirrored into yet.
    """

    def __init__(
        self,
        client: LoxilbClient,
        links: Callable[[], Mapping[int, Link]],
        state: MirrorState,
        *,
        waiting: Callable[[TargetState, str], None],
    ) -> None:
        self._client = client
        self._links = links
        self._state = state
        self._waiting = waiting
        self._ports: frozenset[Port] | None = None  # those by which it lives elsewhere
        self._disproved: frozenset[Port] | None = None

    async def make(self) -> tuple[str, Dump]:
        """Return the target's version and a table that can be believed, as soon as there is one.

        Raises:
            LoxilbError: it does not answer, or makes no sense.
        """
        version = await self._client.version()
        settling, looks, dump = Settling(), 0, None
        while True:
            shared, settled = settling.note(await self._client.ports(), self._links())
            looks += 1
            if settled and settling.ports == self._disproved:
                shared = Sharing.YES
            if settled and shared is Sharing.NO and dump is not None:
                self._ports = settling.ports
                return version, dump
            if shared is Sharing.NO:  # until the ports are settled there is time to read the table
                dump = await self._settle()
                continue
            if settled:
                self._waiting(TargetState.SHARED_NAMESPACE, SHARED)
            elif shared is Sharing.UNKNOWN or looks > 2:
                self._waiting(TargetState.STARTING, _UNSETTLED)
            await asyncio.sleep(PATIENCE_S if settled else self._state.limits.inventory_gap_s)

    @property
    def instance(self) -> str | None:
        """A name of the loxilb that its other users see, too: a hash of index and MAC of its first port.

        The first only, for ports come and go. None: the handshake is not done.
        """
        first = min(self._ports, key=lambda port: port.ifindex, default=None) if self._ports else None
        return None if first is None else sha256(f"{first.ifindex} {first.mac}".encode()).hexdigest()[:16]

    def disprove(self) -> None:
        """A route of ours came up in our own kernel: while the target lists these ports, it shares our namespace."""
        self._disproved = self._ports

    async def inventory(self) -> Dump:
        """Read the table once more; if the target may have been restarted, until it can be believed again.

        Raises:
            LoxilbError: see its subclasses.
        """
        return await self._read(restarted=False) if self._client.unbroken else await self._settle()

    async def _read(self, *, restarted: bool) -> Dump:
        while (wait := self._state.ingestion.quiet_in(monotonic())) > 0:  # noqa: ASYNC110 (the clock is what we wait for)
            await asyncio.sleep(wait)
        started = monotonic()
        return Dump(await self._client.inventory(), started, restarted)

    async def _settle(self) -> Dump:
        """Read until the table does not fill any more, ever less often: reads while it fills can crash it.

        That is when two inventories have as many rows, or about as many, some seconds apart.
        """
        began = monotonic()
        limits = self._state.limits
        if limits.writers > 1:
            await asyncio.sleep(random.uniform(0, limits.inventory_gap_s * limits.writers))  # noqa: S311
        count, gap_s, read_at = -1, limits.inventory_gap_s, 0.0
        while True:
            dump = await self._read(restarted=True)
            rows, apart_s, read_at = len(dump.inventory.rows), dump.started - read_at, dump.started
            is_trickle = apart_s >= TRICKLE_SEEN_S and abs(rows - count) < TRICKLE * apart_s
            if rows and (rows == count or (count > 0 and is_trickle)):
                self._client.mark()
                return dump
            if count >= 0 or not rows:
                self._waiting(TargetState.STARTING, _why_unsettled(dump.inventory, monotonic() - began))
            count = rows
            await asyncio.sleep(gap_s * random.uniform(1, 1 + 0.25 * (limits.writers - 1)))  # noqa: S311
            gap_s = min(gap_s * 1.5, PATIENCE_S)


def _why_unsettled(inventory: Inventory, waited_s: float) -> str:
    rows = len(inventory.rows)
    if rows:
        return f"its table is still filling, as after a restart: {rows} rows so far"
    if inventory.unreadable:
        return (
            f"none of the {inventory.unreadable} rows of its table can be read (the first: "
            f"{inventory.first_unreadable}); is this a loxilb of a supported version?"
        )
    if waited_s > STARTS_WITHIN_S:
        return (
            f"its table is empty for {waited_s:.0f} s: a loxilb that runs with --nonlp never shows any route"
        )
    return "its table is empty: it is still starting"
