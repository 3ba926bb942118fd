"""Plain requests to a stand-in, without the program's own client."""

from __future__ import annotations

from typing import Any

import aiohttp

from support.standin import StandinProcess

GATEWAY = "192.168.10.1"


class Caller:
    """Asks a stand-in over TCP, with a connection for each request."""

    def __init__(
        self, standin: StandinProcess, *, url: str | None = None, timeout_s: float = 5, **session: Any
    ) -> None:
        self._base = f"{url or standin.url}/netlox/v1"
        self._session = session | {"timeout": aiohttp.ClientTimeout(total=timeout_s)}

    async def ask(self, method: str, path: str, **arguments: Any) -> tuple[int, Any]:
        """Returns the status and the body's JSON."""
        async with (
            aiohttp.ClientSession(**self._session) as session,
            session.request(method, self._base + path, **arguments) as response,
        ):
            return response.status, await response.json(content_type=None)

    async def post(self, prefix: str, gateway: str = GATEWAY) -> tuple[int, Any]:
        body = {"destinationIPNet": prefix, "gateway": gateway, "protocol": "static"}
        return await self.ask("POST", "/config/route", json=body)

    async def delete(self, prefix: str) -> tuple[int, Any]:
        return await self.ask("DELETE", f"/config/route/destinationIPNet/{prefix}")

    async def rows(self) -> dict[str, dict[str, Any]]:
        """The table, by prefix."""
        _, body = await self.ask("GET", "/config/route/all")
        return {row["destinationIPNet"]: row for row in body["routeAttr"]}
