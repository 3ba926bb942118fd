"""One loxilb's REST API, as far as routes go.

No rate limit and no retries here: the caller decides when and whether. Every failure has one of the meanings of
`routesync.loxilb.errors`. A habit of loxilb: its token goes into `Authorization` raw, without "Bearer".
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from routesync.config.credentials import client_context, read_secret
from routesync.config.models import TargetSettings
from routesync.config.parsers import SettingError
from routesync.loxilb import errors, schema
from routesync.loxilb.http import Answer, Http
from routesync.measure import REQUEST_S, Histogram
from routesync.route import Address, Prefix, format_address

BASE_PATH: Final = "/netlox/v1"
OK: Final = "ok"
METHODS: Final = ("POST", "DELETE", "GET")
CONNECT_TIMEOUT_S: Final = 3.0
"""A lost SYN is repeated after 1 s, and again at 3 s (RFC 6298): this covers one loss. A longer wait only delays the
report that the target is unreachable."""
REQUEST_TIMEOUT_S: Final = 10.0
"""loxilb answers thousands of writes a second. To give up too early leaves the outcome unknown, at the cost of an
inventory."""
_JSON: Final = "Content-Type: application/json"
_COMMON: Final = ("Accept: application/json", "User-Agent: routesync")
_BEFORE_0_9_8: Final = b'{"version":"before 0.9.8"}'
_MISSING: Final = "no token was sent: set token_file for this target"
_WRONG: Final = "it does not accept the token that was sent: correct token_file, or token, of this target"


class FileToken:
    """The token in a file, read again when the file has changed (a rotated secret, a renewed credential)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """The token that the file has now.

        Raises:
            NotSent: the file cannot be read, or contains no token.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._token = read_secret(self._path, "token")
                self._stamp = stamp
        except SettingError as error:
            raise errors.NotSent(f"token_file {self._path}: it {error.message}; {error.remedy}") from None
        except OSError as error:
            raise errors.NotSent(f"token_file {self._path}: {error.strerror}") from None
        return self._token


class LoxilbClient:
    """Calls to one loxilb. Use as an async context manager; safe for concurrent calls.

    Args:
        url: base of its API, without /netlox/v1.
        connect_timeout_s: how long connecting may take.
        request_timeout_s: how long an answer may take.
        token: what --manualtoken of loxilb wants, asked for each request.
        tls: how to speak TLS, for an https URL.
        server_name: the name that its certificate is to have.
        unix_socket: reach it through this socket instead of TCP.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        token: Callable[[], str | None] = lambda: None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        unix_socket: Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests so far by method and outcome: `ok`, or the `outcome` of the error."""
        self.durations = {method: Histogram(REQUEST_S) for method in METHODS}
        """How long they took, by method."""
        self.is_bound = False
        """Whether changes are sent only to the target that answered last: not if it may have been restarted since."""
        self._token = token
        self._known_token: str | None = None
        self._http = Http(
            self.url,
            tls=tls,
            server_name=server_name,
            unix_socket=unix_socket,
            connect_timeout_s=connect_timeout_s,
            request_timeout_s=request_timeout_s,
        )
        self._credentials: tuple[str, ...] = ()
        self._post_head = self._head("POST", "/config/route", _JSON)

    @classmethod
    def from_settings(cls, target: TargetSettings) -> Self:
        """A client for a target in the configuration.

        Raises:
            SettingError: TLS files that cannot be used.
        """
        fixed = target.token.get_secret_value() if target.token else None
        return cls(
            target.url,
            token=FileToken(Path(target.token_file)) if target.token_file is not None else lambda: fixed,
            tls=client_context(target.tls) if target.tls else None,
            server_name=target.tls.server_name if target.tls else None,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    @property
    def ends(self) -> tuple[Address, Address] | None:
        """Our address and the target's, of a TCP connection that is open; None: none is, or it is a Unix socket."""
        return self._http.ends

    @property
    def unbroken(self) -> bool:
        """Whether since `mark` a connection was open all the time: the target did not restart meanwhile."""
        return self._http.unbroken

    @property
    def may_be_another(self) -> bool:
        """Whether changes are not sent any more, since the target may have been restarted."""
        return self.is_bound and not self.unbroken

    def mark(self) -> None:
        """From now on `unbroken` is false if the target may have restarted."""
        self._http.mark()

    async def add(self, prefix: Prefix, gateway: Address) -> None:
        """Ask for a route. Accepted is not programmed: loxilb ingests it later, from its own kernel.

        Raises:
            LoxilbError: see its subclasses.
        """
        text = f'{{"destinationIPNet":"{prefix}","gateway":"{format_address(gateway)}","protocol":"static"}}'
        await self._change("POST", "", text.encode("ascii"), prefix)

    async def delete(self, prefix: Prefix) -> None:
        """Ask to remove the prefix. loxilb removes the first route that it finds, owned by routesync or not.

        Raises:
            LoxilbError: see its subclasses.
        """
        await self._change("DELETE", f"/config/route/destinationIPNet/{prefix}", b"", prefix)

    async def inventory(self) -> schema.Inventory:
        """Read its table. Dangerous while it ingests routes (it can crash): the caller waits for quiet.

        The answer is parsed in steps of a few milliseconds, and other tasks run in between.

        Raises:
            LoxilbError: see its subclasses.
        """
        request = "GET /config/route/all"
        with self._counting("GET"):
            steps = schema.read_inventory(await self._get(request), request)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    inventory: schema.Inventory = end.value
                    return inventory
                await asyncio.sleep(0)

    async def ports(self) -> tuple[schema.Port, ...]:
        """Read the links of its namespace.

        Raises:
            LoxilbError: see its subclasses.
        """
        request = "GET /config/port/all"
        with self._counting("GET"):
            return schema.parse_ports(await self._get(request), request)

    async def version(self) -> str:
        """Its version, or "before 0.9.8" where it does not know the question.

        Raises:
            LoxilbError: see its subclasses.
        """
        request = "GET /version"
        with self._counting("GET"):
            return schema.parse_version(await self._get(request, absent=_BEFORE_0_9_8), request)

    async def _change(self, method: str, path: str, body: bytes, prefix: Prefix) -> None:
        with self._counting(method):
            self._renew_credentials()
            head = self._head(method, path) if path else self._post_head
            answer = await self._send(method, f"{method} {prefix}", head, body, same_server=self.is_bound)
            if answer not in schema.SUCCESSES:
                try:
                    schema.require_success(f"{method} {prefix}", answer.status, answer.body)
                except errors.AccessDenied as denied:
                    raise self._denied(f"{method} {prefix}", denied.status, denied.words) from None

    async def _get(self, request: str, *, absent: bytes | None = None) -> bytes:
        """Ask for something and return the body; `absent`, where it is given, is what a 404 means."""
        self._renew_credentials()
        answer = await self._send("GET", request, self._head(*request.split(" ", 1)), b"")
        if answer.status == 404 and absent is not None:
            return absent
        if answer.status != 200:
            words = schema.excerpt(answer.body)
            if answer.status in {401, 403} or "invalid token" in words:
                raise self._denied(request, answer.status, words)
            raise errors.OutcomeUnknown(f"{request}: HTTP {answer.status}: {words}")
        return answer.body

    async def _send(
        self, method: str, request: str, head: bytes, body: bytes, *, same_server: bool = False
    ) -> Answer:
        began = time.perf_counter()
        try:
            return await self._http.send(head, body, same_server=same_server)
        except (errors.NotSent, errors.OutcomeUnknown) as error:
            raise type(error)(f"{request}: {error}") from None
        finally:
            self.durations[method].observe(time.perf_counter() - began)

    @contextmanager
    def _counting(self, method: str) -> Iterator[None]:
        try:
            yield
        except errors.LoxilbError as error:
            self.requests[method, error.outcome] += 1
            raise
        self.requests[method, OK] += 1

    def _denied(self, request: str, status: int, words: str) -> errors.AccessDenied:
        remedy = _WRONG if self._credentials else _MISSING
        return errors.AccessDenied(request, status, words, remedy)

    def _head(self, method: str, path: str, *fields: str) -> bytes:
        return self._http.head(method, BASE_PATH + path, *_COMMON, *self._credentials, *fields)

    def _renew_credentials(self) -> None:
        token = self._token()
        if token == self._known_token:
            return
        if token and not (token.isascii() and token.isprintable()):
            raise errors.NotSent("there are characters in the token that no HTTP header can carry")
        self._known_token = token
        self._credentials = (f"Authorization: {token}",) if token else ()
        self._post_head = self._head("POST", "/config/route", _JSON)
