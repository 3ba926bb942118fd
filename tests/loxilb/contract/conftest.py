"""One API for the whole suite: the stand-in, or the real loxilb that ROUTESYNC_LOXILB_URL names."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from support.contract import (
    GATEWAY6_VARIABLE,
    NETNS_VARIABLE,
    URL_VARIABLE,
    Kernel,
    Place,
    Target,
    real_place,
    standin_place,
)

_REAL = os.environ.get(URL_VARIABLE)
_numbers = itertools.count()


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """The API; as a stand-in it ingests ten times as often as the original, to be quick."""
    if _REAL and "PYTEST_XDIST_WORKER" in os.environ:
        pytest.exit(
            "a real loxilb is tested by one worker only: add -n 0", returncode=pytest.ExitCode.USAGE_ERROR
        )
    if not _REAL and os.geteuid() != 0:
        pytest.skip("needs root: the stand-in runs in a network namespace")
    with real_place(_REAL) if _REAL else standin_place("--tick", "0.05") as found:
        yield found


@pytest.fixture(scope="session")
def unhurried_place(place: Place) -> Iterator[Place]:
    """The API at the original's own pace of ingestion."""
    if _REAL:
        yield place
        return
    with standin_place() as found:
        yield found


@pytest.fixture(scope="session")
def impatient_place(place: Place) -> Iterator[Place]:
    """The API with the original's time-outs; as a stand-in with short ones."""
    if _REAL:
        yield place
        return
    with standin_place(idle_s=0.4, read_s=0.5) as found:
        yield found


async def _target(place: Place) -> AsyncIterator[Target]:
    connector = aiohttp.UnixConnector(path=str(place.socket)) if place.socket else None
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Target(place, session)


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
