"""Damaged answers of a loxilb: each call gives a value or one error of the tree, and no row that was not there."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.http import Answer, AnswerReader
from routesync.loxilb.schema import Inventory, parse_prefix
from routesync.route import Prefix, parse_address
from support.damage import damaged_bytes, damaged_json, each

CALLS: Final[list[Callable[[LoxilbClient], Awaitable[object]]]] = [
    lambda client: client.add(Prefix.parse("10.0.0.0/8"), parse_address("192.0.2.1")),
    lambda client: client.delete(Prefix.parse("10.0.0.0/8")),
    lambda client: client.inventory(),
    lambda client: client.ports(),
    lambda client: client.version(),
]
DOCUMENTS: Final[list[Any]] = [
    {
        "routeAttr": [
            {"destinationIPNet": "10.1.0.0/16", "gateway": "192.0.2.1", "flags": "Ind ", "protocol": 4},
            {"destinationIPNet": "192.0.2.0/24", "flags": "Self", "protocol": "kernel"},
            {
                "destinationIPNet": "::/0",
                "gateway": "2001:db8::1, 2001:db8::2",
                "flags": "Ind",
                "protocol": None,
            },
        ]
    },
    {
        "portAttr": [
            {
                "portName": "ens3",
                "portNo": 1,
                "portSoftwareInformation": {"osId": 2, "portActive": True},
                "portHardwareInformation": {"macAddress": "02:FC:00:00:00:01", "link": True, "mtu": 1500},
            }
        ]
    },
    {"version": "0.9.8.4", "buildInfo": "2026_01_31-main"},
    {"result": "Success"},
    {"result": "fail"},
    {"code": 409, "message": "file exists", "sysErrCode": 0},
    {"code": 500, "message": "network is unreachable"},
]


class Canned(LoxilbClient):
    """A client whose server always gives one answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("http://lb", token=lambda: None)
        self._answer = answer

    async def _send(self, *_: object, **_options: object) -> Answer:
        return self._answer


async def _call_all(answer: Answer) -> Inventory | None:
    inventory, words = None, list[str]()
    for call in CALLS:
        try:
            found = await call(Canned(answer))
        except errors.LoxilbError as error:
            words.append(str(error))
        else:
            inventory = found if isinstance(found, Inventory) else inventory
    assert all(text.isprintable() and len(text) < 400 for text in words)
    return inventory


def attempt_to_call(chance: random.Random) -> None:
    body = damaged_json(chance.choice(DOCUMENTS), chance)
    status = chance.choice((200, 200, 204, 400, 401, 404, 409, 500, 503, chance.randrange(100, 600)))
    inventory = asyncio.run(_call_all(Answer(status, body)))
    if inventory is None:
        return
    document = json.loads(body)  # else it was no inventory
    shown = [row for row in document.get("routeAttr") or () if isinstance(row, dict)]
    for prefix, row in inventory.rows.items():
        if prefix.length:
            texts = [it["destinationIPNet"] for it in shown if isinstance(it.get("destinationIPNet"), str)]
            assert prefix in {parse_prefix(text) for text in texts if _is_prefix(text)}
        assert all(len(gateway) in (4, 16) for gateway in row.gateways)


def _is_prefix(text: str) -> bool:
    try:
        parse_prefix(text)
    except (ValueError, OSError):
        return False
    return True


HEADS: Final = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%b",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b",
]
BODIES: Final = [json.dumps(document).encode() for document in DOCUMENTS]
WHOLE: Final = [head % (len(body), body) for head in HEADS for body in BODIES]


def _read(data: bytes, cuts: list[int]) -> tuple[Answer | None, bool] | str:
    """What is read of it in these pieces, and whether the connection may be used again; or that it is no answer."""
    reader, answer = AnswerReader(), None
    try:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start == end:
                continue
            found = reader.feed(data[start:end])
            assert answer is None or found is None, "one answer"
            answer = answer or found
        if answer is None:
            answer = reader.end()
    except ValueError:
        return "no answer"
    return answer, reader.reusable


def attempt_to_read(chance: random.Random) -> None:
    data = damaged_bytes(chance.choice(WHOLE), chance, WHOLE)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
    whole, pieces = _read(data, []), _read(data, cuts)
    assert whole == pieces, (data, cuts)


SEEDS: Final = st.integers(0, 2**32)


@given(SEEDS)
def test_any_damaged_body_is_a_value_or_an_error_of_the_tree(seed: int) -> None:
    each(seed, 10, attempt_to_call)


@given(SEEDS)
def test_a_damaged_answer_is_the_same_however_it_is_cut(seed: int) -> None:
    each(seed, 20, attempt_to_read)
