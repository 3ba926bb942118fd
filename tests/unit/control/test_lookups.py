"""Dumps of the kernel's table for calls, while a reload replaces the source and its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from routesync.best_routes import BestRoutes
from routesync.config import load
from routesync.control import api
from routesync.control.context import Context
from routesync.control.models import ExplainQuery, PlanQuery, ProblemError
from routesync.control.plan import Choice, PlanRows
from routesync.kernel import KernelError, KernelSource
from routesync.kernel.decode import RouteDetails
from routesync.kernel.netlink import Sysctls
from routesync.names import Names
from routesync.route import Candidate, Evaluated, NextHop, Prefix, Route, Verdict, parse_address
from routesync.table import Table

P = Prefix.parse("10.1.0.0/16")
KEEP = Verdict(keep=True, rule="default")


def route(table: int) -> Route:
    return Route(P, table, 0, 0, 4, 0, 1, (NextHop(parse_address("192.0.2.1"), 2),))


class Source:
    """A source of some tables, with one route in each; `during` happens while it dumps them."""

    def __init__(self, *tables: int, during: Callable[[], object] = int, outcome: bool | str = True) -> None:
        self.tables = tables
        self.links: dict[int, object] = {}
        self.stats = SimpleNamespace(sysctls=Sysctls())
        self._during = during
        self._outcome = outcome

    async def look_up(
        self, take: Callable[[Route, Callable[[], RouteDetails]], None], covering: object
    ) -> bool:
        del covering
        self._during()
        if isinstance(self._outcome, str):
            raise KernelError(self._outcome)
        for table in self.tables:
            take(route(table), RouteDetails)
        return self._outcome


def following(*tables: int, **others: Any) -> KernelSource:
    return cast("KernelSource", Source(*tables, **others))


def best_routes(source: KernelSource) -> BestRoutes:
    made = SimpleNamespace(source=source, table=Table(), evaluate=lambda _route, **_links: KEEP)
    return cast("BestRoutes", made)


def calls(tmp_path: Path, best: BestRoutes) -> api.Api:
    file = tmp_path / "routesync.toml"
    file.write_text("")
    loaded = load(file, {}, Names())
    context = SimpleNamespace(
        best_routes=best, loaded=lambda: loaded, targets=SimpleNamespace(reconcilers=[])
    )
    return api.Api(cast("Context", context), api.Lookups(best), over_tcp=False)


@pytest.mark.parametrize("tables", [(100,), (254, 100), (100, 99)])
async def test_an_explanation_is_of_the_tables_that_were_dumped(
    tmp_path: Path, tables: Sequence[int]
) -> None:
    best = best_routes(following(254))

    best.source = following(*tables, during=lambda: setattr(best, "source", following(254)))
    found = await calls(tmp_path, best).explain(make_mocked_request("GET", "/"), ExplainQuery(of="10.1.2.3"))
    assert found.tables == tuple(map(Names().table, tables))
    assert len(found.prefixes[0].candidates) == len(tables)


async def test_a_plan_has_what_is_elected_of_a_table_that_is_no_longer_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Choice] = []

    async def stream(_request: object, _key: str, rows: PlanRows, _rest: object) -> web.Response:
        shown.extend(rows._choices)
        return web.Response()

    monkeypatch.setattr(api, "stream_rows", stream)
    best = best_routes(following(100))
    best.evaluate = lambda *_, **_links: Verdict(keep=False, rule="no")  # type: ignore[method-assign]
    best.table.update(P, (Evaluated(route(254).attributes, KEEP),))
    await calls(tmp_path, best).plan(make_mocked_request("GET", "/"), PlanQuery())
    assert [(it.route.table, it.verdict.keep) for it in shown[0].routes] == [(100, False), (254, True)]
    assert shown[0].elected == Candidate(route(254), KEEP)


async def test_an_incomplete_dump_is_tried_again_with_the_source_that_there_is_now(tmp_path: Path) -> None:
    best = best_routes(following(254))
    best.source = following(100, during=lambda: setattr(best, "source", following(254)), outcome=False)
    found = await calls(tmp_path, best).explain(make_mocked_request("GET", "/"), ExplainQuery(of="10.1.2.3"))
    assert (found.tables, found.complete) == (("main",), True)


async def test_a_source_that_is_not_followed_makes_the_call_unavailable(tmp_path: Path) -> None:
    best = best_routes(following(254, outcome="the kernel's routes are not followed yet"))
    with pytest.raises(ProblemError, match="not followed yet"):
        await calls(tmp_path, best).explain(make_mocked_request("GET", "/"), ExplainQuery(of="10.1.2.3"))
