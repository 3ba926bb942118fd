"""Logs, on standard error: JSON for machines, readable on a terminal, and no secrets in either.

Events are short stable names (`target_down`, all of them in docs/logs.md), with fields. What libraries log by the
standard library's logging comes out the same way. Under systemd each line begins with its syslog level as sd-daemon(3)
has it, so that `journalctl -p warning` works; the journal removes that prefix.

A problem is logged once when it starts and once when it clears; that is up to those who log. `FloodControl` is for what
nobody foresaw, libraries above all: asyncio once logged 1,770 tracebacks a second.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TextIO
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from routesync.characters import clean, one_line, whole

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

REDACTED: Final = "[redacted]"

_SECRET_KEY: Final = re.compile(
    r"password|passwd|secret|token|credential|authorization|api_?key", re.IGNORECASE
)
_SECRET_FILE: Final = re.compile(r"_(file|path)$", re.IGNORECASE)  # the place of a secret is not secret
_URL_SECRET: Final = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+(?=@)")
# Shorter ones would redact half of the ordinary text.
_SHORTEST_SECRET: Final = 4

_SYSLOG_LEVEL: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_LIBRARIES: Final = ("aiohttp", "aiomqtt", "asyncio", "mqtt", "pyroute2")

FLOOD_LINES: Final = 50
"""Lines of one kind that are shown in a window; further ones are left out."""
FLOOD_WINDOW_S: Final = 60.0
_FLOOD_HINT: Final = "more lines of this kind are left out; the first one after a while has their number"


def configure(
    level: Level = "info", form: Format = "auto", *, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Set logging up for the process; may be called again, after a reload.

    Args:
        level: the least level that is shown. Libraries are shown from warning upwards, with debug from info.
        form: auto is console on a terminal, else json.
        secrets: values that must never be shown, whichever field or message they are in.
        stream: where to write; standard error by default.
    """
    out = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                Redactor(secrets),
                *_renderers(console=console, out=out),
            ],
        )
    )
    handler.addFilter(FloodControl().filter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a reload may change the level of loggers that exist
    )


@dataclass(slots=True)
class _Window:
    began: float
    lines: int = 0


class FloodControl:
    """Shows some lines of each kind in a window, and leaves out further ones.

    The kind is the event's name, or the first line of a library's message before its arguments are filled in. Debug
    lines are all shown; so are those with the number of an event (`sequence`): then the log is the events' only sink.
    """

    def __init__(
        self,
        lines: int = FLOOD_LINES,
        window_s: float = FLOOD_WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = lines
        self._window_s = window_s
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a line, as a filter of a log handler."""
        # structlog passes its fields as the message
        fields: dict[str, object] = record.msg if isinstance(record.msg, dict) else record.__dict__
        if record.levelno <= logging.DEBUG or "sequence" in fields:
            return True
        text = str(fields.get("event", record.msg))
        kind = record.name, text.partition("\n")[0]
        now = self._clock()
        window = self._windows.get(kind)
        if window is None or now - window.began >= self._window_s:
            left_out = window.lines - self._lines if window is not None else 0
            if left_out > 0:
                fields["left_out_before"] = left_out
            self._forget(now)
            window = self._windows[kind] = _Window(now)
        window.lines += 1
        if window.lines == self._lines:
            fields["flood"] = _FLOOD_HINT
        return window.lines <= self._lines

    def _forget(self, now: float) -> None:
        """Forget kinds whose window is over: the messages of libraries are many."""
        over = [
            kind
            for kind, window in self._windows.items()
            if now - window.began >= self._window_s and window.lines <= self._lines
        ]
        for kind in over:
            del self._windows[kind]


class Redactor:
    """A processor that removes secrets: by the name of a field, in URLs, and known ones by their value."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        long_enough = [text for text in secrets if len(text) >= _SHORTEST_SECRET]
        written = {form for text in long_enough for form in (text, quote(text, safe=""), repr(text)[1:-1])}
        known = sorted(map(re.escape, written), key=len, reverse=True)
        self._known = re.compile("|".join(known)) if known else None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Redact one event."""
        return {key: self._field(key, value) for key, value in event.items()}

    def _field(self, key: str, value: object) -> object:
        if value is not None and _SECRET_KEY.search(key) and not _SECRET_FILE.search(key):
            return REDACTED
        return self._value(value)

    def _value(self, value: object) -> object:
        match value:
            case str():
                text = _URL_SECRET.sub(rf"\1:{REDACTED}", value)
                # strict readers of JSON take no half of a surrogate pair, as of a file's name
                return whole(self._known.sub(REDACTED, text) if self._known else text)
            case Mapping():
                return {key: self._field(str(key), item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._value(item) for item in value]
            case None | bool() | int() | float():
                return value
            case _:
                return self._value(str(value))


def _renderers(*, console: bool, out: TextIO) -> list[Processor]:
    if console:
        colours = out.isatty() and not os.environ.get("NO_COLOR")
        # Not the richer tracebacks: they show local variables, and with them secrets.
        return [
            _visible,
            structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
        ]
    renderers: list[Processor] = [_with_event_first, structlog.processors.JSONRenderer()]
    if _is_journal(out):
        renderers[-1] = _prefixed(renderers[-1])
    return renderers


def _visible(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make control characters visible: a terminal obeys them, and a line end begins a false line.

    structlog shows a field with line ends by its repr() (since 25.1), but not the event. A traceback keeps them.
    """
    shown = {key: clean(value) if isinstance(value, str) else value for key, value in event.items()}
    return shown | {"event": one_line(str(event["event"]))}


def _with_event_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put first what people look for: the journal shows the beginning of long lines."""
    return {"event": event.pop("event"), **event}


def _prefixed(render: Processor) -> Processor:
    def prefix(logger: WrappedLogger, method: str, event: EventDict) -> str:
        number = _SYSLOG_LEVEL.get(str(event.get("level")), _SYSLOG_LEVEL["info"])
        return f"<{number}>{render(logger, method, event)!s}"

    return prefix


def _is_journal(out: TextIO) -> bool:
    """Whether the stream goes to the journal: $JOURNAL_STREAM is its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
