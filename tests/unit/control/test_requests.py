"""What goes into a call: read whole, or refused in words that name the mistake."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TypeVar

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import ValidationError
from structlog.testing import capture_logs

from routesync.control import requests
from routesync.control.events import ReaderQueue
from routesync.control.models import (
    ActiveConfig,
    Done,
    EventsQuery,
    ProblemError,
    RequestModel,
    ResyncRequest,
    RoutesQuery,
    TargetRequest,
    read_covering,
)
from routesync.control.requests import CallTable, Peer, may_change, overflow_uid, read_query, respond
from routesync.events.cloudevents import Record
from routesync.route import Prefix
from support.events import accepted


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("default", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:DB8::1", "2001:db8::1/128"),
    ],
)
def test_an_address_stands_for_its_host_prefix(text: str, prefix: str) -> None:
    assert str(read_covering(text)) == prefix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.1.2", "'10.1.2' is no address or prefix; write 10.1.2.3"),
        ("lb-1", "'lb-1' is no address or prefix"),
        ("", "'' is no address or prefix"),
        ("10.1.2.3/24", "did you mean 10.1.2.0/24"),
        ("10.0.0.0/33", "is not a prefix like"),
    ],
)
def test_what_is_neither_is_explained(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        read_covering(text)


Q = TypeVar("Q", bound=RequestModel)


def query(text: str, model: type[Q]) -> Q:
    return read_query(make_mocked_request("GET", f"/v1/x?{text}"), model)


def test_parameters_are_read_into_values() -> None:
    read = query("within=10.0.0.0/8&phase=refused&phase=conflicting&limit=7", RoutesQuery)
    assert read.within == Prefix.parse("10.0.0.0/8")
    assert read.phase == ("refused", "conflicting")
    assert read.limit == 7
    assert query("type=route.*", EventsQuery).type == ("route.*",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour=red", "colour: is unknown; known are: within, covering"),
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=many", "limit: Input should be a valid integer"),
        ("within=10.0.0.1/8", "within: '10.0.0.1/8' has host bits set"),
        ("family=ipx", "family: Input should be 'ipv4' or 'ipv6'"),
        ("target=a&target=b", "target is given 2 times"),
    ],
)
def test_a_wrong_parameter_is_named(text: str, said: str) -> None:
    with pytest.raises(ProblemError) as refused:
        query(text, RoutesQuery)
    assert said in str(refused.value)
    assert refused.value.problem.status == 400


def test_a_request_is_for_all_targets_unless_it_names_one() -> None:
    assert TargetRequest.model_validate_json("{}").target is None


def test_root_and_the_daemons_own_user_may_change_and_nobody_else() -> None:
    assert may_change(Peer(1, 0, 0), 998)
    assert may_change(Peer(1, 998, 1), 998)
    assert not may_change(Peer(1, 1000, 0), 998)
    assert not may_change(None, 998)


def test_the_uid_that_stands_for_all_strangers_is_nobodys_own() -> None:
    nobody = overflow_uid()
    assert not may_change(Peer(1, nobody, nobody), nobody)
    assert may_change(Peer(1, 0, 0), nobody)


def record(number: int) -> Record:
    return Record(number, 0.0, accepted(number))


async def test_a_slow_readers_losses_are_reported_where_they_are() -> None:
    queue = ReaderQueue(limit=3)
    for number in range(1, 6):
        queue.put(record(number))
    first = await queue.take(2, 1)
    queue.put(record(6))
    queue.put(record(7))  # does not fit: 3, the mark and 6 wait
    rest = await queue.take(10, 1)
    assert [it if isinstance(it, int) else f"#{it.sequence}" for it in [*first, *rest]] == [
        "#1",
        "#2",
        "#3",
        2,
        "#6",
        1,
    ]


async def test_a_reader_that_waits_gets_news_at_once_and_nothing_when_there_are_none() -> None:
    queue = ReaderQueue()
    assert await queue.take(10, 0.001) == []
    waiting = asyncio.create_task(queue.take(10, 60))
    await asyncio.sleep(0)
    queue.put(record(1))
    assert [it.sequence for it in await waiting if isinstance(it, Record)] == [1]


def test_only_true_and_false_say_whether_to_force() -> None:
    assert ResyncRequest.model_validate_json('{"force": true}').force
    for other in ("0", "1", '"yes"', "null"):
        with pytest.raises(ValidationError):
            ResyncRequest.model_validate_json(f'{{"force": {other}}}')


CHANGES = CallTable()


class Changes:
    """Calls that change something, and end in different ways."""

    @CHANGES.change("/done")
    async def done(self) -> Done:
        return Done(targets={})

    @CHANGES.change("/problem")
    async def problem(self) -> Done:
        raise ProblemError("unavailable", "3 routes left")

    @CHANGES.change("/defect")
    async def defect(self) -> Done:
        raise RuntimeError

    @CHANGES.change("/cancelled")
    async def cancelled(self) -> Done:
        raise asyncio.CancelledError

    @CHANGES.change("/misread")
    async def misread(self, body: TargetRequest) -> Done:
        raise AssertionError(body)


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        ("done", ["done"]),
        ("problem", ["unavailable"]),
        ("defect", ["internal"]),
        ("cancelled", ["broken off"]),
        ("misread", []),
    ],
)
async def test_a_change_is_logged_with_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch, name: str, outcomes: list[str]
) -> None:
    async def misread(*_: object) -> TargetRequest:
        raise ProblemError("bad-request", "it is null")

    monkeypatch.setattr(requests, "peer_of", lambda _: Peer(7, 0, 0))
    monkeypatch.setattr(requests, "read_body", misread)
    (call,) = (it for it in CHANGES if it.name == name)
    with capture_logs() as logs, suppress(ProblemError, RuntimeError, asyncio.CancelledError):
        await call.handle(Changes(), make_mocked_request("POST", call.path))
    assert [(it["event"], it["call"], it["peer"], it["outcome"]) for it in logs] == [
        ("control_call", name, "uid 0 (root), process 7", outcome) for outcome in outcomes
    ]


def test_a_path_that_is_not_utf_8_is_written_as_in_messages() -> None:
    body = respond(ActiveConfig(path="/etc/k\udcf6ü.toml", digest="1f", warnings=("k\udcf6: odd",))).body
    assert isinstance(body, bytes)
    assert json.loads(body) == {
        "path": r"/etc/k\udcf6ü.toml",
        "digest": "1f",
        "warnings": [r"k\udcf6: odd"],
    }
