"""`routesync watch` as people and pipes use it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest
import typer
from pydantic import JsonValue
from rich.console import Console

from routesync.cli.brokers import named_broker
from routesync.cli.watch import View
from routesync.events.models import KernelOverrun
from routesync.events.node_status import Status
from routesync.events.reader import ReceivedMessage
from support.broker import Broker, ServerTls, broker
from support.certificates import Authority
from support.events import NODE, Node, publishing
from support.fleet import FleetNode, publish
from support.processes import WITH_CTRL_C
from support.slow_link import SlowLink, slow_link
from support.waiting import eventually

COMMAND = [sys.executable, "-m", "routesync", "watch"]


@asynccontextmanager
async def watching(
    mosquitto: Broker | SlowLink,
    *options: str,
    user: str = "",
    password: str | None = None,
    **environment: str,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command in a pipe; with a user over TLS."""
    address = f"{mosquitto.address}:{mosquitto.port}"
    process = await asyncio.create_subprocess_exec(
        *WITH_CTRL_C,
        *COMMAND,
        "--broker",
        f"mqtts://{user}@{address}" if user else address,
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment | ({} if password is None else {"ROUTESYNC_MQTT_PASSWORD": password}),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(15):
        return [(await process.stdout.readline()).decode() for _ in range(count)]


async def complaint(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    return (await asyncio.wait_for(process.stderr.readline(), 15)).decode()


async def steady(node: Node, routes: int) -> None:
    await node.connected()
    node.emit(routes)


async def test_json_is_one_message_a_line_and_ctrl_c_ends_it(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node, watching(mosquitto, "--json") as process:
        (status,) = await lines(process, 1)
        assert json.loads(status)["type"] == "io.routesync.status.v1"
        await steady(node, 2)
        events = [json.loads(line) for line in await lines(process, 2)]
        assert [event["data"]["prefix"] for event in events] == ["10.0.0.1/32", "10.0.0.2/32"]
        assert {event["specversion"] for event in events} == {"1.0"}  # as it came: a CloudEvent a line
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_default_broker_and_a_slow_link_hide_no_node() -> None:
    names = {f"node-{number:04}" for number in range(4200)}
    with broker() as default:
        statuses = (FleetNode(name, {}).status("degraded", reasons=["x" * 1500]) for name in names)
        await asyncio.to_thread(publish, default.settings(), statuses)
        async with slow_link(default) as link, watching(link, "--json") as process:
            found = await lines(process, len(names))
            assert link.connections > 1
    assert {json.loads(line)["source"].removeprefix("/routesync/") for line in found} == names


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}])
async def test_a_pipe_gets_plain_lines_of_what_is_selected(
    mosquitto: Broker, environment: dict[str, str]
) -> None:
    options = ("--type", "status", "--type", "route.*", "--node", NODE)
    async with (
        publishing(mosquitto.settings()) as node,
        watching(mosquitto, *options, **environment) as process,
    ):
        (status,) = await lines(process, 1)
        assert f"{NODE} status online" in status
        node.hub.emit(KernelOverrun(total=1))
        await steady(node, 1)
        (line,) = await lines(process, 1)
        assert f"{NODE} route.accepted 10.0.0.2/32 target=lb-1" in line


async def test_an_unreachable_broker_is_said_once(mosquitto: Broker) -> None:
    mosquitto.kill()
    async with watching(mosquitto) as process:
        assert "Connection refused; check --broker" in await complaint(process)
        await asyncio.to_thread(mosquitto.start)
        async with publishing(mosquitto.settings()):
            (line,) = await lines(process, 1)
            assert f"{NODE} status online" in line


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def guarded(authority: Authority) -> Iterator[Broker]:
    server = authority.issue("server", alternative="IP:127.0.0.1")
    acl = f"user {NODE}\ntopic write routesync/#\nuser reader\ntopic read routesync/#\nuser blind\n"
    with broker(
        users={NODE: "1", "reader": "2", "blind": "3"},
        acl=acl + "topic read nothing\n",
        tls=ServerTls(authority.certificate, server.certificate, server.key),
    ) as made:
        yield made


