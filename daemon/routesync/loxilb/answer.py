"""HTTP/1.1 answers out of bytes as they come: whole, or none.

httptools (llhttp) reads them. What is decided here: how long an answer may be, that there is nothing behind it, and
what it means that the connection ends, of which httptools is not told.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD: Final = 64 * 2**10
"""Bytes that may come without a byte of a body among them."""
MAX_BODY: Final = 64 * 2**20
"""A table of 400,000 routes; more is not loxilb."""
_VERSIONS: Final = frozenset({"1.1", "1.0"})


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class AnswerReader:
    """Reads the answers of one connection, one after the other, each asked for before its first byte.

    After a ValueError or `end` it is of no more use.

    Attributes:
        reusable: whether the connection may carry another request; true of the answer that was read last.
    """

    def __init__(self) -> None:
        self.reusable = False
        self._parser = HttpResponseParser(self)
        self._whole: list[Answer] = []  # what the parser has just finished: none or one
        self._to_the_end = False  # the head is read, and only the end of the connection ends the body
        self._delimited = False  # the head tells the length of the body, or that it comes in chunks
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
            self._refuse("the server goes over to another protocol, which nobody asked for")
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
