"""A loxilb's table, read at once."""

from __future__ import annotations

from typing import cast

from routesync.loxilb.schema import Inventory, read_inventory


def parse_inventory(body: bytes, what: str = "GET") -> Inventory:
    """Read the answer to `GET /config/route/all`."""
    steps = read_inventory(body, what)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("Inventory", end.value)
