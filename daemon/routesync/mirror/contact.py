"""The first moments with a target: who it is, where it lives, and when its table can be believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.wire import Inventory, Port
from routesync.mirror.pace import Ingestion
from routesync.mirror.status import TargetState
from routesync.mirror.topology import Settling, Sharing

PATIENCE_S: Final = 30.0
"""The longest pause between two looks at a target that cannot be mirrored into yet."""

_SHARED: Final = (
    "it shares this host's network namespace and reads its routes by itself; nothing is mirrored into it"
)
_UNSETTLED: Final = "it lists no ports yet, or ever others, so where it lives is not known"


class Reading(NamedTuple):
    """A table that was read, and when that began, in monotonic seconds."""

    inventory: Inventory
    started: float


class Contact:
    """Makes contact with a target.

    Args:
        client: the way to it.
        links: the links of the namespace whose routes are mirrored.
        ingestion: when it is quiet enough to be read.
        gap_s: between two readings; longer than the steps in which its table fills after a start.
        say: is told why it is not mirrored into yet.
    """

    def __init__(
        self,
        client: LoxilbClient,
        links: Callable[[], Mapping[int, Link]],
        ingestion: Ingestion,
        *,
        gap_s: float,
        say: Callable[[TargetState, str], None],
    ) -> None:
        self._client = client
        self._links = links
        self._ingestion = ingestion
        self._gap_s = gap_s
        self._say = say
        self._ports: frozenset[Port] | None = None  # those by which it lives elsewhere
        self._disproved: frozenset[Port] | None = None

    async def make(self) -> tuple[str, Reading]:
        """Return its version and a table that can be believed, as soon as there is one.

        Raises:
            LoxilbError: it does not answer, or makes no sense.
        """
        version = await self._client.version()
        ports, readings, table = Settling(), 0, None
        while True:
            shared, settled = ports.note(await self._client.ports(), self._links())
            readings += 1
            if settled and ports.ports == self._disproved:
                shared = Sharing.YES
            if settled and shared is Sharing.NO and table is not None:
                self._ports = ports.ports
                return version, table
            if (
                shared is Sharing.NO
            ):  # until it is settled there is time to read the table, which takes as long
                table = await self._settle()
                continue
            if settled:
                self._say(TargetState.SHARED_NAMESPACE, _SHARED)
            elif shared is Sharing.UNKNOWN or readings > 2:
                self._say(TargetState.STARTING, _UNSETTLED)
            await asyncio.sleep(PATIENCE_S if settled else self._gap_s)

    def disprove(self) -> None:
        """The ports by which it seemed to live elsewhere have led astray: while it lists just these, it does not."""
        self._disproved = self._ports

    async def read_again(self) -> Reading:
        """Read its table once more; if it may have been started anew since then, until it can be believed again.

        Raises:
            LoxilbError: see its subclasses.
        """
        return await self._read() if self._client.unbroken else await self._settle()

    async def _read(self) -> Reading:
        while (wait := self._ingestion.quiet_in(_now())) > 0:  # noqa: ASYNC110 (the clock is what we wait for)
            await asyncio.sleep(wait)
        started = _now()
        return Reading(await self._client.inventory(), started)

    async def _settle(self) -> Reading:
        """Read until two readings agree and are not empty: after its start its table is empty, then fills.

        Reading while it fills is dangerous, too, so it is done ever more seldom.
        """
        count, gap_s = -1, self._gap_s
        while True:
            reading = await self._read()
            if reading.inventory.rows and len(reading.inventory.rows) == count:
                self._client.mark()
                return reading
            count = len(reading.inventory.rows)
            if not count:
                self._say(TargetState.STARTING, "its table is empty: it is still starting")
            await asyncio.sleep(gap_s)
            gap_s = min(gap_s * 1.5, PATIENCE_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
