"""Faults on the way: each kind, whom it befalls, and whether the kernel was changed all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator

import aiohttp
import pytest

from support.loxilb_caller import Caller
from support.netns import Namespace
from support.standin import Fault, StandinProcess, running_standin
from support.waiting import eventually


@pytest.fixture
def standin(space: Namespace) -> Iterator[StandinProcess]:
    with running_standin(space) as started:
        yield started


def _held(space: Namespace, prefix: str) -> bool:
    return bool(space.ip(f"route show {prefix}"))


@pytest.mark.parametrize("carried_out", [False, True])
async def test_reset_connection(standin: StandinProcess, space: Namespace, *, carried_out: bool) -> None:
    standin.inject(Fault("reset", method="POST", carried_out=carried_out))
    with pytest.raises(aiohttp.ClientOSError, match="Connection reset"):
        await Caller(standin).post("10.1.0.0/16")
    assert _held(space, "10.1.0.0/16") == carried_out
    assert standin.state().faults_done == 1


@pytest.mark.parametrize("carried_out", [False, True])
async def test_hanging_answer(standin: StandinProcess, space: Namespace, *, carried_out: bool) -> None:
    standin.inject(Fault("hang", carried_out=carried_out))
    with pytest.raises(TimeoutError):
        await Caller(standin, timeout_s=0.3).post("10.1.0.0/16")
    assert _held(space, "10.1.0.0/16") == carried_out


async def test_half_a_body(standin: StandinProcess) -> None:
    standin.inject(Fault("half", method="GET"))
    with pytest.raises(aiohttp.ClientPayloadError):
        await Caller(standin).ask("GET", "/config/route/all")


async def test_slow_answer_is_a_right_one(standin: StandinProcess, space: Namespace) -> None:
    standin.inject(Fault("slow", delay_s=0.2))
    assert (await Caller(standin).post("10.1.0.0/16"))[0] == 200
    assert _held(space, "10.1.0.0/16")


async def test_slow_request_is_carried_out_though_nobody_waits(
    standin: StandinProcess, space: Namespace
) -> None:
    standin.inject(Fault("slow", delay_s=0.4, times=1))
    with pytest.raises(TimeoutError):
        await Caller(standin, timeout_s=0.1).post("10.1.0.0/16")
    assert not _held(space, "10.1.0.0/16")
    await eventually(lambda: _held(space, "10.1.0.0/16"))


async def test_other_answers(standin: StandinProcess) -> None:
    caller = Caller(standin)
    standin.inject(Fault("answer", times=1), Fault("answer", times=1, status=200, body="<html>"))
    assert await caller.ask("GET", "/version") == (500, {"code": 500, "message": "fault"})
    with pytest.raises(json.JSONDecodeError):
        await caller.ask("GET", "/version")
    assert (await caller.ask("GET", "/version"))[0] == 200


async def test_fault_befalls_its_method_and_path_only(standin: StandinProcess) -> None:
    standin.inject(Fault("answer", method="GET", path="/route/all"))
    caller = Caller(standin)
    assert (await caller.ask("GET", "/version"))[0] == 200
    assert (await caller.post("10.1.0.0/16"))[0] == 200
    assert (await caller.ask("GET", "/config/route/all"))[0] == 500
    standin.inject()
    assert (await caller.ask("GET", "/config/port/all"))[0] == 200


async def test_share_of_the_requests(space: Namespace) -> None:
    with running_standin(space, "--seed", "7") as standin:
        standin.inject(Fault("answer", share=0.5))
        statuses = [(await Caller(standin).ask("GET", "/version"))[0] for _ in range(40)]
    assert {200, 500} == set(statuses)
