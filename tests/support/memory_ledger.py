"""A ledger that lasts as long as the process: for tests whose subject is not the disk."""

from __future__ import annotations

import asyncio

from routesync.mirror.ledger import Ledger, Row
from routesync.route import Prefix


class MemoryLedger(Ledger):
    """Keeps rows in memory; nothing of it is ever in trouble."""

    trouble = None

    def __init__(self) -> None:
        self._rows: dict[str, dict[Prefix, Row]] = {}

    def owned(self, target: str) -> dict[Prefix, Row]:
        return dict(self._rows.get(target, {}))

    def targets(self) -> dict[str, int]:
        return {target: len(rows) for target, rows in self._rows.items() if rows}

    def note(self, target: str, prefix: Prefix, row: Row | None) -> None:
        if row is not None:
            self._rows.setdefault(target, {})[prefix] = row
        else:
            self._rows.get(target, {}).pop(prefix, None)

    def committed(self) -> asyncio.Future[None] | None:
        return None

    async def close(self) -> None:
        pass
