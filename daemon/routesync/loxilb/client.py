"""One loxilb's REST API, as far as routes go.

No pacing and no retries here: the caller decides when and whether. aiohttp is wrapped so that every failure has one of
the meanings of `routesync.loxilb.errors`, and because of two habits of loxilb: it closes idle connections after 10 s
(so ours are given up after 8), and its token goes into `Authorization` raw, without "Bearer".
"""

from __future__ import annotations

import os
import ssl
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp

from routesync.loxilb import errors, wire
from routesync.measure import REQUEST_S, Histogram
from routesync.route import Address, Prefix, format_address

BASE_PATH: Final = "/netlox/v1"
IDLE_CLOSE_S: Final = 8.0
"""Below loxilb's 10 s, so that a connection is not used at the moment in which it is closed."""
MAX_BODY: Final = 64 * 2**20
"""A table of 400,000 routes; more is not loxilb."""
OK: Final = "ok"
METHODS: Final = ("POST", "DELETE", "GET")

T = TypeVar("T")


class LoxilbClient:
    """Calls to one loxilb. Use as an async context manager; safe for concurrent calls."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = 3,
        request_timeout_s: float = 10,
        token: Callable[[], str | None] = lambda: None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        connector: Callable[[], aiohttp.BaseConnector] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests so far by method and outcome: `ok`, or the `outcome` of the error."""
        self.durations = {method: Histogram(REQUEST_S) for method in METHODS}
        """How long they took, by method."""
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_s, connect=connect_timeout_s)
        self._token = token
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._server_name = server_name
        self._connector = connector or (
            lambda: aiohttp.TCPConnector(limit=16, keepalive_timeout=IDLE_CLOSE_S)
        )
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=self._connector(), timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def add(self, prefix: Prefix, gateway: Address) -> None:
        """Ask for a route. Accepted is not programmed: loxilb ingests it later, from its own kernel.

        Raises:
            LoxilbError: see its subclasses.
        """
        body = {"destinationIPNet": str(prefix), "gateway": format_address(gateway), "protocol": "static"}
        await self._change("POST", "/config/route", body, prefix)

    async def delete(self, prefix: Prefix) -> None:
        """Ask to remove the prefix. loxilb takes whichever route stands first there, ours or not.

        Raises:
            LoxilbError: see its subclasses.
        """
        await self._change("DELETE", f"/config/route/destinationIPNet/{prefix}", None, prefix)

    async def inventory(self) -> wire.Inventory:
        """Read its table. Dangerous while it ingests (it can crash): the caller sees to the quiet.

        Raises:
            LoxilbError: see its subclasses.
        """
        return await self._get("/config/route/all", wire.parse_inventory)

    async def ports(self) -> tuple[wire.Port, ...]:
        """Read the links of its namespace.

        Raises:
            LoxilbError: see its subclasses.
        """
        return await self._get("/config/port/all", wire.parse_ports)

    async def version(self) -> str:
        """Its version, or "before 0.9.8" where it does not know the question.

        Raises:
            LoxilbError: see its subclasses.
        """
        version = await self._get("/version", _read_version, absent="before 0.9.8")
        return version or "unknown"

    async def _change(self, method: str, path: str, body: dict[str, str] | None, prefix: Prefix) -> None:
        try:
            status, answer = await self._call(method, path, body)
            wire.judge(f"{method} {prefix}", status, answer)
        except errors.LoxilbError as error:
            self.requests[method, error.outcome] += 1
            raise
        self.requests[method, OK] += 1

    async def _get(self, path: str, read: Callable[[bytes, str], T], *, absent: T | None = None) -> T:
        """Ask for something and read the answer; `absent`, where it is given, is what a 404 means."""
        request = f"GET {path}"
        try:
            status, body = await self._call("GET", path)
            if status == 404 and absent is not None:
                value = absent
            else:
                self._expect_ok(request, status, body)
                value = read(body, request)
        except errors.LoxilbError as error:
            self.requests["GET", error.outcome] += 1
            raise
        self.requests["GET", OK] += 1
        return value

    @staticmethod
    def _expect_ok(request: str, status: int, body: bytes) -> None:
        if status != 200:
            words = body[:80].decode("ascii", "replace")
            if status in {401, 403} or "invalid token" in words:
                raise errors.AccessDenied(request, status, words)
            raise errors.OutcomeUnknown(f"{request}: HTTP {status}: {words}")

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("LoxilbClient is used outside its `async with`")
        request = f"{method} {path}"
        began = time.perf_counter()
        token = self._token()
        headers = {"Authorization": token} if token else {}
        try:
            async with self._session.request(
                method,
                f"{self.url}{BASE_PATH}{path}",
                json=body,
                headers=headers,
                allow_redirects=False,
                ssl=self._tls,
                server_hostname=self._server_name,
            ) as response:
                answer = bytearray()
                async for part in response.content.iter_any():
                    answer += part
                    if len(answer) > MAX_BODY:
                        raise errors.OutcomeUnknown(f"{request}: the answer is longer than {MAX_BODY} bytes")
                return response.status, bytes(answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise errors.NotSent(f"{request}: cannot connect to {self.url}: {_plain(error)}") from None
        except TimeoutError:
            raise errors.OutcomeUnknown(f"{request}: no answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise errors.OutcomeUnknown(f"{request}: {_plain(error)}") from None
        finally:
            self.durations[method].observe(time.perf_counter() - began)


def _read_version(body: bytes, what: str) -> str:
    answer = wire.decode(body, what)
    version = answer.get("version") if isinstance(answer, dict) else None
    return str(version or "")


def _plain(error: BaseException) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no answer to the connection attempt"
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno  # asyncio's own text repeats the address, and says less
        return os.strerror(code) if code else str(error.os_error)
    return str(error) or type(error).__name__
