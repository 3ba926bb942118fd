"""What can be set on the stand-in. The defaults are the original's figures; tests bring the delays down."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from standin.releases import MAIN, Release

Fragility = Literal["off", "likely", "strict"]
"""How it takes a GET that meets ingestion.

off: unharmed. likely: it dies with the original's likelihood. strict: it dies whenever a change still waits that
the same client made through its API, so that misuse fails a test for certain; changes that others make, which a client
cannot know of, do not count.
"""


@dataclass(frozen=True, slots=True)
class StandinOptions:
    """Settings of one stand-in. Times are seconds."""

    listen: tuple[str, int] | None = ("0.0.0.0", 11111)
    listen_unix: Path | None = None
    listen_fd: int | None = None  # a TCP socket, bound by the parent, perhaps in another namespace
    tls_listen: tuple[str, int] | None = ("0.0.0.0", 8091)  # only with a certificate
    tls_listen_fd: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # clients need a certificate of it
    manual_token: Path | None = None  # the file that holds the token
    userservice: str | None = None  # the token of the one user who is logged in
    release: Release = MAIN
    api_delay_s: float = 5  # from start until the API answers
    fill_delay_s: float = 3  # from then until the table begins to fill
    fill_rate: float = 1000  # routes/s while it reads the kernel's table at start
    batch: int = 128  # route events taken in at a time
    tick_s: float = 0.5  # between two times
    queue_limit: int = 50_000  # route events waiting, beyond which it goes deaf
    marks: int = 40 * 1024  # entries beyond carry hardwareMark -1
    capacity: int = 32 * 1024  # of the IPv4 eBPF table
    capacity6: int = 8 * 1024
    idle_s: float = 10  # a connection without a request is closed
    read_s: float = 30  # a request not whole by then is answered with 400
    fragile: Fragility = "likely"
    seed: int | None = None  # of the likelihoods: this one's and the faults'
    nonlp: bool = False  # no netlink ears: nothing ever reaches its table


def parse_options(arguments: Sequence[str] | None = None) -> StandinOptions:
    """Read the stand-in's command line (`sys.argv` when none is given); a mistake in it exits with status 2."""
    parser = argparse.ArgumentParser(
        prog="standin",
        description="A stand-in for loxilb's route API, on the kernel of this network namespace.",
        argument_default=argparse.SUPPRESS,
    )
    for add_options in (_add_listeners, _add_credentials, _add_behaviour, _add_limits):
        add_options(parser)
    return StandinOptions(**vars(parser.parse_args(arguments)))


def _add_listeners(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where it listens").add_argument
    add("--listen", type=_address, metavar="HOST:PORT|none", help="default 0.0.0.0:11111")
    add("--listen-unix", type=Path, metavar="PATH", help="a Unix socket as well")
    add("--listen-fd", type=int, metavar="N", help="an inherited TCP socket as well")
    add(
        "--tls-listen",
        type=_address,
        metavar="HOST:PORT|none",
        help="default 0.0.0.0:8091, with --tls-cert only",
    )
    add("--tls-listen-fd", type=int, metavar="N")
    add("--tls-cert", type=Path, metavar="FILE")
    add("--tls-key", type=Path, metavar="FILE")
    add("--tls-client-ca", type=Path, metavar="FILE", help="require a client certificate of this authority")


def _add_credentials(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("credentials").add_argument
    add("--manual-token", type=Path, metavar="FILE", help="as loxilb's --manualtoken; a wrong token gets 500")
    add("--userservice", metavar="TOKEN", help="as loxilb's --userservice; without this token it answers 401")


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("behaviour").add_argument
    add(
        "--loxilb-version",
        type=_release,
        dest="release",
        metavar="N",
        help=f"behave as this release, {MAIN} if not given",
    )
    add(
        "--fragile",
        choices=get_args(Fragility),
        help="how a GET during ingestion is taken; likely if not given",
    )
    add("--seed", type=int, help="makes likelihoods repeatable")
    add("--nonlp", action="store_true", help="as loxilb's --nonlp: no netlink ears")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pace and limits; the original's if not given").add_argument
    add("--api-delay", type=float, dest="api_delay_s", metavar="S", help="from start until it answers")
    add("--fill-delay", type=float, dest="fill_delay_s", metavar="S", help="from then until its table fills")
    add("--fill-rate", type=float, metavar="PER_S", help="while it reads the kernel's table")
    add("--batch", type=int, help="route events taken in at a time")
    add("--tick", type=float, dest="tick_s", metavar="S", help="between two times")
    add("--queue-limit", type=int, help="waiting route events that make it deaf")
    add("--marks", type=int, help="entries that get a hardware mark")
    add("--capacity", type=int, help="IPv4 entries that are programmed")
    add("--capacity6", type=int, help="IPv6 entries that are programmed")
    add("--idle-timeout", type=float, dest="idle_s", metavar="S")
    add("--read-timeout", type=float, dest="read_s", metavar="S")


def _address(text: str) -> tuple[str, int] | None:
    if text == "none":
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, [HOST]:PORT or 'none'")
    return host.strip("[]"), int(port)


def _release(text: str) -> Release:
    try:
        return Release.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
