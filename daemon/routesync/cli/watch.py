"""`routesync watch`: what nodes publish, as it comes; from a broker, or from this host's daemon."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from routesync.cli.check import load_or_fail
from routesync.cli.output import EX_CONFIG, EX_USAGE, console, fail, print_error
from routesync.cli.requests import daemon_errors
from routesync.config.credentials import MQTT_PASSWORD
from routesync.config.models import MqttSettings
from routesync.control.client import default_socket
from routesync.control.events import follow_local
from routesync.events.mqtt_client import Remedies
from routesync.events.reader import ReceivedMessage, Selection, follow

SHOWN: Final = 20
"""Events that the live view keeps in sight, at most."""
REFRESHES_A_SECOND: Final = 4
_COLOURS: Final = {"online": "green", "degraded": "yellow", "stopping": "yellow", "offline": "red"}


class Way(NamedTuple):
    """How the events are had."""

    config: Path
    broker: str | None
    ca_file: Path | None
    socket: Path | None
    local: bool


Follow = Callable[[Selection, Callable[[str | None], None]], AsyncIterator[ReceivedMessage]]


def watch(way: Way, selection: Selection, *, as_json: bool) -> None:
    """Follow until Ctrl-C."""
    follow_it = _source(way)
    try:
        with daemon_errors():
            if as_json or not console().is_terminal:
                asyncio.run(_print(follow_it, selection, as_json=as_json))
            else:
                asyncio.run(_show(follow_it, selection))
    except (KeyboardInterrupt, BrokenPipeError):  # a reader has seen enough
        pass


def _source(way: Way) -> Follow:
    if way.ca_file is not None and way.broker is None:
        fail("--ca-file is for --broker; the configuration has mqtt.tls.ca_file", EX_USAGE)
    socket = way.socket or default_socket()
    if way.broker is not None and not way.local:
        return partial(follow, named_broker(way.broker, way.ca_file), remedies=REMEDIES)
    # The file may contain secrets, and be readable for the daemon alone.
    if way.local or (socket.exists() and not os.access(way.config, os.R_OK)):
        return partial(follow_local, socket)
    configured = load_or_fail(way.config).settings.mqtt
    return partial(follow_local, socket) if configured is None else partial(follow, configured)


# -- a broker that is named on the command line -------------------------------------------------------------

_HOW: Final = "write HOST, HOST:PORT, or mqtt[s]://[USER@]HOST[:PORT][/ROOT]"
REMEDIES: Final = Remedies(
    "check --broker", f"check USER of --broker and ${MQTT_PASSWORD}", "check --ca-file"
)


def named_broker(text: str, ca_file: Path | None) -> MqttSettings:
    """The settings of a broker that is named on the command line; what names none ends the command.

    The password of a user comes from the environment, or is asked for on a terminal.
    """
    shown = re.sub(r":[^:@/]*@", ":...@", text)
    try:
        named = _read(text)
        if ca_file is not None:
            named["tls"] = {"ca_file": str(ca_file)}
        if "username" in named:
            named["password"] = _password(str(named["username"]))
        return MqttSettings.model_validate(
            {name: value for name, value in named.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--broker {shown}: {first['loc'][0]}: {first['msg']}; {_HOW}", EX_CONFIG)
    except ValueError as error:
        fail(f"--broker {shown}: {error}; {_HOW}", EX_CONFIG)


def _read(text: str) -> dict[str, object]:
    url = urlsplit(text if "://" in text else f"mqtt://{text}")
    if url.scheme not in ("mqtt", "mqtts"):
        raise ValueError(f"{url.scheme} is no scheme of MQTT over TCP")
    if url.password is not None:
        raise ValueError(f"a password on the command line is seen by others; put it into ${MQTT_PASSWORD}")
    if {"?", "#"} & {*text}:
        raise ValueError("? and # have no meaning here")
    if not url.hostname:
        raise ValueError("names no host")
    read: dict[str, object] = {"host": url.hostname, "port": url.port}
    if url.scheme == "mqtts":
        read["tls"] = {}
    if url.username:
        read["username"] = unquote(url.username)
    if url.path.strip("/"):
        read["root"] = url.path.strip("/")
    return read


def _password(user: str) -> str | None:
    if (given := os.environ.get(MQTT_PASSWORD)) is not None:
        return given
    return getpass.getpass(f"Password of {user}: ") if sys.stdin.isatty() else None


# -- what is shown -------------------------------------------------------------------------------------------


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
        self._nodes: dict[str, ReceivedMessage] = {}
        self._events: deque[Text] = deque(maxlen=SHOWN)

    def take(self, message: ReceivedMessage) -> None:
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


def _state(message: ReceivedMessage) -> str:
    return str(message.data.get("state"))


def _list(message: ReceivedMessage, name: str) -> list[object]:
    found = message.data.get(name)
    return list(found) if isinstance(found, list) else []


def _routes(message: ReceivedMessage) -> str:
    """By the manifest of the retained table, or, where none is published, by what the targets took."""
    manifest = [table for table in _list(message, "table") if isinstance(table, dict)]
    targets = [target for target in _list(message, "targets") if isinstance(target, dict)]
    if manifest or not targets:
        return str(sum(int(table["routes"]) for table in manifest))
    phases = [found for target in targets if isinstance(found := target.get("phases"), dict)]
    return str(sum(int(counts.get(phase, 0)) for counts in phases for phase in ("accepted", "confirmed")))


def _targets(message: ReceivedMessage) -> str:
    targets = [target for target in _list(message, "targets") if isinstance(target, dict)]
    return ", ".join(f"{target.get('name')} {target.get('state')}" for target in targets)


def _line(message: ReceivedMessage) -> Text:
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
