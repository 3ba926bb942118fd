"""An event sink that remembers."""

from __future__ import annotations

from routesync.events.models import Event


class Events:
    """Takes events, and keeps them in order."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def emit(self, event: Event, /) -> None:
        self.seen.append(event)

    def of(self, name: str) -> list[Event]:
        return [event for event in self.seen if f"{event.group}/{event.name}" == name]
