"""HTTP/1.1 as far as loxilb's API needs it: requests that are sent once, and answers that are whole or none.

HTTP libraries repeat a DELETE by themselves when the connection breaks before the answer comes (aiohttp does). Here the
first one may have removed routesync's route, and the second would remove another writer's. So nothing is repeated, and
the caller learns exactly what happened to a request: it was never sent, or its outcome is unknown. This also takes a
third less time, and requests are what the daemon does most. Only sending is our own; httptools (llhttp) reads the
answers. What is decided here about them: how long one may be, that nothing follows it, and what it means that the
connection ends, which httptools does not learn.

Concurrency: one exchange at a time on a connection; connections are opened as needed, and used again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from routesync.loxilb import errors
from routesync.route import Address, parse_address
from routesync.url import BaseUrl

IDLE_CLOSE_S: Final = 8.0
"""Below loxilb's 10 s, so that a connection is not used at the moment in which it is closed."""
MAX_HEAD: Final = 64 * 2**10
"""Bytes that may come without a byte of a body among them."""
MAX_BODY: Final = 64 * 2**20
"""A table of 400,000 routes; more is not loxilb."""
_VERSIONS: Final = frozenset({"1.1", "1.0"})

TLS_PORT: Final = 8091
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""What OpenSSL calls an answer that is no TLS record."""
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class AnswerReader:
    """Reads the answers of one connection, one after the other, each requested before its first byte.

    After a ValueError or `end` it is of no more use.

    Attributes:
        reusable: whether the connection may carry another request; true of the answer that was read last.
    """

    def __init__(self) -> None:
        self.reusable = False
        self._parser = HttpResponseParser(self)
        self._whole: list[Answer] = []  # what the parser has just finished: none or one
        self._to_the_end = False  # the head is read, and only the end of the connection ends the body
        self._delimited = False  # the head has the length of the body, or says that it is chunked
        self._body = bytearray()
        self._bodiless = 0  # bytes since the last of a body
        self._refusal: str | None = None

    def feed(self, data: bytes) -> Answer | None:
        """Take more bytes; return the answer when it is whole.

        Raises:
            ValueError: this is not HTTP, or too long, or more than was asked for; the message says which.
        """
        size = len(self._body)
        view = memoryview(data)
        try:
            self._parser.feed_data(view[:-1])
            if self._whole:  # the parser would take the rest for the next one's beginning
                raise ValueError("there are bytes behind the answer")
            self._parser.feed_data(view[-1:])
        except (HttpParserError, HttpParserUpgrade) as error:
            raise ValueError(self._refusal or f"the answer is not HTTP: {error}") from error
        answer = self._whole.pop() if self._whole else None
        self._bodiless = 0 if answer is not None or len(self._body) > size else self._bodiless + len(data)
        if self._bodiless > MAX_HEAD:
            raise ValueError(f"the head of the answer, or of a chunk, is longer than {MAX_HEAD} bytes")
        return answer

    def end(self) -> Answer | None:
        """The connection has ended: return the answer if that makes it whole."""
        if not self._to_the_end:
            return None
        self.reusable = False
        return self._take()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`."""
        name = name.lower()
        if name == b"content-length":
            self._delimited = True
            if int(value) > MAX_BODY:
                self._refuse(f"the answer is longer than {MAX_BODY} bytes")
        elif name == b"transfer-encoding":
            self._delimited = True
            if value.strip(b" ").lower() != b"chunked":
                self._refuse(f"an unknown transfer encoding: {value[:40]!r}")

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        if (version := self._parser.get_http_version()) not in _VERSIONS:
            self._refuse(f"the answer is not HTTP/1.1 but {version}")
        if self._parser.get_status_code() == 101:
            self._refuse("the server switches to another protocol, which was not requested")
        self._to_the_end = not self._delimited  # if its status is one without a body, it is complete next

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._body += body
        if len(self._body) > MAX_BODY:
            self._refuse(f"the answer is longer than {MAX_BODY} bytes")

    def on_message_complete(self) -> None:
        """See `httptools`."""
        answer = self._take()
        if not 100 <= answer.status < 200:  # otherwise an interim answer: the real one follows
            self._whole.append(answer)
            self.reusable = self._parser.should_keep_alive()

    def _take(self) -> Answer:
        answer = Answer(self._parser.get_status_code(), bytes(self._body))
        self._to_the_end = self._delimited = False
        self._body.clear()
        return answer

    def _refuse(self, why: str) -> None:
        self._refusal = why
        raise ValueError(why)


