"""`withdraw` without a daemon: which targets it takes from the file and the ledger, and what it says of the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from routesync.cli.app import app
from routesync.config.models import TargetSettings
from routesync.control import ownership
from routesync.kernel import Link
from routesync.mirror.ledger import Ledger, Row, read_owned
from routesync.route import Prefix, parse_address
from support.event_sink import Events

TARGETS = """\
[[targets]]
name = "edge"
url = "http://localhost:1"
all_addresses = true

[[targets]]
name = "edge-127.0.0.8"
url = "http://127.0.0.8:1"
"""


def note_owned(state: Path, *targets: str) -> None:
    async def note() -> None:
        with Ledger(state) as ledger:
            for target in targets:
                ledger.note(target, Prefix.parse("10.98.0.0/16"), Row(parse_address("192.0.2.1")))
            if (committed := ledger.committed()) is not None:
                await committed

    asyncio.run(note())


def withdraw(directory: Path, *options: str) -> Result:
    file = directory / "routesync.toml"
    file.write_text(TARGETS)
    return CliRunner().invoke(
        app, ["withdraw", "--config", str(file), "--state", str(directory / "state"), *options]
    )


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give up soon; and put back the settings of the log, which the command changes."""
    monkeypatch.setattr(ownership, "GIVE_UP_S", 0.1)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_an_address_that_is_gone_for_good_is_named_and_keeps_none_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_owned(tmp_path / "state", "edge-127.0.0.9", "edge-127.0.0.8", "edge-other", "another")
    monkeypatch.setattr("routesync.cli.ownership.look_up_name", lambda _: ("127.0.0.1", "127.0.0.2"))
    done = withdraw(tmp_path, "--target", "edge")
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("routesync: target edge-127.0.0.9: ")
    assert line.endswith(
        "1 route left, and still owned; if no loxilb gets this address again: routesync forget -t edge-127.0.0.9"
    )
    assert done.stdout == "edge: 0 routes withdrawn\n"
    assert read_owned(tmp_path / "state", "edge-127.0.0.9")


def test_an_address_of_the_name_that_does_not_answer_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_owned(tmp_path / "state", "edge-127.0.0.9")
    monkeypatch.setattr("routesync.cli.ownership.look_up_name", lambda _: ("127.0.0.1", "127.0.0.9"))
    done = withdraw(tmp_path, "--target", "edge")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith("1 route left, and still owned\n")


def test_where_the_name_does_not_resolve_an_address_is_not_known_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> tuple[str, ...]:
        raise OSError(-2, "Name or service not known")

    note_owned(tmp_path / "state", "edge-127.0.0.9")
    monkeypatch.setattr("routesync.cli.ownership.look_up_name", refuse)
    assert withdraw(tmp_path, "--target", "edge").exit_code == 1


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("edge", 0, "edge: no route in it is owned; targets with owned routes: other (1)"),
        (
            "edge-127.0.0.7",
            0,
            "edge-127.0.0.7: no route in it is owned; targets with owned routes: other (1)",
        ),
        ("other", 78, "has no target other; if it is no longer configured, give its URL: --url http"),
    ],
)
def test_a_target_without_owned_routes_or_that_is_unknown(
    target: str, status: int, said: str, tmp_path: Path
) -> None:
    note_owned(tmp_path / "state", "other")
    done = withdraw(tmp_path, "--target", target)
    assert done.exit_code == status
    assert said in done.output


@pytest.mark.parametrize("options", [[], ["--url", "http://127.0.0.9:1"]])
def test_without_a_configuration_file_a_url_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr("routesync.cli.app.DEFAULT_CONFIG", tmp_path / "routesync.toml")
    note_owned(tmp_path, "other")
    done = CliRunner().invoke(app, ["withdraw", "--target", "other", "--state", str(tmp_path), *options])
    if options:
        assert done.exit_code == 1
        assert done.stderr.startswith("routesync: target other: ")
        assert done.stderr.endswith("1 route left, and still owned\n")
    else:
        assert done.exit_code == 78
        assert "no such file" in done.stderr


def test_a_configuration_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    note_owned(tmp_path, "other")
    options = ["--config", str(tmp_path / "nix.toml"), "--state", str(tmp_path)]
    done = CliRunner().invoke(app, ["withdraw", "--target", "other", "--url", "http://127.0.0.9:1", *options])
    assert (done.exit_code, "no such file" in done.stderr) == (78, True)


async def test_a_loxilb_that_does_not_come_up_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "STARTS_S", 0.5)
    answers = {"/version": {"version": "0.9.8"}, "/port/all": {"portAttr": []}}

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(next(it for path, it in answers.items() if request.path.endswith(path)))

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server:
        settings = TargetSettings(name="edge", url=str(server.make_url("")))
        with Ledger(tmp_path) as ledger:
            ledger.note("edge", Prefix.parse("10.98.0.0/16"), Row(parse_address("192.0.2.1")))
            done = await asyncio.wait_for(
                ownership.withdraw_all(settings, ledger, Events(), links=dict[int, Link]), 30
            )
    assert (done.left, done.is_reachable) == (1, True)
    assert "it lists no ports yet" in (done.error or "")
