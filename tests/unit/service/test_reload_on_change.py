"""`reload_on_change`: each content of the file is applied once, by the watcher or by a reload by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routesync.config import load
from routesync.mirror.ledger import Ledger
from routesync.service import daemon
from routesync.service.daemon import Daemon
from routesync.service.systemd import ActivatedSockets, Notifier
from support.waiting import eventually

GOOD, BETTER, BAD = (f"reload_on_change = true\n[log]\nlevel = '{it}'\n" for it in ("info", "debug", "loud"))
INTERVAL_S = 0.03


async def _not_applied(*_: object) -> None:
    pass


@asynccontextmanager
async def reloading(file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    """A daemon that reads its configuration and applies none of it."""
    monkeypatch.setattr(daemon, "WATCH_INTERVAL_S", INTERVAL_S)
    monkeypatch.setattr(Daemon, "_apply", _not_applied)
    async with AsyncExitStack() as stack:
        ledger = Ledger(file.parent)
        stack.push_async_callback(ledger.close)
        made = Daemon(
            load(file),
            ledger,
            state=file.parent,
            notifier=Notifier(None),
            sockets=ActivatedSockets(),
            stack=stack,
        )
        tasks = [asyncio.create_task(it()) for it in (made._reload_on_change, made._reload_on_request)]
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("text", "outcome"), [(BETTER, "config_reloaded"), (BAD, "config_rejected")])
@pytest.mark.parametrize("by_hand", [True, False])
async def test_a_content_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, outcome: str, *, by_hand: bool
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text(GOOD)
    async with reloading(file, monkeypatch) as made:
        with capture_logs() as logs:

            def outcomes() -> list[str]:
                return [it["event"] for it in logs if it["event"].startswith("config_re")]

            await asyncio.sleep(5 * INTERVAL_S)
            assert outcomes() == []
            file.write_text(text)
            if by_hand:
                await made._request_reload()
            await eventually(lambda: outcomes() != [], what="the reload")
            await asyncio.sleep(10 * INTERVAL_S)
            assert outcomes() == [outcome]
            file.write_text(GOOD)
            await eventually(lambda: outcomes() == [outcome, "config_reloaded"], what="the next content")


async def test_a_file_that_could_not_be_read_is_loaded_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text(GOOD)
    async with reloading(file, monkeypatch) as made:
        file.unlink()
        assert await made._request_reload()
        assert made._problems()
        file.write_text(GOOD)
        await eventually(lambda: not made._problems(), what="the same content again")


async def test_a_file_that_is_nested_without_end_leaves_the_running_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text(GOOD)
    async with reloading(file, monkeypatch) as made:
        running = made._loaded
        file.write_text(f"[x.{'.'.join('a' * 1000)}]\n")
        (fault,) = await asyncio.wait_for(made._request_reload(), 10)
        assert "nested too deeply" in fault
        assert made._loaded is running
        file.write_text(BETTER)
        assert not await asyncio.wait_for(made._request_reload(), 10)


@pytest.mark.parametrize("name", ["routesync.toml", "routesync.toml.d/a.toml", "token"])
async def test_a_pipe_in_place_of_a_file_holds_up_no_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, pipe = tmp_path / "routesync.toml", tmp_path / name
    file.write_text(GOOD)
    async with reloading(file, monkeypatch) as made:
        running = made._loaded
        text = BETTER + '[[targets]]\nname = "a"\nurl = "http://192.0.2.1"\ntoken_file = "token"\n'
        file.write_text(text)
        (tmp_path / "token").write_text("it")
        pipe.unlink(missing_ok=True)
        pipe.parent.mkdir(exist_ok=True)
        os.mkfifo(pipe)
        (fault,) = await asyncio.wait_for(made._request_reload(), 10)
        assert "not a regular file" in fault
        assert made._loaded is running
        pipe.unlink()
        pipe.write_text(text if pipe == file else "")
        (tmp_path / "token").write_text("it")
        assert not await asyncio.wait_for(made._request_reload(), 10)
