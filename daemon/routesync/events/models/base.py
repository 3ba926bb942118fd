"""What all events have in common."""

from __future__ import annotations

from typing import ClassVar, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict

Group = Literal["route", "target", "sync", "kernel", "config", "guard", "alarm", "events"]

TYPE_PREFIX: Final = "io.routesync"


class Event(BaseModel):
    """Base of all events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: ClassVar[Group]
    name: ClassVar[str]
    revision: ClassVar[int] = 1

    @classmethod
    def type_name(cls) -> str:
        """The CloudEvents type, e.g. `io.routesync.route.withdrawn.v1`."""
        return f"{TYPE_PREFIX}.{cls.group}.{cls.name}.v{cls.revision}"

    @classmethod
    def topic(cls) -> str:
        """The topic below `<root>/<node>/`."""
        return f"event/{cls.group}/{cls.name}"

    @property
    def subject(self) -> str | None:
        """The CloudEvents subject: the prefix, else the target, else nothing."""
        for field in ("prefix", "target"):
            value = getattr(self, field, None)
            if isinstance(value, str):
                return value
        return None


class EventSink(Protocol):
    """Where events go.

    `emit` is called on the hot path: it never blocks and never raises. Call it on the event loop's thread.
    """

    def emit(self, event: Event, /) -> None:
        """Take an event."""
