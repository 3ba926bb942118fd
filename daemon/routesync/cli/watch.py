"""`routesync watch`: what nodes publish, as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import complain, console
from routesync.events.reader import Message, Selection, follow
from routesync.route import Prefix
from routesync.settings import MqttSettings

SHOWN: Final = 20
"""Events that the live view keeps in sight."""
_COLOURS: Final = {"online": "green", "degraded": "yellow", "stopping": "yellow", "offline": "red"}


def watch(config: Path, broker: str | None, selection: Selection, *, as_json: bool) -> int:
    """Follow until Ctrl-C; return the exit status."""
    settings = _settings(config, broker)
    if settings is None:
        return EX_CONFIG
    try:
        if as_json or not console().is_terminal:
            asyncio.run(_print(settings, selection, as_json=as_json))
        else:
            asyncio.run(_show(settings, selection))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # whoever read has had enough
        pass
    return 0


def read_prefix(text: str) -> Prefix | None:
    """Read the prefix of `--prefix`; complain and return None where it is none."""
    try:
        return Prefix.parse(text)
    except ValueError as error:
        complain(f"--prefix: {error}")
        return None


def _settings(config: Path, broker: str | None) -> MqttSettings | None:
    if broker is not None:
        host, colon, port = broker.rpartition(":")
        named = (
            {"host": host.strip("[]"), "port": int(port)} if colon and port.isdecimal() else {"host": broker}
        )
        try:
            return MqttSettings.model_validate(named)
        except ValidationError as error:
            complain(f"--broker {broker}: {error.errors()[0]['msg']}; write HOST or HOST:PORT")
            return None
    loaded = load_or_explain(config)
    if loaded is not None and loaded.settings.mqtt is None:
        complain(f"{config}: names no broker ([mqtt]); name one with --broker HOST[:PORT]")
        return None
    return loaded.settings.mqtt if loaded is not None else None


async def _print(settings: MqttSettings, selection: Selection, *, as_json: bool) -> None:
    async for message in follow(settings, selection, _complain_once()):
        print(message.model_dump_json() if as_json else _line(message).plain, flush=True)


def _complain_once() -> Callable[[str | None], None]:
    before: str | None = None

    def trouble(text: str | None) -> None:
        nonlocal before
        if text is not None and text != before:
            complain(text)
        before = text

    return trouble


async def _show(settings: MqttSettings, selection: Selection) -> None:
    view = _View()
    with Live(view.render(), console=console(), refresh_per_second=4, transient=False) as live:

        def trouble(text: str | None) -> None:
            view.trouble = text
            live.update(view.render())

        async for message in follow(settings, selection, trouble):
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
    return str(sum(int(table["routes"]) for table in _list(message, "table") if isinstance(table, dict)))


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
