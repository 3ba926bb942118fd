"""One API for the whole suite: the stand-in, or the real loxilb that ROUTESYNC_LOXILB_URL names."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from support.contract import (
    GATEWAY6_VARIABLE,
    NETNS_VARIABLE,
    Kernel,
    Place,
    Target,
    delete_routes,
    real_place,
    standin_place,
)

_numbers = itertools.count()
_posted: set[str] = set()


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """The API; as a stand-in it ingests ten times as often as the original, to be quick."""
    try:
        real = real_place()
    except ValueError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    if real is not None:
        yield from _with_care(real)
        return
    if os.geteuid() != 0:
        pytest.skip("needs root: the stand-in runs in a network namespace")
    with standin_place("--tick", "0.05") as found:
        yield found


def _with_care(real: Place) -> Iterator[Place]:
    """A real loxilb is left as it was found, also when the suite is interrupted or was killed the time before."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        usage = "a real loxilb is tested by one worker only: add -n 0"
        pytest.exit(usage, returncode=pytest.ExitCode.USAGE_ERROR)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if real.kernel is not None and Kernel(real.kernel, str(real.gateway.ip)).remove_links():
        time.sleep(real.detach_s)
    try:
        yield real
    finally:
        delete_routes(real, _posted)


@pytest.fixture(scope="session")
def unhurried_place(place: Place) -> Iterator[Place]:
    """The API at the original's own pace of ingestion."""
    if place.socket is None:
        yield place
        return
    with standin_place() as found:
        yield found


@pytest.fixture(scope="session")
def impatient_place(place: Place) -> Iterator[Place]:
    """The API with the original's time-outs; as a stand-in with short ones."""
    if place.socket is None:
        yield place
        return
    with standin_place(idle_s=0.4, read_s=0.5) as found:
        yield found


async def _target(place: Place) -> AsyncIterator[Target]:
    connector = aiohttp.UnixConnector(path=str(place.socket)) if place.socket else None
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Target(place, session, _posted)


@pytest.fixture
async def target(place: Place) -> AsyncIterator[Target]:
    async for made in _target(place):
        yield made


@pytest.fixture
async def unhurried(unhurried_place: Place) -> AsyncIterator[Target]:
    async for made in _target(unhurried_place):
        yield made


@pytest.fixture
async def impatient(impatient_place: Place) -> AsyncIterator[Target]:
    async for made in _target(impatient_place):
        yield made


@pytest.fixture
def kernel(place: Place) -> Kernel:
    """The kernel behind the API; without it, what the API alone shows is all that can be tested."""
    if place.kernel is None:
        pytest.skip(f"needs to look into loxilb's kernel: name its namespace in {NETNS_VARIABLE}")
    return Kernel(place.kernel, str(place.gateway.ip))


@pytest.fixture
def flapping_link(kernel: Kernel, place: Place) -> Iterator[str]:
    """A link of the test's own, that may flap without disturbing anyone; its network is 198.51.100.0/24."""
    with kernel.link(place) as name:
        yield name


@pytest.fixture
def down_link(kernel: Kernel, place: Place) -> Iterator[str]:
    """The same, and it is down."""
    with kernel.link(place, up=False) as name:
        yield name


@pytest.fixture
def gateway6(place: Place) -> str:
    """An on-link IPv6 next hop."""
    if place.gateway6 is None:
        pytest.skip(f"needs an IPv6 next hop that is on-link for loxilb: name it in {GATEWAY6_VARIABLE}")
    return str(place.gateway6.ip)


@pytest.fixture
async def prefix(target: Target) -> AsyncIterator[str]:
    """An IPv4 prefix that nobody else uses, gone again after the test."""
    number = next(_numbers)
    made = f"198.18.{number}.0/24"
    yield made
    while (await target.delete(made)).body == {"result": "Success"}:
        pass


@pytest.fixture
async def prefix6(target: Target) -> AsyncIterator[str]:
    """The same for IPv6."""
    made = f"2001:db8:{next(_numbers):x}::/48"
    yield made
    while (await target.delete(made)).body == {"result": "Success"}:
        pass
