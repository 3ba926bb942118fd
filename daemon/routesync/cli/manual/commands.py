"""The command line as values, read off the typer application."""

from __future__ import annotations

import inspect
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import typer.main

from routesync.cli.app import app
from routesync.events.contract import schemas
from routesync.mirror.state import Phase

Completes = Literal["nothing", "file", "directory"]
DIRECTORIES: Final = frozenset({"state"})


@cache
def _known() -> dict[tuple[str, str], tuple[str, ...]]:
    """What may stand for a value, where its type does not say it: by command and name of the option."""
    return {
        ("routes", "family"): ("ipv4", "ipv6"),
        ("routes", "phase"): tuple(phase.value for phase in Phase),
        ("schema", "which"): ("asyncapi", "config", *sorted(schemas())),
    }


class Option(NamedTuple):
    """An option of a command."""

    names: tuple[str, ...]  # as they are typed: -c, --config; of a switch also what turns it off
    value: str | None  # what stands for its value in a synopsis; None: it takes none
    help: str
    required: bool
    repeats: bool
    choices: tuple[str, ...]
    completes: Completes


class Argument(NamedTuple):
    """What is not an option."""

    value: str
    help: str
    required: bool
    repeats: bool
    choices: tuple[str, ...]
    completes: Completes


class Command(NamedTuple):
    """A sub-command."""

    name: str
    paragraphs: tuple[str, ...]  # the first one is one line
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]

    @property
    def summary(self) -> str:
        """What it does, in one line of plain text without a full stop."""
        return self.paragraphs[0].removesuffix(".").replace("`", "")


def program() -> tuple[str, tuple[Option, ...]]:
    """What the whole is for, and the options that stand before a sub-command."""
    group = typer.main.get_command(app)
    found = [_option(it) for it in group.params if it.param_type_name == "option" and not _is_shells(it)]
    return str(app.info.help), (*found, _HELP)


@cache
def commands() -> tuple[Command, ...]:
    """All sub-commands that are shown, by name."""
    group: Any = typer.main.get_command(app)
    shown = {name: it for name, it in group.commands.items() if not it.hidden}
    return tuple(_command(name, shown[name]) for name in sorted(shown))


_HELP: Final = Option(("-h", "--help"), None, "Show a summary and exit.", False, False, (), "nothing")


def _command(name: str, it: Any) -> Command:
    text = inspect.cleandoc(it.help or "")
    paragraphs = tuple(" ".join(part.split()) for part in text.split("\n\n"))
    options = tuple(_option(param, name) for param in it.params if param.param_type_name == "option")
    arguments = tuple(_argument(param, name) for param in it.params if param.param_type_name == "argument")
    return Command(name, paragraphs, (*options, _HELP), arguments)


def _is_shells(param: Any) -> bool:
    """Typer's own options that install completion: the package brings that."""
    return any(name.endswith("-completion") for name in param.opts)


def _option(param: Any, command: str = "") -> Option:
    names = tuple(
        sorted((*param.opts, *param.secondary_opts), key=lambda name: (name.startswith("--"), name))
    )
    if param.secondary_opts:  # --contact/--no-contact keep that order
        names = (*param.opts, *param.secondary_opts)
    annotation = param.type_descriptor.annotation
    return Option(
        names,
        None if param.is_flag else param.metavar or _placeholder(param.name, annotation),
        _sentence(param.help),
        bool(param.required),
        bool(param.multiple),
        _known().get((command, param.name), ()) or _choices(annotation),
        _completes(param.name, annotation),
    )


def _argument(param: Any, command: str) -> Argument:
    annotation = param.type_descriptor.annotation
    value = param.metavar or param.name.upper()
    return Argument(
        value,
        _sentence(param.help),
        bool(param.required),
        param.nargs == -1,
        _known().get((command, param.name), ()) or _choices(annotation),
        _completes(param.name, annotation),
    )


def _sentence(text: str | None) -> str:
    told = " ".join((text or "").split())
    return told if not told or told[-1] in ".…" else f"{told}."


def _plain(annotation: Any) -> Any:
    """Without `| None` and `list[…]`."""
    if get_origin(annotation) in {Union, UnionType, list}:
        return _plain(next(it for it in get_args(annotation) if it is not type(None)))
    return annotation


def _placeholder(name: str, annotation: Any) -> str:
    plain = _plain(annotation)
    if plain in {int, float}:
        return "N"
    return "PATH" if isinstance(plain, type) and issubclass(plain, Path) else name.upper()


def _choices(annotation: Any) -> tuple[str, ...]:
    plain = _plain(annotation)
    if get_origin(plain) is Literal:
        return tuple(map(str, get_args(plain)))
    if isinstance(plain, type) and issubclass(plain, Enum):
        return tuple(str(it.value) for it in plain)
    return ()


def _completes(name: str, annotation: Any) -> Completes:
    plain = _plain(annotation)
    if not (isinstance(plain, type) and issubclass(plain, Path)):
        return "nothing"
    return "directory" if name in DIRECTORIES else "file"
