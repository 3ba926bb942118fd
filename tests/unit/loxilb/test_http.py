"""HTTP as far as it is needed: an answer is whole or none, nothing is sent twice, and the outcome is exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.loxilb.errors import NotSent, OutcomeUnknown
from routesync.loxilb.http import MAX_BODY, Answer, AnswerReader, Http
from routesync.route import parse_address
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
    "interim answers with headers before": (
        b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: z\r\n\r\n" + OK,
        Answer(200, b"ok"),
        True,
    ),
    "not modified, with the length that it would have": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
        Answer(304, b""),
        True,
    ),
    "no body, and a last answer": (
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        Answer(204, b""),
        False,
    ),
    "an old server that keeps the connection": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        Answer(200, b"ok"),
        True,
    ),
    "headers without a value": (
        b"HTTP/1.1 200 OK\r\nX:\r\nContent-Length: 0\r\n\r\n",
        Answer(200, b""),
        True,
    ),
}
WRONG = {
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP: Expected HTTP/"),
    "another HTTP": (b"HTTP/2.0 200 OK\r\n\r\n", r"not HTTP/1\.1 but 2\.0"),
    "no status": (b"HTTP/1.1 abc\r\n\r\n", "not HTTP: Invalid status"),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "Content-Length",
    ),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding can't be present with Content-Length",
    ),
    "a negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "character in Content-Length"),
    "a header without a colon": (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "Invalid header"),
    "compression": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "unknown transfer encoding: b'gzip'",
    ),
    "compression and chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "unknown transfer encoding: b'gzip, chunked'",
    ),
    "a chunk of no size": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "character in chunk size",
    ),
    "a chunk that is longer than it says": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        "after chunk data",
    ),
    "more than the answer": (OK + b"HTTP/1.1 200 OK", "bytes behind the answer"),
    "one byte more than the answer": (OK + b"\n", "bytes behind the answer"),
    "another whole answer": (OK + OK, "bytes behind the answer"),
    "more than a last answer": (OK.replace(b"OK", b"OK\r\nConnection: close") + OK, "Data after"),
    "a body where none can be": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        "not HTTP|bytes behind",
    ),
    "a body beyond all measure": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "longer than 67108864",
    ),
    "a length beyond all numbers": (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        "Content-Length overflow",
    ),
    "a head without end": (
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        "head of the answer.* longer than 65536",
    ),
    "interim answers without end": (b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, "longer than 65536"),
    "a chunk's extension without end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 70_000,
        "longer than 65536",
    ),
    "a trailer without end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000,
        "longer than 65536",
    ),
    "an upgrade": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "another protocol, which was not requested",
    ),
    "an upgrade to nothing": (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "another protocol, which was not requested",
    ),
}


PIECES = (
    *(data for data, _, _ in WHOLE.values()),
    *(data for data, _ in WRONG.values() if len(data) < 1000),
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: upgrade\r\n",
        b"0",
    ),
)


def feed_all(reader: AnswerReader, data: bytes, step: int) -> list[Answer | None]:
    return [reader.feed(data[start : start + step]) for start in range(0, len(data), step)]


@pytest.mark.parametrize(("data", "answer", "reusable"), WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_answer_is_read_however_it_is_cut(
    data: bytes, answer: Answer, step: int, *, reusable: bool
) -> None:
    reader = AnswerReader()
    *before, last = feed_all(reader, data, step)
    assert not any(before)
    assert last == answer
    assert reader.reusable is reusable


@pytest.mark.parametrize("step", [1000, 200_000])
@pytest.mark.parametrize(("data", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_answer_is_refused(data: bytes, words: str, step: int) -> None:
    with pytest.raises(ValueError, match=words):
        feed_all(AnswerReader(), data, step)


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"], ids=["to the end", "a chunk"])
def test_a_body_beyond_all_measure_is_given_up_when_it_passes_it(head: bytes) -> None:
    reader, part = AnswerReader(), bytes(2**20)
    assert reader.feed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + (b"FFFFFFFF\r\n" if head else b"")) is None
    for _ in range(MAX_BODY // len(part)):
        assert reader.feed(part) is None
    with pytest.raises(ValueError, match=f"longer than {MAX_BODY} bytes"):
        reader.feed(b"x")


@given(
    st.lists(st.one_of(st.binary(max_size=100), st.sampled_from(PIECES)), max_size=8),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", OK[:30]]),
    st.integers(1, 300),
)
def test_no_bytes_make_it_fail_otherwise(pieces: list[bytes], start: bytes, step: int) -> None:
    data, reader = start + b"".join(pieces), AnswerReader()
    try:
        feed_all(reader, data, step)
    except ValueError:
        return
    reader.end()


def test_answers_are_read_one_after_the_other_and_have_nothing_of_each_other() -> None:
    reader = AnswerReader()
    for _ in range(2):
        for data, answer, reusable in WHOLE.values():
            if reusable:
                assert reader.feed(data) == answer
                assert reader.reusable
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nto the") is None
    assert reader.feed(b" end") is None
    assert reader.end() == Answer(200, b"to the end")
    assert not reader.reusable


@pytest.mark.parametrize(
    "data", [b"", OK, b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_the_end_of_the_connection_between_answers_is_no_answer(data: bytes) -> None:
    reader = AnswerReader()
    reader.feed(data)
    assert reader.end() is None


def test_chunks_are_not_whole_at_the_end_of_the_connection() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n") is None
    assert reader.end() is None


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


async def test_the_two_ends_of_the_connection_are_known_while_one_is_open(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await reader.read()
        writer.close()

    for host in ("127.0.0.1", "::1"):
        async with await asyncio.start_server(serve, host) as listener:
            place = f"[{host}]" if ":" in host else host
            http = Http(
                f"http://{place}:{listener.sockets[0].getsockname()[1]}",
                connect_timeout_s=1,
                request_timeout_s=1,
            )
            ends = [http.ends]
            await http.send(http.head("GET", "/"))
            ends.append(http.ends)
            await http.close()
            assert [*ends, http.ends] == [None, (parse_address(host), parse_address(host)), None]
    async with server(tmp_path, serve) as http:
        await http.send(http.head("GET", "/"))
        assert http.ends is None, "no TCP"


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


@pytest.mark.parametrize("answers", [False, True])
async def test_a_connection_made_while_another_is_silent_may_lead_to_another_server(
    tmp_path: Path,
    answers: bool,  # noqa: FBT001
) -> None:
    """As when an address moves to another host: to us the connections to the first stay open."""
    made = asyncio.Event()
    begun: list[asyncio.StreamReader] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(reader)
        await read_request(reader)
        writer.write(OK)
        if len(begun) == 1:
            await read_request(reader)
            await made.wait()
            if answers:
                writer.write(OK)
        else:
            await reader.read()
        writer.close()

    async with server(tmp_path, serve) as http:
        await http.send(http.head("GET", "/"))
        http.mark()
        first = asyncio.create_task(http.send(http.head("POST", "/")))
        await asyncio.sleep(0.1)  # it has the connection
        second = asyncio.create_task(http.send(http.head("POST", "/")))
        await eventually(lambda: len(http._all) == 2, what="the second connection")
        made.set()
        await asyncio.gather(first, second, return_exceptions=True)
        await eventually(lambda: len(http._all) == 1, what="the end of the first")
        assert http.unbroken is answers


async def test_a_connection_made_while_another_was_busy_does_not_put_it_out_of_use(tmp_path: Path) -> None:
    """Else the known one would be closed as idle, and the server seem to be another one."""
    answering = asyncio.Event()
    asked: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(0)
        number = len(asked) - 1
        with suppress(asyncio.IncompleteReadError):
            while True:
                await read_request(reader)
                asked[number] += 1
                if number == 1 and asked[1] == 1:
                    await answering.wait()
                writer.write(OK)
        writer.close()

    async with server(tmp_path, serve) as http:
        await http.send(http.head("GET", "/"))
        http.mark()
        known = http._take_idle()
        assert known is not None
        second = asyncio.create_task(http.send(http.head("POST", "/")))
        await eventually(lambda: asked == [1, 1], what="the second connection")
        http._put_idle(known)  # its request was answered before the second connection was made
        answering.set()
        await second
        await http.send(http.head("POST", "/"))
        assert asked == [2, 1]
        assert http._same == http._all


async def test_a_connection_that_nobody_uses_is_closed_although_the_server_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routesync.loxilb.http.IDLE_CLOSE_S", 0.2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await read_request(reader):
                writer.write(OK)
        writer.close()

    async with server(tmp_path, serve) as http:
        await asyncio.gather(*(http.send(http.head("GET", "/")) for _ in range(3)))
        assert len(http._all) == 3

        async def one_is_left() -> bool:
            await http.send(http.head("GET", "/"))
            return len(http._all) == 1

        await eventually(one_is_left, within_s=3, what="the end of the others")


async def test_no_answer_in_time_is_an_error_and_its_connection_is_closed(tmp_path: Path) -> None:
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


async def test_bytes_that_nobody_asked_for_never_become_an_answer(tmp_path: Path) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            requests.append(await read_request(reader))
            if len(requests) > 1:
                writer.write(OK)

    async with server(tmp_path, serve) as http:
        sending = asyncio.create_task(http.send(http.head("GET", "/")))
        await eventually(lambda: bool(requests), what="the first request")
        (connection,) = http._all
        connection.data_received(OK)
        connection.data_received(b"HTTP/1.1 404 Not Found\r\n")  # before the answer has been taken
        assert await sending == Answer(200, b"ok")
        assert not connection.open
        assert await http.send(http.head("GET", "/")) == Answer(200, b"ok")
        (another,) = http._all
        another.data_received(b"HTTP/1.1 404 Not Found\r\n")  # while it idles
        assert not another.open
        assert await http.send(http.head("GET", "/")) == Answer(200, b"ok")


async def test_an_answer_that_ends_with_its_connection_is_reported(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        writer.close()

    async with server(tmp_path, serve) as http:
        assert await http.send(http.head("GET", "/")) == Answer(200, b"to the end")


async def test_an_answer_that_makes_no_sense_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()
        writer.close()

    async with server(tmp_path, serve) as http:
        with pytest.raises(OutcomeUnknown, match="the answer is not HTTP: Expected HTTP/"):
            await http.send(http.head("DELETE", "/"))
        await eventually(lambda: not http._all, what="the end of the connection")


async def test_what_cannot_be_connected_to_was_not_sent(tmp_path: Path) -> None:
    http = Http("http://lb", unix_socket=tmp_path / "nowhere", connect_timeout_s=1, request_timeout_s=1)
    with pytest.raises(NotSent, match="cannot connect to http://lb: No such file or directory"):
        await http.send(http.head("GET", "/"))
