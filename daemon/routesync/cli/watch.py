"""`routesync watch`: what nodes publish, as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.live import exit_of
from routesync.cli.output import complain, console
from routesync.control.client import ControlError, default_socket
from routesync.control.follow import follow_local
from routesync.events.reader import Message, Selection, follow
from routesync.route import Prefix
from routesync.settings import MqttSettings

SHOWN: Final = 20
"""Events that the live view keeps in sight."""
_COLOURS: Final = {"online": "green", "degraded": "yellow", "stopping": "yellow", "offline": "red"}


class Way(NamedTuple):
    """How the events are had."""

    config: Path
    broker: str | None
    socket: Path | None
    local: bool


Follow = Callable[[Callable[[str | None], None]], AsyncIterator[Message]]


def watch(way: Way, selection: Selection, *, as_json: bool) -> int:
    """Follow until Ctrl-C; return the exit status."""
    follow_it = _way(way, selection)
    if isinstance(follow_it, int):
        return follow_it
    try:
        if as_json or not console().is_terminal:
            asyncio.run(_print(follow_it, as_json=as_json))
        else:
            asyncio.run(_show(follow_it))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # whoever read has had enough
        pass
    except ControlError as error:
        complain(str(error))
        return exit_of(error)
    return 0


def _way(way: Way, selection: Selection) -> Follow | int:
    socket = way.socket or default_socket()
    if not way.local:
        if way.broker is None and _is_closed(way.config) and socket.exists():
            return _follow_local(socket, selection)  # the file may hold secrets, and be for the daemon alone
        settings = _settings(way.config, way.broker)
        if isinstance(settings, int):
            return settings
        if settings is not None:
            return lambda trouble: follow(settings, selection, trouble)
    return _follow_local(socket, selection)


def _follow_local(socket: Path, selection: Selection) -> Follow:
    return lambda trouble: follow_local(socket, selection, trouble)


def _is_closed(file: Path) -> bool:
    try:
        file.open("rb").close()
    except OSError:
        return True
    return False


def read_prefix(text: str) -> Prefix | None:
    """Read the prefix of `--prefix`; complain and return None where it is none."""
    try:
        return Prefix.parse(text)
    except ValueError as error:
        complain(f"--prefix: {error}")
        return None


def _settings(config: Path, broker: str | None) -> MqttSettings | int | None:
    """The broker; None where there is none; the exit status where that cannot be told."""
    if broker is not None:
        host, colon, port = broker.rpartition(":")
        named = (
            {"host": host.strip("[]"), "port": int(port)} if colon and port.isdecimal() else {"host": broker}
        )
        try:
            return MqttSettings.model_validate(named)
        except ValidationError as error:
            complain(f"--broker {broker}: {error.errors()[0]['msg']}; write HOST or HOST:PORT")
            return EX_CONFIG
    loaded = load_or_explain(config)
    return EX_CONFIG if loaded is None else loaded.settings.mqtt


async def _print(follow_it: Follow, *, as_json: bool) -> None:
    async for message in follow_it(_complain_once()):
        print(message.model_dump_json() if as_json else _line(message).plain, flush=True)


def _complain_once() -> Callable[[str | None], None]:
    before: str | None = None

    def trouble(text: str | None) -> None:
        nonlocal before
        if text is not None and text != before:
            complain(text)
        before = text

    return trouble


async def _show(follow_it: Follow) -> None:
    view = _View()
    with Live(view.render(), console=console(), refresh_per_second=4, transient=False) as live:

        def trouble(text: str | None) -> None:
            view.trouble = text
            live.update(view.render())

        async for message in follow_it(trouble):
            view.take(message)
            live.update(view.render())


class _View:
    """Nodes above, the last events below."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._nodes: dict[str, Message] = {}
        self._events: deque[Text] = deque(maxlen=SHOWN)

    def take(self, message: Message) -> None:
        if message.kind == "status":
            self._nodes[message.node] = message
        else:
            self._events.append(_line(message))

    def render(self) -> RenderableType:
        nodes = Table("node", "state", "routes", "targets", "because", box=None, pad_edge=False)
        for name, message in sorted(self._nodes.items()):
            state = str(message.data.get("state"))
            nodes.add_row(
                name,
                Text(state, style=_COLOURS.get(state, "")),
                _routes(message),
                _targets(message),
                "; ".join(map(str, _list(message, "reasons"))),
            )
        trouble = [Text(self.trouble, style="red")] if self.trouble else []
        return Group(*trouble, nodes, Text(), *self._events)


def _list(message: Message, name: str) -> list[object]:
    found = message.data.get(name)
    return list(found) if isinstance(found, list) else []


def _routes(message: Message) -> str:
    """By the manifest of the retained table, or, where none is published, by what the targets took."""
    manifest = [table for table in _list(message, "table") if isinstance(table, dict)]
    targets = [target for target in _list(message, "targets") if isinstance(target, dict)]
    if manifest or not targets:
        return str(sum(int(table["routes"]) for table in manifest))
    return str(sum(int(target.get(phase, 0)) for target in targets for phase in ("accepted", "confirmed")))


def _targets(message: Message) -> str:
    targets = [target for target in _list(message, "targets") if isinstance(target, dict)]
    return ", ".join(f"{target.get('name')} {target.get('state')}" for target in targets)


def _line(message: Message) -> Text:
    """One event in one line: time, node, what, about what, and the rest of its data."""
    rest = " ".join(
        f"{name}={value}" for name, value in message.data.items() if value not in (None, message.subject)
    )
    if message.kind == "status":
        rest = " ".join([str(message.data.get("state")), *map(str, _list(message, "reasons"))])
    return Text.assemble(
        (message.time.astimezone().strftime("%H:%M:%S"), "dim"),
        " ",
        (message.node, "cyan"),
        " ",
        (message.kind, "bold"),
        f" {message.subject or ''} " if message.kind != "status" else " ",
        (rest, "dim"),
    )
