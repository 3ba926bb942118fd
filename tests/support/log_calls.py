"""The lines that the program can log, read off its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "daemon" / "routesync"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


class LogCall(NamedTuple):
    """One call of a logger."""

    place: str
    level: str
    event: str | None  # None: not a plain string
    fields: frozenset[str]


@cache
def log_calls() -> tuple[LogCall, ...]:
    """All of the daemon's."""
    return tuple(call for file in sorted(PACKAGE.rglob("*.py")) for call in _calls(file))


def _calls(file: Path) -> Iterator[LogCall]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        logger = node.func.value
        if node.func.attr not in LEVELS or not isinstance(logger, ast.Name) or logger.id != "log":
            continue
        first = node.args[0] if node.args else None
        plain = isinstance(first, ast.Constant) and isinstance(first.value, str) and len(node.args) == 1
        yield LogCall(
            f"{file.name}:{node.lineno}",
            "error" if node.func.attr == "exception" else node.func.attr,
            str(first.value) if plain and isinstance(first, ast.Constant) else None,
            frozenset(keyword.arg for keyword in node.keywords if keyword.arg not in {None, "exc_info"}),
        )
