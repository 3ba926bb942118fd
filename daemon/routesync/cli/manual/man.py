"""The manual pages routesync(1) and routesync.toml(5)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Final

from routesync import __version__
from routesync.cli.manual.commands import Argument, Command, Option, commands, program
from routesync.cli.manual.roff import bold, escape, inline, italic, item, markdown, wrapped
from routesync.config import reference

_STATUS: Final = (
    ("0", "All went well."),
    ("1", "It did not; or there is something to be seen to: degraded (`status`), a warning (`doctor`)."),
    ("2", "The command line is wrong, or `doctor` found a failure."),
    ("3", "No daemon answers at the control socket."),
    ("4", "The daemon does not allow it: only root and its own user may change something."),
    ("78", "The configuration is wrong. systemd does not start a service again that ends so."),
)
_ENVIRONMENT: Final = (
    ("STATE_DIRECTORY", "The state directory, where `--state` names none; systemd sets it."),
    ("RUNTIME_DIRECTORY", "Where the control socket lies, where `--socket` names none; systemd sets it."),
    ("CREDENTIALS_DIRECTORY", "Where relative names of secret files are looked for; systemd sets it."),
    ("ROUTESYNC_MQTT_PASSWORD", "The broker's password; comes before that of the configuration."),
    ("ROUTESYNC_TARGET_NAME_TOKEN", "The token of the target NAME (upper case, with _ for - and .)."),
    ("NO_COLOR", "No colour, whatever the terminal."),
)
_FILES: Final = (
    ("/etc/routesync/routesync.toml", "The configuration, see routesync.toml(5)."),
    ("/var/lib/routesync/ledger.sqlite", "Which routes in which target are ours."),
    ("/var/lib/routesync/outbox.sqlite", "Events that the broker does not have yet."),
    ("/run/routesync/control.sock", "The daemon's control socket."),
)
_SIGNALS: Final = (
    ("SIGHUP", "Take up the configuration file anew; a file that is wrong changes nothing."),
    ("SIGTERM", "Stop. Routes that were mirrored stay where they are."),
)


def program_page(day: date) -> str:
    """routesync(1)."""
    return _page(_program_lines(), day, "ROUTESYNC", "1", "User Commands")


def configuration_page(day: date) -> str:
    """routesync.toml(5)."""
    return _page(_configuration_lines(), day, "ROUTESYNC.TOML", "5", "File Formats")


def _page(lines: Iterator[str], day: date, name: str, section: str, volume: str) -> str:
    title = f'.TH {name} {section} {day:%Y-%m-%d} "routesync {__version__}" "{volume}"'
    head = ['.\\" Made by `make manual` from the program itself.', title, ".nh", ".ad l"]
    return "\n".join(wrapped([*head, *lines])) + "\n"


def _program_lines() -> Iterator[str]:
    purpose, options = program()
    yield from (".SH NAME", f"routesync \\- {inline(_lower(purpose))}")
    yield ".SH SYNOPSIS"
    for number, command in enumerate(commands()):
        yield from ([".br"] if number else [])
        yield _synopsis(command)
    yield ".SH DESCRIPTION"
    yield from markdown(_DESCRIPTION, ".SS")
    yield ".SH OPTIONS"
    for option in options:
        yield from item(_names(option), [inline(option.help)])
    yield ".SH COMMANDS"
    for command in commands():
        yield from _command(command)
    for heading, rows in (
        ("EXIT STATUS", _STATUS),
        ("SIGNALS", _SIGNALS),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
    ):
        yield f".SH {heading}"
        for term, meaning in rows:
            yield from item(bold(term), [inline(meaning)])
    yield from (".SH SEE ALSO", _SEE_ALSO)


_DESCRIPTION: Final = """
routesync listens to the kernel's routes, judges each by the rules of its configuration, mirrors those that are fit for
it into one or more loxilb load balancers over REST, and reports every change over MQTT.

`routesync run` is the daemon; systemd starts it as `routesync.service`. The other commands ask it over its control
socket, or look for themselves: `check`, `plan` and `doctor` need no daemon. What changes something asks first, or says
what it did.
"""
_SEE_ALSO: Final = (
    "\\fBroutesync.toml\\fR(5), \\fBjournalctl\\fR(1), \\fBip\\-route\\fR(8), \\fBsystemd.service\\fR(5)"
)


def _lower(text: str) -> str:
    return f"{text[0].lower()}{text[1:]}".removesuffix(".")


def _synopsis(command: Command) -> str:
    parts = [bold(f"routesync {command.name}")]
    parts += [_usage(option) for option in command.options if "--help" not in option.names]
    parts += [_argument(it) for it in command.arguments]
    return " ".join(parts)


def _argument(argument: Argument) -> str:
    said = italic(argument.value) if argument.required else f"[{italic(argument.value)}]"
    return f"{said}..." if argument.repeats else said


def _usage(option: Option) -> str:
    said = "|".join(map(bold, option.names))
    if option.value is not None:
        said += f" {italic(option.value)}"
    if not option.required:
        said = f"[{said}]"
    return f"{said}..." if option.repeats else said


def _names(option: Option) -> str:
    value = f" {italic(option.value)}" if option.value is not None else ""
    return ", ".join(f"{bold(name)}{value}" for name in option.names)


def _command(command: Command) -> Iterator[str]:
    yield f".SS {escape(command.name)}"
    for number, paragraph in enumerate(command.paragraphs):
        if number:
            yield ".PP"
        yield inline(paragraph)
    for argument in command.arguments:
        yield from item(italic(argument.value), _said(argument.help, argument.choices))
    for option in command.options:
        if "--help" not in option.names:
            yield from item(_names(option), _said(option.help, option.choices))


def _said(text: str, choices: tuple[str, ...]) -> list[str]:
    one_of = f"One of {', '.join(map(bold, choices))}." if choices else ""
    return [line for line in (inline(text), one_of) if line]


def _configuration_lines() -> Iterator[str]:
    yield from (".SH NAME", "routesync.toml \\- configuration of routesync")
    yield from (".SH SYNOPSIS", bold("/etc/routesync/routesync.toml"))
    yield ".SH DESCRIPTION"
    yield from markdown(reference.introduction(), ".SS")
    for table in reference.tables():
        yield f".SH {escape(table.name)}"
        if table.meaning:
            yield inline(table.meaning)
        for key in table.keys:
            note = "required" if key.required else f"default {key.default}" if key.default else ""
            kind = f"({key.kind}; {note})" if note else f"({key.kind})"
            yield from item(bold(key.name), [inline(kind), ".br", inline(key.meaning)])
    yield from (".SH SEE ALSO", "\\fBroutesync\\fR(1)")