class _Broken(Exception):  # noqa: N818 (a value between two functions here)
    """The exchange failed; the message says how."""


class Connection(asyncio.Protocol):
    """One connection; anything unexpected closes it."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when nothing is left of it."""
        self._transport: asyncio.Transport | None = None
        self._reader = AnswerReader()
        self._answer: asyncio.Future[Answer] | None = None
        self._deadline_s = 0.0

    @property
    def open(self) -> bool:
        """Whether it can carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def ends(self) -> tuple[Address, Address] | None:
        """Our address and the server's; None: it is not open, or not over TCP."""
        if self._transport is None or self._transport.is_closing():
            return None
        names = (self._transport.get_extra_info(name) for name in ("sockname", "peername"))
        addresses = [_address(name[0]) for name in names if isinstance(name, tuple)]
        return (addresses[0], addresses[1]) if len(addresses) == 2 else None

    async def exchange(self, request: bytes, within_s: float) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            _Broken: it broke, or there was no answer in time.
        """
        assert self._transport is not None  # noqa: S101 (it was made)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = answer
        self._deadline_s = within_s
        deadline = self._loop.call_later(within_s, self._expire)
        try:
            self._transport.write(request)
            return await answer
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            deadline.cancel()
            self._answer = None

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self._fail(f"no answer within {self._deadline_s:g} s")

    def _fail(self, how: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Broken(how))
        self.close()

    def _succeed(self, answer: Answer, *, reusable: bool) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
        if not reusable:
            self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport  # type: ignore[assignment]  # it is a stream's

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._answer is None or self._answer.done():
            self.close()  # not requested; and it must not become the beginning of the next answer
            return
        try:
            answer = self._reader.feed(data)
        except ValueError as error:
            self._fail(str(error))
            return
        if answer is not None:
            self._succeed(answer, reusable=self._reader.reusable)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        answer = self._reader.end()
        if answer is not None:
            self._succeed(answer, reusable=False)
        else:
            self._fail("the connection was closed before the answer was whole")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        how = _words(error) if error is not None else "closed"
        self._fail(f"the connection broke before the answer was whole: {how}")
        if not self.lost.done():
            self.lost.set_result(None)


class Http:
    """Requests to one server. Times in seconds.

    Args:
        url: of the server, `http` or `https`, with a path that all requests begin with or none.
        tls: how to speak TLS, for `https`; the system's authorities by default.
        server_name: the name that its certificate is to have; the host by default, without its zone.
        unix_socket: reach it through this socket instead of TCP.
        connect_timeout_s: how long connecting may take.
        request_timeout_s: how long an answer may take.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        unix_socket: Path | None = None,
        connect_timeout_s: float,
        request_timeout_s: float,
    ) -> None:
        self._url = BaseUrl.parse(url)
        secure = self._url.scheme == "https"
        self._port = self._url.port or (443 if secure else 80)
        self._tls = (tls or ssl.create_default_context()) if secure else None
        self._server_name = (server_name or self._url.host) if secure else None
        self._unix_socket = unix_socket
        self._connect_timeout_s = connect_timeout_s
        self._request_timeout_s = request_timeout_s
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._same: set[Connection] = set()  # those of `_all` that are to the server of `mark`, as is known
        self.unbroken = False
        """Whether since `mark` at least one connection was open all the time, so that the server is still the same."""

    def head(self, method: str, path: str, *fields: str) -> bytes:
        """The beginning of a request: all but the length of its body."""
        lines = [f"{method} {self._url.path}{path} HTTP/1.1", f"Host: {self._url.authority}", *fields]
        return "".join(f"{line}\r\n" for line in lines).encode("ascii")

    async def send(self, head: bytes, body: bytes = b"", *, same_server: bool = False) -> Answer:
        """Send a request, once, and return its answer.

        Args:
            head: of the request.
            body: of the request.
            same_server: send it only while `unbroken`.

        Raises:
            NotSent: there is no connection.
            Withheld: the server may be another one by now.
            OutcomeUnknown: it may or may not have arrived.
        """
        connection = self._take_idle() or await self._connect()
        if same_server and not self.unbroken:
            self._put_idle(connection)
            raise errors.Withheld("its connections broke: it may have been restarted")
        try:
            answer = await connection.exchange(
                b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body), self._request_timeout_s
            )
        except _Broken as broken:
            raise errors.OutcomeUnknown(str(broken)) from None
        if connection in self._same:  # it lives, so those that were made meanwhile are to it, too
            self._same |= self._all
        self._put_idle(connection)
        return answer

    @property
    def ends(self) -> tuple[Address, Address] | None:
        """Our address and the server's, of a TCP connection that is open; None: there is none."""
        return next((ends for connection in self._all if (ends := connection.ends) is not None), None)

    def mark(self) -> None:
        """From now on `unbroken` is false if the server may have restarted."""
        self._same = self._all.copy()
        self.unbroken = True
        self._note_break()

    def _note_break(self) -> None:
        self.unbroken = self.unbroken and any(connection.open for connection in self._same)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._same.discard(connection)
        self._note_break()

    async def close(self) -> None:
        """Close all connections, and return when nothing is left of them."""
        connections = tuple(self._all)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.lost

    def _put_idle(self, connection: Connection) -> None:
        if connection.open:
            connection.idle_since = monotonic()
            self._idle.append(connection)

    def _take_idle(self) -> Connection | None:
        oldest = monotonic() - IDLE_CLOSE_S
        while self._idle and self._idle[0].idle_since <= oldest:  # one that is gone never closes it
            self._idle.popleft().close()
        while self._idle:  # a known one first, so that it stays in use, and its answer makes the others known
            connection = next((it for it in reversed(self._idle) if it in self._same), self._idle[-1])
            self._idle.remove(connection)
            if connection.open:
                return connection
        return None

    async def _connect(self) -> Connection:
        self._note_break()  # a new connection must not hide that those before are closed
        loop = asyncio.get_running_loop()
        zone = self._url.zone
        if zone and not zone.isdecimal() and zone not in {name for _, name in socket.if_nameindex()}:
            raise self._not_sent(f"there is no interface {zone} here")
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if self._unix_socket is not None:
                    _, connection = await loop.create_unix_connection(
                        Connection,
                        str(self._unix_socket),
                        ssl=self._tls,
                        server_hostname=self._server_name,
                    )
                else:
                    _, connection = await loop.create_connection(
                        Connection,
                        self._url.place,
                        self._port,
                        ssl=self._tls,
                        server_hostname=self._server_name,
                        happy_eyeballs_delay=0.25,
                    )
        except TimeoutError:
            raise self._not_sent("no answer to the connection attempt") from None
        except (OSError, ValueError) as error:
            raise self._not_sent(_words(error)) from None
        self._note_break()
        self._all.add(connection)
        connection.lost.add_done_callback(lambda _: self._forget(connection))
        return connection

    def _not_sent(self, why: str) -> errors.NotSent:
        return errors.NotSent(f"cannot connect to {self._url}: {why}")


def _address(text: str) -> Address:
    """Read an address as a socket names it: perhaps with a zone, or IPv4 mapped into IPv6."""
    address = parse_address(text.partition("%")[0])
    return Address(address[12:]) if address.startswith(_V4_MAPPED) else address


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return f"the port does not speak TLS: is it plain HTTP? loxilb serves https on port {TLS_PORT}"
    if isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, socket.gaierror)) and error.errno:
        return os.strerror(error.errno)  # asyncio's own text repeats the address, and says less
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
