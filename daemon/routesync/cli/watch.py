"""`routesync watch`: what nodes publish, as it comes; from a broker, or from this host's daemon."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from routesync.characters import many, one_line
from routesync.cli.brokers import REMEDIES, check_ca_file, named_broker
from routesync.cli.check import load_or_fail, may_exist
from routesync.cli.output import age, console, print_error, styled, work_left
from routesync.cli.requests import daemon_errors
from routesync.config.parsers import look_up
from routesync.control.client import default_socket
from routesync.control.events import follow_local
from routesync.events.fleet import Fleet, NodeSummary, TargetSummary, count_states
from routesync.events.models import EVENTS
from routesync.events.reader import MOST_NODES, Cleared, ReceivedMessage, Selection, follow

REFRESHES_A_SECOND: Final = 4
_REMEMBERED: Final = 500
"""Events that the live view remembers, for a filter that is typed later."""
_LONGEST: Final = 400
"""Columns of an event that are remembered."""
_RATE_S: Final = 5.0
_KEYS: Final = "space pause  t troubled only  e events only  / filter  q quit"
_NODE_WIDTH: Final = 20
_TOP: Final = 3
"""Lines above the nodes, and below the events: the summary, a trouble or the keys; and one that stays empty."""


class Way(NamedTuple):
    """How the events are had."""

    config: Path
    broker: str | None
    ca_file: Path | None
    socket: Path | None
    local: bool


Follow = Callable[[Selection, Callable[[str | None], None]], AsyncIterator[ReceivedMessage | Cleared]]


def read_kind(text: str) -> str:
    """Check a type of messages, or a glob for some.

    Raises:
        SettingError: no message has such a type.
    """
    known = dict.fromkeys(["status", *sorted(f"{it.group}.{it.name}" for it in EVENTS)])
    if not fnmatch.filter(known, text):
        look_up(text, "type", known, "; or a glob such as route.*")
    return text


def watch(way: Way, selection: Selection, *, as_json: bool) -> None:
    """Follow until Ctrl-C."""
    follow_it = _source(way)
    try:
        with daemon_errors():
            if as_json or not sys.stdout.isatty() or console().is_dumb_terminal:
                asyncio.run(_print(follow_it, selection, as_json=as_json))
            else:
                asyncio.run(_show(follow_it, selection))
    except KeyboardInterrupt:
        pass


def _source(way: Way) -> Follow:
    check_ca_file(way.broker, way.ca_file)
    socket = way.socket or default_socket()
    if way.broker is not None and not way.local:
        return partial(follow, named_broker(way.broker, way.ca_file), remedies=REMEDIES)
    # The file may contain secrets, and be readable for the daemon alone.
    if way.local or (may_exist(socket) and not os.access(way.config, os.R_OK)):
        return partial(follow_local, socket)
    configured = load_or_fail(way.config).settings.mqtt
    return partial(follow_local, socket) if configured is None else partial(follow, configured)


# -- in a pipe -----------------------------------------------------------------------------------------------


async def _print(follow_it: Follow, selection: Selection, *, as_json: bool) -> None:
    async for message in follow_it(selection, _print_changes()):
        if isinstance(message, ReceivedMessage):
            print(message.text if as_json else _line(message).plain, flush=True)


def _print_changes() -> Callable[[str | None], None]:
    before: str | None = None

    def trouble(text: str | None) -> None:
        nonlocal before
        if text is not None and text != before:
            print_error(text)
        before = text

    return trouble


def _line(message: ReceivedMessage) -> Text:
    """One event in one line: time, node, what, about what, and the rest of its data."""
    rest = " ".join(
        f"{name}={value}"
        for name, value in message.data.items()
        if value not in (None, False, message.subject) and name != "family"
    )
    if message.kind == "status":
        reasons = message.data.get("reasons")
        rest = " ".join(
            map(str, [message.data.get("state"), *(reasons if isinstance(reasons, list) else ())])
        )
    return Text.assemble(
        (message.time.astimezone().strftime("%H:%M:%S"), "dim"),
        " ",
        (one_line(message.node), "cyan"),
        " ",
        (one_line(message.kind), "bold"),
        f" {one_line(message.subject or '')} " if message.kind != "status" else " ",
        (one_line(rest), "dim"),
    )


# -- on a terminal -------------------------------------------------------------------------------------------


async def _show(follow_it: Follow, selection: Selection) -> None:
    terminal = Console(highlight=False, markup=False)
    view = View(terminal)
    done = asyncio.Event()

    async def read_messages() -> None:
        async for message in follow_it(selection._replace(with_status=True), view.note_trouble):
            view.take(message, time.monotonic())

    async def refresh() -> None:
        while True:
            live.update(view.render(time.monotonic()), refresh=True)
            await asyncio.sleep(1 / REFRESHES_A_SECOND)

    with Live(Text(), console=terminal, auto_refresh=False, screen=True) as live, _keys(view, done.set):
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(read_messages()),
            asyncio.create_task(refresh()),
            asyncio.create_task(done.wait()),
        ]
        try:
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _keys(view: View, quit_: Callable[[], None]) -> Iterator[None]:
    """Hand keys to the view as they are pressed, without Enter and unseen."""
    if not sys.stdin.isatty():
        yield
        return
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    loop = asyncio.get_running_loop()

    def read() -> None:
        pressed = os.read(stdin, 1024).decode(errors="ignore")
        if not pressed:  # the terminal is gone
            quit_()
        for key in pressed:
            if view.press(key):
                quit_()

    tty.setcbreak(stdin)
    loop.add_reader(stdin, read)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        with suppress(termios.error):
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)


class _Shown(NamedTuple):
    """An event as it is remembered, and what a filter looks at."""

    line: Text
    words: str


class View:
    """A summary, the nodes, and the last events; what a key changes is in here, too."""

    def __init__(self, terminal: Console) -> None:
        self._terminal = terminal
        self._trouble: str | None = "connecting"
        self._fleet = Fleet()
        self._events: deque[_Shown] = deque(maxlen=_REMEMBERED)
        self._frozen: RenderableType | None = None
        self._wants_freeze = False
        self._troubled_only = False
        self._events_only = False
        self._filter = ""
        self._typing = False
        self._count = 0  # events since `_count_since`
        self._count_since = 0.0
        self._rate = 0.0  # events a second

    def take(self, message: ReceivedMessage | Cleared, now: float) -> None:
        """Take a message."""
        if isinstance(message, Cleared) or message.kind == "status":
            self._fleet.take(message, now)
            return
        self._count += 1
        line = _line(message)
        line.truncate(_LONGEST)
        self._events.append(_Shown(line, line.plain.lower()))

    def note_trouble(self, trouble: str | None) -> None:
        """The connection broke, is back, or there is something to be said of it."""
        self._trouble = trouble

    def press(self, key: str) -> bool:
        """Act on a key; return whether the view is to end."""
        if self._typing:
            match key:
                case "\r" | "\n":
                    self._typing = False
                case "\x1b":
                    self._typing, self._filter = False, ""
                case "\x7f" | "\b":
                    self._filter = self._filter[:-1]
                case _ if key.isprintable():
                    self._filter += key
            return False
        match key:
            case " " | "p":
                self._wants_freeze = not self._wants_freeze
                self._frozen = None
            case "t":
                self._troubled_only = not self._troubled_only
            case "e":
                self._events_only = not self._events_only
            case "/":
                self._typing, self._filter = True, ""
            case "\x1b":
                self._filter = ""
        return key == "q"

    def render(self, now: float) -> RenderableType:
        """What fits the terminal: the summary, the nodes, those in trouble first, and the last events."""
        if self._wants_freeze and self._frozen is not None:
            return self._frozen
        if now - self._count_since >= _RATE_S:
            self._rate = self._count / (now - self._count_since) if self._count_since else 0.0
            self._count, self._count_since = 0, now
        width, height = self._terminal.width, max(self._terminal.height - _TOP, 5)
        wanted = self._filter.lower()
        events = [event.line for event in self._events if wanted in event.words]
        nodes = [node for node in self._fleet.sorted(now) if self._shows(node, now)]
        if self._events_only:
            table = []
        else:
            # half of the screen for each of the two, and what the other one leaves
            room = max(height - len(events), height // 2)
            shown = nodes if len(nodes) <= room else nodes[: room - 1]
            table = self._table(shown, nodes[len(shown) :], now)
        lines = [
            self._summary(now),
            self._second_line(),
            *table,
            *events[max(len(events) + len(table) - height, 0) :],
        ]
        screen = Group(*(_cut(line, width) for line in lines))
        self._frozen = screen if self._wants_freeze else None
        return screen

    def _shows(self, node: NodeSummary, now: float) -> bool:
        if self._troubled_only and node.state(now) == "online":
            return False
        labels = (f"{name}={value}" for name, value in node.labels.items())
        return self._filter.lower() in " ".join((node.name, node.why(now), *labels)).lower()

    def _summary(self, now: float) -> Text:
        text = Text(many(len(self._fleet.nodes), "node"), style="bold")
        for number, (state, count) in enumerate(self._fleet.states(now).items()):
            text.append(", " if number else ": ")
            text.append(f"{count} {state}", style=styled(state)[1])
        nodes = self._fleet.nodes.values()
        mirrored, desired = sum(node.mirrored for node in nodes), sum(node.desired for node in nodes)
        text.append(f"  {mirrored}/{desired} routes  {self._rate:.0f} events/s")
        if self._wants_freeze:
            text.append("  PAUSED", style="reverse")
        return text

    def _second_line(self) -> Text:
        if self._typing or self._filter:
            return Text(
                f"/{one_line(self._filter)}{'▏' if self._typing else '  (Esc: all)'}", style="reverse"
            )
        if self._trouble:
            return Text(one_line(self._trouble), style="red")
        if self._fleet.overflow:
            return Text(
                f"there are more nodes than the {MOST_NODES} that are shown; choose with --node", style="red"
            )
        return Text(_KEYS, style="dim")

    def _table(self, shown: Sequence[NodeSummary], left: Sequence[NodeSummary], now: float) -> list[Text]:
        rows = [(Text("node"), "state", "routes", "age", "why"), *(_row(node, now) for node in shown)]
        widths = [
            min(max(len(cell) for cell in column), _NODE_WIDTH)
            for column in list(zip(*rows, strict=True))[:4]
        ]
        lines = []
        for name, state, *figures, why in rows:
            name.truncate(widths[0], overflow="ellipsis", pad=True)
            routes, old = (f"{cell:>{width}}" for cell, width in zip(figures, widths[2:], strict=True))
            lines.append(
                Text.assemble(name, "  ", styled(state, f"{state:{widths[1]}}"), f"  {routes}  {old}  {why}")
            )
        lines[0].style = "dim"
        if left:
            more = ", ".join(f"{count} {state}" for state, count in count_states(left, now).items())
            lines.append(Text(f"and {more}", style="dim"))
        return lines


def _row(node: NodeSummary, now: float) -> tuple[Text, str, str, str, str]:
    why = node.why(now) or ", ".join(map(_target, node.targets))
    return (
        Text(one_line(node.name)),
        node.state(now),
        f"{node.mirrored}/{node.desired}",
        age(node.age_s(now)),
        one_line(why),
    )


def _target(target: TargetSummary) -> str:
    left = f" ({work_left(target.waiting, target.rate, target.remaining_s)})" if target.waiting else ""
    return f"{target.name} {target.state}{left}"


def _cut(line: Text, width: int) -> Text:
    cut = line.copy()
    cut.truncate(width, overflow="ellipsis")
    return cut
