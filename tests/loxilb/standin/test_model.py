"""The model in memory and the stand-in on a real kernel do the same, step by step."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from routesync.route import Address, Prefix, format_address, parse_address
from support.loxilb_caller import Caller
from support.loxilb_model import LoxilbModel
from support.netns import Namespace
from support.standin import ingested, running_standin

PREFIXES = [Prefix.parse(text) for text in ("10.1.0.0/24", "0.0.0.0/0", "2001:db8:1::/48", "::/0")]
GATEWAYS = {
    4: [parse_address(f"192.168.10.{host}") for host in (1, 2, 3)] + [parse_address("203.0.113.9")],
    16: [parse_address(f"fd00:10::{host}") for host in (1, 2, 3)] + [parse_address("2001:db8:ffff::9")],
}
OPERATIONS = 250


def _kernel(space: Namespace, prefix: Prefix) -> list[tuple[int, frozenset[str]]]:
    family = "-4" if len(prefix.packed) == 4 else "-6"
    found: list[dict[str, Any]] = json.loads(space.ip(f"-j {family} route show exact {prefix}") or "[]")
    return [
        (
            route.get("metric", 0),
            frozenset(hop["gateway"] for hop in route.get("nexthops", [route]) if "gateway" in hop),
        )
        for route in found
    ]


def _modelled(model: LoxilbModel, prefix: Prefix) -> list[tuple[int, frozenset[str]]]:
    return [(route.metric, frozenset(map(format_address, route.gateways))) for route in model.kernel(prefix)]


def _ip(space: Namespace, verb: str, prefix: Prefix, gateway: Address | None, more: str = "") -> bool:
    family = "-4" if len(prefix.packed) == 4 else "-6"
    via = f" via {format_address(gateway)}" if gateway else ""
    try:
        space.ip(f"{family} route {verb} {prefix}{via}{more}")
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
async def test_they_answer_alike_and_hold_the_same_routes(space: Namespace, seed: int) -> None:
    chance = random.Random(seed)
    model = LoxilbModel(networks=("192.168.10.20/24", "fd00:10::20/64"))
    with running_standin(space, "--fragile", "off", "--tick", "0.02") as standin:
        caller = Caller(standin)
        for step in range(OPERATIONS):
            prefix = chance.choice(PREFIXES)
            gateway = chance.choice(GATEWAYS[len(prefix.packed)])
            metric = chance.choice([None, None, 20, 100, 2000])
            where = "" if metric is None else f" metric {metric}"
            did = chance.choice(["post", "post", "delete", "add", "append", "prepend", "replace", "del"])
            real: object
            ours: object
            match did:
                case "post":
                    real = (await caller.post(str(prefix), format_address(gateway)))[0]
                    ours = model.post(prefix, gateway, step).status
                case "delete":
                    real = (await caller.delete(str(prefix)))[0]
                    ours = model.delete(prefix, step).status
                case "replace":
                    real = _ip(space, did, prefix, gateway, f"{where} proto bgp")
                    ours = model.foreign_replace(prefix, gateway, now=step, metric=metric)
                case "del":
                    named = chance.choice([None, gateway])
                    real = _ip(space, did, prefix, named, where)
                    ours = model.foreign_delete(prefix, step, metric=metric, gateway=named)
                case "add" | "append" | "prepend":
                    real = _ip(space, did, prefix, gateway, f"{where} proto bgp")
                    ours = model.foreign_add(prefix, gateway, now=step, metric=metric, how=did)
                case _:
                    raise AssertionError(did)
            what = f"step {step}: {did} {prefix} via {format_address(gateway)}{where}"
            assert real == ours, what
            assert _kernel(space, prefix) == _modelled(model, prefix), what
        await ingested(standin)
        rows = await caller.rows()
        inventory = model.inventory(OPERATIONS + 60)
        assert inventory is not None
        for prefix in PREFIXES:
            row, modelled = rows.get(str(prefix)), inventory.rows.get(prefix)
            assert (row is None) is (modelled is None), prefix
            if row is not None and modelled is not None:
                assert row.get("gateway", "") == ",".join(map(format_address, modelled.gateways)), prefix
                assert row["protocol"] == modelled.protocol, prefix
