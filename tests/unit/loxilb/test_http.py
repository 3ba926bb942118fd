"""HTTP as far as it is needed: an answer is whole or none, nothing is sent twice, and what happened is told exactly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.loxilb.answer import Answer, AnswerReader
from routesync.loxilb.errors import NotSent, OutcomeUnknown
from routesync.loxilb.http import Http
from support.waiting import eventually

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WHOLE = {
    "a length": (OK, Answer(200, b"ok"), True),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, b""), True),
    "an empty body": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Answer(404, b""), True),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n",
        Answer(200, b"abc0123456789"),
        True,
    ),
    "chunks and a trailer": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
        Answer(200, b"a"),
        True,
    ),
    "a last answer": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        Answer(200, b"ok"),
        False,
    ),
    "an old server": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Answer(200, b"ok"), False),
    "an interim answer before": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Answer(200, b"ok"), True),
}
WRONG = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "compression": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk that is longer than it says": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
    "more than the answer": OK + b"HTTP/1.1 200 OK",
    "a body beyond all measure": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    "a chunk beyond all measure": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
}


@pytest.mark.parametrize(("data", "answer", "reusable"), WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_answer_is_read_however_it_is_cut(
    data: bytes, answer: Answer, step: int, *, reusable: bool
) -> None:
    reader = AnswerReader()
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    assert [reader.feed(part) for part in parts] == [None] * (len(parts) - 1) + [answer]
    assert reader.reusable is reusable


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        AnswerReader().feed(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", OK[:30]]))
def test_no_bytes_make_it_fail_otherwise(data: bytes, start: bytes) -> None:
    reader = AnswerReader()
    try:
        reader.feed(start + data)
    except ValueError:
        return
    reader.end()


def test_without_a_length_the_end_of_the_connection_is_the_end_of_the_answer() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhalf a") is None
    assert reader.end() == Answer(200, b"half a")
    assert not reader.reusable


@pytest.mark.parametrize("cut", [10, 30, len(OK) - 1])
def test_an_answer_that_is_cut_short_is_none(cut: int) -> None:
    reader = AnswerReader()
    assert reader.feed(OK[:cut]) is None
    assert reader.end() is None


@asynccontextmanager
async def server(tmp_path: Path, serve: Serve) -> AsyncIterator[Http]:
    path = tmp_path / "socket"
    async with await asyncio.start_unix_server(serve, str(path)):
        http = Http("http://lb/base", unix_socket=path, connect_timeout_s=1, request_timeout_s=0.5)
        try:
            yield http
        finally:
            await http.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    return head + await reader.readexactly(length)


async def test_a_connection_is_used_again_and_a_request_is_what_it_should_be(tmp_path: Path) -> None:
    seen: list[list[bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append([])
        for _ in range(3):
            seen[-1].append(await read_request(reader))
            writer.write(OK)
        writer.close()

    async with server(tmp_path, serve) as http:
        head = http.head("POST", "/path", "X: y")
        for _ in range(3):
            assert await http.send(head, b"body") == Answer(200, b"ok")
    assert seen == [[b"POST /base/path HTTP/1.1\r\nHost: lb\r\nX: y\r\nContent-Length: 4\r\n\r\nbody"] * 3]


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(tmp_path: Path) -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await read_request(reader)
        writer.write(OK)
        writer.close()

    async with server(tmp_path, serve) as http:
        for _ in range(3):
            assert await http.send(http.head("DELETE", "/")) == Answer(200, b"ok")
            await eventually(lambda: not http._all, what="the end of the connection")
    assert len(connections) == 3


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_request_whose_connection_breaks_is_not_sent_again(tmp_path: Path, method: str) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(OK)
        requests.append(await read_request(reader))
        writer.transport.abort()

    async with server(tmp_path, serve) as http:
        await http.send(http.head(method, "/"))
        with pytest.raises(OutcomeUnknown, match="before the answer was whole"):
            await http.send(http.head(method, "/"))
    assert len(requests) == 2


async def test_a_server_that_may_have_been_started_anew_is_known_by_its_connections(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read_request(reader)
            writer.write(OK)
        writer.close()

    async with server(tmp_path, serve) as http:
        found = []
        for _ in range(2):
            http.mark()
            found.append(http.unbroken)
            await http.send(http.head("GET", "/"))
        assert found == [False, True], "first there is no connection yet"
        await eventually(lambda: not http.unbroken, what="the end of the connection")
        await http.send(http.head("GET", "/"))
        assert not http.unbroken, "another connection, perhaps to another life"


async def test_no_answer_in_time_is_told_and_its_connection_is_given_up(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with server(tmp_path, serve) as http:
        with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.5 s"):
            await http.send(http.head("POST", "/"))
        await eventually(lambda: not http._all, what="the end of the connection")


async def test_a_caller_that_gives_up_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        await asyncio.sleep(0.2)
        writer.write(OK.replace(b"ok", request[5:7]))
        writer.close()

    async with server(tmp_path, serve) as http:
        first = asyncio.create_task(http.send(http.head("GET", "/1")))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await http.send(http.head("PUT", "/2")) == Answer(200, b"ba")


async def test_what_cannot_be_connected_to_was_not_sent(tmp_path: Path) -> None:
    http = Http("http://lb", unix_socket=tmp_path / "nowhere", connect_timeout_s=1, request_timeout_s=1)
    with pytest.raises(NotSent, match="cannot connect to http://lb: No such file or directory"):
        await http.send(http.head("GET", "/"))
