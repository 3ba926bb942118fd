"""What can be set on the stand-in. The defaults are the original's figures; tests bring the delays down."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Fragility = Literal["off", "likely", "strict"]
"""How it takes a GET that meets ingestion: unharmed; dies with the original's likelihood; dies every time."""


@dataclass(frozen=True, slots=True)
class StandinOptions:
    """Settings of one stand-in. Times are seconds."""

    listen: tuple[str, int] | None = ("0.0.0.0", 11111)
    listen_unix: Path | None = None
    api_delay_s: float = 5  # from start until the API answers
    fill_delay_s: float = 3  # from then until the table begins to fill
    fill_rate: float = 1000  # routes/s while it reads the kernel's table at start
    batch: int = 128  # route events taken in at a time
    tick_s: float = 0.5  # between two times
    queue_limit: int = 50_000  # route events waiting, beyond which it goes deaf
    idle_s: float = 10  # a connection without a request is closed
    read_s: float = 30  # a request not whole by then is answered with 400
    fragile: Fragility = "likely"
    seed: int | None = None  # of the likelihood above


def _address(text: str) -> tuple[str, int] | None:
    if text == "none":
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, [HOST]:PORT or 'none'")
    return host.strip("[]"), int(port)


def parse_options(arguments: Sequence[str] | None = None) -> StandinOptions:
    """Read the stand-in's command line (`sys.argv` when none is given); a mistake in it exits with status 2."""
    plain = StandinOptions()
    parser = argparse.ArgumentParser(
        prog="routesync standin",
        description="A stand-in for loxilb's route API, on the kernel of this network namespace.",
    )
    add = parser.add_argument
    add(
        "--listen",
        type=_address,
        default=plain.listen,
        metavar="HOST:PORT|none",
        help="default 0.0.0.0:11111",
    )
    add("--listen-unix", type=Path, metavar="PATH", help="listen on this Unix socket as well")
    add("--api-delay", type=float, dest="api_delay_s", default=plain.api_delay_s, metavar="S")
    add("--fill-delay", type=float, dest="fill_delay_s", default=plain.fill_delay_s, metavar="S")
    add("--fill-rate", type=float, default=plain.fill_rate, metavar="PER_S")
    add("--batch", type=int, default=plain.batch, help="route events taken in at a time")
    add(
        "--tick",
        type=float,
        dest="tick_s",
        default=plain.tick_s,
        metavar="S",
        help="time between two batches",
    )
    add("--queue-limit", type=int, default=plain.queue_limit, help="waiting route events that make it deaf")
    add("--idle-timeout", type=float, dest="idle_s", default=plain.idle_s, metavar="S")
    add("--read-timeout", type=float, dest="read_s", default=plain.read_s, metavar="S")
    add(
        "--fragile",
        choices=get_args(Fragility),
        default=plain.fragile,
        help="how a GET during ingestion is taken",
    )
    add("--seed", type=int, help="makes --fragile=likely repeatable")
    return StandinOptions(**vars(parser.parse_args(arguments)))
