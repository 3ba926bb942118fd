"""One HTTP/1.1 answer, read out of bytes as they come: whole, or none."""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_HEAD: Final = 64 * 2**10
MAX_BODY: Final = 64 * 2**20
"""A table of 400,000 routes; more is not loxilb."""
_BODYLESS: Final = frozenset({204, 304})


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class AnswerReader:
    """Reads one answer out of bytes as they come.

    Attributes:
        reusable: whether the connection may carry another request; true of the answer that was read last.
    """

    def __init__(self) -> None:
        self.reusable = False
        self._data = bytearray()
        self._status = 0
        self._length: int | None = None  # of the body; None: to the end of the connection, or in chunks
        self._chunked = False
        self._at = -1  # where the body, or its next chunk, begins; -1: the head is not whole yet
        self._body = bytearray()  # of chunks

    def feed(self, data: bytes) -> Answer | None:
        """Take more bytes; return the answer when it is whole.

        Raises:
            ValueError: this is not HTTP, or too long; the message says which.
        """
        self._data += data
        while self._at < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > MAX_HEAD:
                    raise ValueError(f"the head of the answer is longer than {MAX_HEAD} bytes")
                return None
            self._read_head(bytes(self._data[:end]).split(b"\r\n"))
            if 100 <= self._status < 200:  # an interim answer: the real one follows
                del self._data[: end + 4]
            else:
                self._at = end + 4
        if self._chunked:
            return self._read_chunks()
        size = len(self._data) - self._at
        if max(size, self._length or 0) > MAX_BODY:
            raise ValueError(f"the answer is longer than {MAX_BODY} bytes")
        if self._length is None or size < self._length:
            return None
        if size > self._length:
            raise ValueError("there are bytes behind the answer")
        return Answer(self._status, bytes(self._data[self._at :]))

    def end(self) -> Answer | None:
        """The connection has ended: return the answer if that makes it whole."""
        if self._at < 0 or self._chunked or self._length is not None:
            return None
        return Answer(self._status, bytes(self._data[self._at :]))

    def _read_head(self, lines: list[bytes]) -> None:
        version, _, rest = lines[0].partition(b" ")
        code = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not (len(code) == 3 and code.isdigit()):
            raise ValueError(f"the answer is not HTTP: {lines[0][:40]!r}")
        self._status = int(code)
        self._length, self._chunked, self.reusable = None, False, version == b"HTTP/1.1"
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon:
                raise ValueError(f"a header without a colon: {line[:40]!r}")
            name, value = name.lower(), value.strip()
            if name == b"content-length":
                if not value.isdigit() or self._length not in (None, int(value)):
                    raise ValueError(f"a content length that is none: {value[:40]!r}")
                self._length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise ValueError(f"an unknown transfer encoding: {value[:40]!r}")
                self._chunked = True
            elif name == b"connection" and b"close" in value.lower():
                self.reusable = False
        if self._status in _BODYLESS:
            self._length, self._chunked = 0, False
        elif self._length is None and not self._chunked:
            self.reusable = False

    def _read_chunks(self) -> Answer | None:
        data = self._data
        while (end := data.find(b"\r\n", self._at)) >= 0:
            text = bytes(data[self._at : end]).partition(b";")[0].strip()
            if not 0 < len(text) <= 8 or not all(digit in b"0123456789abcdefABCDEF" for digit in text):
                raise ValueError(f"a chunk of no size: {text[:40]!r}")
            size = int(text, 16)
            if len(self._body) + size > MAX_BODY:
                raise ValueError(f"the answer is longer than {MAX_BODY} bytes")
            if size == 0:
                return self._read_trailer(end + 2)
            if len(data) < end + 2 + size + 2:
                return None
            if data[end + 2 + size : end + 4 + size] != b"\r\n":
                raise ValueError("a chunk that does not end where it says")
            self._body += data[end + 2 : end + 2 + size]
            self._at = end + 4 + size
        if len(data) - self._at > MAX_HEAD:
            raise ValueError("a chunk of no size")
        return None

    def _read_trailer(self, start: int) -> Answer | None:
        while (end := self._data.find(b"\r\n", start)) >= 0:
            if end == start:
                if len(self._data) > end + 2:
                    raise ValueError("there are bytes behind the answer")
                return Answer(self._status, bytes(self._body))
            start = end + 2
        return None
