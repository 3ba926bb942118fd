"""`routesync watch`: what nodes publish, as it comes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from routesync.cli.broker import REMEDIES, named_broker
from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import console, print_error
from routesync.cli.requests import exit_of
from routesync.config.models import MqttSettings
from routesync.control.client import ControlError, default_socket
from routesync.control.events import follow_local
from routesync.events.access import Remedies
from routesync.events.reader import Message, Selection, follow
from routesync.route import Prefix

SHOWN: Final = 20
"""Events that the live view keeps in sight, at most."""
REFRESHES_A_SECOND: Final = 4
EX_USAGE: Final = 2
_COLOURS: Final = {"online": "green", "degraded": "yellow", "stopping": "yellow", "offline": "red"}


class Way(NamedTuple):
    """How the events are had."""

    config: Path
    broker: str | None
    ca_file: Path | None
    socket: Path | None
    local: bool


Follow = Callable[[Selection, Callable[[str | None], None]], AsyncIterator[Message]]


def watch(way: Way, selection: Selection, *, as_json: bool) -> int:
    """Follow until Ctrl-C; return the exit status."""
    follow_it = _way(way)
    if isinstance(follow_it, int):
        return follow_it
    try:
        if as_json or not console().is_terminal:
            asyncio.run(_print(follow_it, selection, as_json=as_json))
        else:
            asyncio.run(_show(follow_it, selection))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # whoever read has had enough
        pass
    except ControlError as error:
        print_error(str(error))
        return exit_of(error)
    return 0


def _way(way: Way) -> Follow | int:
    if way.ca_file is not None and way.broker is None:
        print_error("--ca-file is for --broker; the configuration has mqtt.tls.ca_file")
        return EX_USAGE
    socket = way.socket or default_socket()
    if way.local:
        return _local(socket)
    if way.broker is not None:
        named = named_broker(way.broker, way.ca_file)
        return EX_CONFIG if named is None else _over_mqtt(named, REMEDIES)
    if _is_closed(way.config) and socket.exists():
        return _local(socket)  # the file may hold secrets, and be for the daemon alone
    loaded = load_or_explain(way.config)
    if loaded is None:
        return EX_CONFIG
    configured = loaded.settings.mqtt
    return _local(socket) if configured is None else _over_mqtt(configured, Remedies())


def _local(socket: Path) -> Follow:
    return lambda selection, trouble: follow_local(socket, selection, trouble)


def _over_mqtt(settings: MqttSettings, remedies: Remedies) -> Follow:
    return lambda selection, trouble: follow(settings, selection, trouble, remedies)


def _is_closed(file: Path) -> bool:
    try:
        file.open("rb").close()
    except OSError:
        return True
    return False


def read_prefix(text: str) -> Prefix | None:
    """Read the prefix of `--prefix`; print_error and return None where it is none."""
    try:
        return Prefix.parse(text)
    except ValueError as error:
        print_error(f"--prefix: {error}")
        return None


async def _print(follow_it: Follow, selection: Selection, *, as_json: bool) -> None:
    async for message in follow_it(selection, _print_changes()):
        print(message.text if as_json else _line(message).plain, flush=True)


def _print_changes() -> Callable[[str | None], None]:
    before: str | None = None

    def trouble(text: str | None) -> None:
        nonlocal before
        if text is not None and text != before:
            print_error(text)
        before = text

    return trouble


async def _show(follow_it: Follow, selection: Selection) -> None:
    terminal = Console(highlight=False)
    view = _View(terminal)
    with Live(view.render(), console=terminal, auto_refresh=False) as live:

        async def refresh() -> None:
            while True:
                await asyncio.sleep(1 / REFRESHES_A_SECOND)
                if view.changed:
                    view.changed = False
                    live.update(view.render(), refresh=True)

        refreshing = asyncio.create_task(refresh())
        try:
            chosen = selection._replace(with_status=True)
            async for message in follow_it(chosen, view.note_trouble):
                view.take(message)
        finally:
            refreshing.cancel()


class _View:
    """Nodes above, the last events below."""

    def __init__(self, terminal: Console) -> None:
        self.changed = True
        self._terminal = terminal
        self._trouble: str | None = "connecting"
        self._nodes: dict[str, Message] = {}
        self._events: deque[Text] = deque(maxlen=SHOWN)

    def take(self, message: Message) -> None:
        self.changed = True
        if message.kind == "status":
            self._nodes[message.node] = message
        else:
            self._events.append(_line(message))

    def note_trouble(self, trouble: str | None) -> None:
        self.changed = self.changed or trouble != self._trouble
        self._trouble = trouble

    def render(self) -> RenderableType:
        """What fits the terminal: the nodes, those with troubles first, and the last events."""
        room = max(self._terminal.height - 4, 4)
        events = list(self._events)[-max(room - len(self._nodes), room // 2) :]
        nodes = sorted(self._nodes.values(), key=lambda message: (_state(message) == "online", message.node))
        shown = nodes[: max(room - len(events), 1)]
        table = Table("node", "state", "routes", "targets", "because", box=None, pad_edge=False)
        for message in shown:
            state = _state(message)
            table.add_row(
                message.node,
                Text(state, style=_COLOURS.get(state, "")),
                _routes(message),
                _targets(message),
                "; ".join(map(str, _list(message, "reasons"))),
            )
        left = nodes[len(shown) :]
        states = Counter(map(_state, left))
        more = ", ".join(f"{count} {state}" for state, count in states.items())
        return Group(
            *([Text(self._trouble, style="red")] if self._trouble else []),
            table,
            Text(f"and {more}" if left else "", style="dim"),
            *(_cut(line, self._terminal.width) for line in events),
        )


def _cut(line: Text, width: int) -> Text:
    cut = line.copy()
    cut.truncate(width, overflow="ellipsis")
    return cut


def _state(message: Message) -> str:
    return str(message.data.get("state"))


def _list(message: Message, name: str) -> list[object]:
    found = message.data.get(name)
    return list(found) if isinstance(found, list) else []


def _routes(message: Message) -> str:
    """By the manifest of the retained table, or, where none is published, by what the targets took."""
    manifest = [table for table in _list(message, "table") if isinstance(table, dict)]
    targets = [target for target in _list(message, "targets") if isinstance(target, dict)]
    if manifest or not targets:
        return str(sum(int(table["routes"]) for table in manifest))
    phases = [found for target in targets if isinstance(found := target.get("phases"), dict)]
    return str(sum(int(counts.get(phase, 0)) for counts in phases for phase in ("accepted", "confirmed")))


def _targets(message: Message) -> str:
    targets = [target for target in _list(message, "targets") if isinstance(target, dict)]
    return ", ".join(f"{target.get('name')} {target.get('state')}" for target in targets)


def _line(message: Message) -> Text:
    """One event in one line: time, node, what, about what, and the rest of its data."""
    rest = " ".join(
        f"{name}={value}"
        for name, value in message.data.items()
        if value not in (None, False, message.subject) and name != "family"
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