async def test_over_tls_with_a_user_and_what_is_wrong_is_said_with_place_and_remedy(
    guarded: Broker, authority: Authority
) -> None:
    ca = ("--ca-file", str(authority.certificate))
    tls = {"ca_file": str(authority.certificate)}
    # one command after the other: each has its own deadline
    async with publishing(guarded.settings(username=NODE, password="1", tls=tls)):
        async with watching(guarded, *ca, user="reader", password="2") as process:
            (line,) = await lines(process, 1)
            assert f"{NODE} status online" in line
        async with watching(guarded, *ca, user="reader", password="wrong") as mistaken:
            refused = "refuses user 'reader' (Not authorized); check USER of --broker"
            assert refused in await complaint(mistaken)
        async with watching(guarded, user="reader", password="2") as trustless:
            assert "certificate verify failed" in (said := await complaint(trustless))
            assert said.endswith("check --ca-file\n")
        async with watching(guarded, *ca, user="blind", password="3") as blind:
            blank = "no node publishes routesync/v1/+/status, or user 'blind' may not read it"
            assert blank in await complaint(blind)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("http://broker", "http is no scheme of MQTT"),
        ("mqtt://me:secret@broker", "put it into $ROUTESYNC_MQTT_PASSWORD"),
        ("mqtt://me:se/secret@broker", "Port out of range, or not a number"),
        ("mqtt://me:s[secret]@broker", "or an invalid host"),
        ("mqtt://me:secret\N{ACCOUNT OF}@broker", "or an invalid host"),
        ("me:se@secret@broker", "put it into $ROUTESYNC_MQTT_PASSWORD"),
        ("broker:99999", "Port out of range"),
        ("mqtt://", "names no host"),
        ("mqtt://broker/root/#", "? and # have no meaning"),
        ("mqtt://broker/root/+", "root: "),
    ],
)
def test_a_broker_that_cannot_be_is_said_at_once(
    named: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        named_broker(named, None)
    assert caught.value.exit_code == 2
    said = capsys.readouterr().err
    assert problem in said
    assert "secret" not in said


def test_a_url_names_user_root_and_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTESYNC_MQTT_PASSWORD", "secret")
    settings = named_broker("mqtts://me%40home@[2001:db8::1]/lab/v1", Path("ca.pem"))
    assert (settings.host, settings.port, settings.username) == ("2001:db8::1", 8883, "me@home")
    assert settings.root == "lab/v1"
    assert settings.tls is not None
    assert settings.tls.ca_file == "ca.pem"
    assert settings.password is not None
    assert settings.password.get_secret_value() == "secret"


def screen(view: View, terminal: Console, now: float = 0) -> list[str]:
    terminal.print(view.render(now))
    return [row.rstrip() for row in terminal.export_text().splitlines()]


def a_view() -> tuple[View, Console]:
    terminal = Console(width=80, height=24, record=True, file=io.StringIO(), markup=False)
    view = View(terminal)
    view.note_trouble(None)
    return view, terminal


def status(state: JsonValue = "online", **more: JsonValue) -> dict[str, JsonValue]:
    return {"state": state, "node": "n", **more}


def test_a_fleet_fits_the_terminal_and_the_troubled_stand_first() -> None:
    view, terminal = a_view()
    for number in range(100):
        state = "degraded" if number == 77 else "online"
        target: JsonValue = {
            "name": "lb-1",
            "url": "u",
            "state": "synced",
            "desired": 3,
            "phases": {"present": 2},
        }
        view.take(
            message(f"node-{number:02}", "status", status(state, reasons=["x" * 200], targets=[target])), 0
        )
        view.take(message(f"node-{number:02}", "kernel.overrun", {"total": number}), 0)
    rows = screen(view, terminal)
    assert len(rows) <= 24
    assert rows[0].startswith("100 nodes: 1 degraded, 99 online  200/300 routes")
    assert rows[3].split()[:4] == ["node-77", "degraded", "2/3", "0s"]
    assert any(row.endswith(" online") and row.startswith("and ") for row in rows)
    assert "node-99 kernel.overrun" in rows[-1]
    assert max(map(len, rows)) <= 80


def test_a_target_with_work_shows_how_much_is_left() -> None:
    view, terminal = a_view()
    for node, left in (("fast", 4.2), ("absurd", 1e308)):
        target: JsonValue = {
            "name": "lb-1",
            "url": "u",
            "state": "syncing",
            "waiting": 1200,
            "rate": 240,
            "remaining_s": left,
        }
        view.take(message(node, "status", status(targets=[target])), 0)
    shown = "\n".join(screen(view, terminal))
    assert "lb-1 syncing (1,200 waiting, about 5 s left at 240" in shown
    assert "absurd" in shown


def test_a_node_without_a_heartbeat_is_silent_by_the_remaining_expiry() -> None:
    view, terminal = a_view()
    beating = status(heartbeat_s=60, expiry_s=1000)
    for node, left in (("young", 950), ("old", 800)):
        made = message(node, "status", beating)
        view.take(made.model_copy(update={"retained": True, "expiry_s": left}), 100)
    rows = screen(view, terminal, now=100)
    assert rows[0].startswith("2 nodes: 1 silent, 1 online")
    assert rows[3].split()[:4] == ["old", "silent", "0/0", "3m"]
    assert rows[4].split()[:4] == ["young", "online", "0/0", "50s"]
    assert screen(view, terminal, now=300)[0].startswith("2 nodes: 2 silent")


def test_keys_pause_filter_and_choose() -> None:
    view, terminal = a_view()
    view.take(message("good", "status", status()), 0)
    view.take(message("bad", "status", status("degraded", reasons=["broker: no"])), 0)
    view.take(message("good", "kernel.overrun", {"total": 1}), 0)

    def rows() -> str:
        return "\n".join(screen(view, terminal))

    view.press("t")
    assert [row.split()[0] for row in rows().splitlines()[3:4]] == ["bad"]
    assert "online" not in "".join(rows().splitlines()[1:])
    view.press("t")
    view.press("e")
    assert "degraded" not in "".join(rows().splitlines()[1:])
    assert "overrun" in rows()
    view.press("e")
    for key in "/OVERq\n":
        assert not view.press(key)
    assert "overrun" not in rows()
    for key in "/over\n":
        view.press(key)
    assert "overrun" in rows()
    assert "degraded" not in "".join(rows().splitlines()[1:])
    view.press("\x1b")
    view.press(" ")
    assert "PAUSED" in rows()
    view.take(message("later", "status", status()), 0)
    assert "later" not in rows()
    view.press(" ")
    assert "later" in rows()
    assert view.press("q")


HOSTILE: list[JsonValue] = [
    None,
    7,
    "\x1b]0;owned\x07",
    [1, {"a": None}],
    {"x": [[]]},
    1e308,
    "[bold red]x[/]",
    "\u202e",
]


def test_nothing_that_a_broker_sends_ends_the_view_or_reaches_the_terminal_raw() -> None:
    view, terminal = a_view()
    fields = [name for name in Status.model_fields if name not in ("state", "node")]
    for number, bad in enumerate(HOSTILE):
        for field in fields:
            view.take(message(f"n{number}-{field}", "status", status(**{field: bad})), 0)
            view.take(message(f"n{number}-{field}", "route.accepted", {field: bad, "prefix": bad}), 0)
        view.take(message(f"n{number}", "status", {"state": bad}), 0)
    view.take(message("\x1b[2J", "x\x9by", {"\x1b[1m": "\x1b[0m"}), 0)
    view.note_trouble("\x1b[5m")
    terminal.print(view.render(0))
    assert not {"\x1b[2J", "\x1b[5m", "\x9b", "\x07", "\u202e"} & {*terminal.export_text()}
    assert "\x1b]" not in terminal.export_text(styles=True, clear=False)


def test_reasons_are_shown_as_they_are_and_not_as_markup() -> None:
    view, terminal = a_view()
    reason = "http://[fd00::20]:11111 [red]down[/red]"
    view.take(message("n", "status", status("degraded", reasons=[reason])), 0)
    assert any(row.endswith(reason) for row in screen(view, terminal))


def message(node: str, kind: str, data: dict[str, JsonValue]) -> ReceivedMessage:
    return ReceivedMessage(
        id="1",
        source=f"/routesync/{node}",
        type=f"io.routesync.{kind}.v1",
        time=datetime.now(UTC),
        epoch="e",
        data=data,
    )


@asynccontextmanager
async def on_terminal(mosquitto: Broker, **environment: str) -> AsyncIterator[tuple[Process, int]]:
    """The command on a terminal of its own, and our end of that."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--broker",
        f"{mosquitto.address}:{mosquitto.port}",
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | environment,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(ours)


async def test_a_terminal_gets_a_live_view(mosquitto: Broker) -> None:
    screen = b""

    def shows(*words: bytes) -> bool:
        nonlocal screen
        try:
            screen += os.read(ours, 65536)
        except BlockingIOError:
            return False
        return all(word in screen for word in words)

    async with (
        publishing(mosquitto.settings()) as node,
        on_terminal(mosquitto, TERM="xterm", COLUMNS="160", LINES="40") as (process, ours),
    ):
        os.set_blocking(ours, False)
        await eventually(lambda: shows(b"1 node", b"state", NODE.encode(), b"online"), within_s=20)
        await steady(node, 1)
        await eventually(lambda: shows(b"route.accepted", b"10.0.0.1/32"), within_s=20)
        os.write(ours, b" ")
        await eventually(lambda: shows(b"PAUSED"), within_s=20)
        os.write(ours, b"q")
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_a_terminal_that_cannot_move_its_cursor_gets_lines(mosquitto: Broker) -> None:
    async with (
        publishing(mosquitto.settings()),
        on_terminal(mosquitto, TERM="dumb") as (_, ours),
    ):
        said = await asyncio.wait_for(asyncio.to_thread(os.read, ours, 65536), 20)
        assert f" {NODE} status online".encode() in said
        assert b"\x1b" not in said


async def test_memory_is_bound_under_a_broker_that_floods(mosquitto: Broker) -> None:
    """What comes faster than it is shown waits in the socket."""

    async def flood(node: str) -> None:
        event = message(node, "route.accepted", {"prefix": "x" * 10_000}).model_dump_json().encode()
        async with aiomqtt.Client(mosquitto.address, mosquitto.port) as client:
            for _ in range(20_000):
                await client.publish(f"routesync/v1/{node}/event/route/accepted", event, qos=1)

    loop = asyncio.get_running_loop()
    async with on_terminal(mosquitto) as (process, ours):
        loop.add_reader(ours, lambda: os.read(ours, 65536))
        floods = asyncio.gather(flood("node-1"), flood("node-2"))  # 400 MB
        try:
            peak = 0
            while not floods.done():
                await asyncio.sleep(0.2)
                peak = max(peak, resident_kb(process.pid))
            await floods
            assert process.returncode is None
            assert peak < 200_000, f"{peak} kB"
        finally:
            floods.cancel()
            loop.remove_reader(ours)


def resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
