"""What the demo shows: routes with their verdicts, events as they arrive, loxilb's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_WIDTH_OFF_A_TERMINAL: Final = 110
_EVENT_STYLE: Final = {
    "accepted": "green",
    "confirmed": "green",
    "completed": "green",
    "up": "green",
    "withdrawn": "yellow",
    "dropped": "red",
    "ineligible": "magenta",
    "refused": "red",
    "conflicting": "red",
    "failed": "red",
    "down": "red",
    "raised": "red",
    "cleared": "green",
}
# What one reads first, in this order; the rest of an event's data stays out of the line.
_EVENT_FIELDS: Final = (
    *("kind", "prefix", "gateway", "rule", "reason", "detail", "error", "url", "version"),
    *("desired", "waiting", "routes", "cause", "corrected"),
)


class _Loose(BaseModel):
    """Base of what is read from others' output: what the demo does not show, it does not look at."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Hop(_Loose):
    """A next hop of `routesync plan --json`."""

    gateway: str | None
    interface: str | None
    flags: tuple[str, ...]


class End(_Loose):
    """What becomes of a route at a target, of `routesync plan --json`."""

    fate: str
    gateway: str | None
    code: str


class PlannedRoute(_Loose):
    """A route of `routesync plan --json`."""

    prefix: str
    protocol: str
    metric: int
    hops: tuple[Hop, ...]
    verdict: str
    rule: str
    targets: tuple[End, ...]


class PlanOutput(_Loose):
    """`routesync plan --json`."""

    routes: tuple[PlannedRoute, ...]


class _Envelope(_Loose):
    """A CloudEvent."""

    data: dict[str, object]


class Message(_Loose):
    """One MQTT message: where it came, and the CloudEvents data in it."""

    topic: str  # below the node's
    data: dict[str, object]

    @classmethod
    def parse(cls, line: str, root: str) -> Message:
        """Read a line `TOPIC PAYLOAD`.

        Raises:
            ValueError: the payload is no CloudEvent in JSON.
        """
        topic, _, payload = line.partition(" ")
        return cls(topic=topic.removeprefix(f"{root}/"), data=_Envelope.model_validate_json(payload).data)


class InventoryRow(_Loose):
    """A row of loxilb's own table, as its GET shows it."""

    destinationIPNet: str  # noqa: N815 - loxilb's name
    gateway: str = ""
    flags: str
    protocol: str | int


class Inventory(_Loose):
    """loxilb's GET /config/route/all."""

    routeAttr: tuple[InventoryRow, ...]  # noqa: N815 - loxilb's name


class Screen:
    """The terminal, or the file, that the demo is shown on."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=_WIDTH_OFF_A_TERMINAL)

    def act(self, title: str, said: str = "") -> None:
        """A new part of the story begins."""
        self._console.print()
        self._console.print(f"[bold blue]==[/] [bold]{escape(title)}[/]")
        if said:
            self._console.print(f"   {said}")

    def say(self, text: str) -> None:
        """A line of the story, with rich's markup."""
        self._console.print(f"   {text}")

    def check(self, what: str, *, holds: bool) -> bool:
        """One condition of the end; returns whether it holds."""
        mark = "[green]ok  [/]" if holds else "[bold red]FAIL[/]"
        self._console.print(f"   {mark} {escape(what)}")
        return holds

    def fail(self, text: str) -> None:
        """Why the story cannot go on."""
        self._console.print(f"[bold red]{escape(text)}[/]")

    def verdicts(self, plan: PlanOutput) -> None:
        """The kernel's routes, each with what the rules say of it."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for column in ("   route", "next hop", "proto", "verdict", "rule", "sent to loxilb"):
            # The next hop is what a narrow terminal may break.
            table.add_column(column, no_wrap=column != "next hop")
        for route in plan.routes:
            keep = route.verdict == "keep"
            end = next(iter(route.targets), None)
            sent = f"via {end.gateway}" if end and end.gateway else end.code if end else "-"
            table.add_row(
                f"   {route.prefix}",
                ", ".join(_hop_text(hop) for hop in route.hops),
                route.protocol,
                Text(route.verdict, style="green" if keep else "red"),
                route.rule,
                Text(sent, style="green" if end and end.gateway else "dim"),
            )
        self._console.print(table)

    def message(self, message: Message) -> None:
        """An event that has just arrived."""
        style = _EVENT_STYLE.get(message.topic.rpartition("/")[2], "cyan")
        fields = (
            f"{key}={message.data[key]}" for key in _EVENT_FIELDS if message.data.get(key) not in {None, ""}
        )
        self._console.print(
            Text("   mqtt  ", style="dim") + Text(f"{message.topic:24}", style=style), Text(" ".join(fields))
        )

    def inventory(self, rows: Sequence[InventoryRow]) -> None:
        """Loxilb's own table."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for column in ("   destination", "gateway", "flags", "protocol"):
            table.add_column(column, no_wrap=True)
        for row in sorted(rows, key=lambda row: (not row.gateway, row.destinationIPNet)):
            style = "green" if row.protocol == "static" else "dim"
            table.add_row(
                f"   {row.destinationIPNet}", row.gateway or "-", row.flags, str(row.protocol), style=style
            )
        self._console.print(table)


def _hop_text(hop: Hop) -> str:
    words = [f"via {hop.gateway}"] if hop.gateway else []
    return " ".join([*words, f"dev {hop.interface}", *hop.flags])
