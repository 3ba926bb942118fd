"""The two ways in which loxilb asks for credentials. The header is `Authorization: <token>`, without "Bearer"."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from standin import wire
from standin.faults import HIDDEN_PATH
from standin.requests import RefusedError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Lets a request in or not.

    Args:
        manual_token: the file of `--manualtoken`; it is read for each request, as the original does.
        user_token: what a login with `--userservice` would have given.
    """

    def __init__(self, manual_token: Path | None, user_token: str | None) -> None:
        self._manual_token = manual_token
        self._user_token = user_token

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request without the right token: 500 or 401, after the way that is configured."""
        given = request.headers.get("Authorization", "")
        if request.path.startswith(HIDDEN_PATH):
            return await handler(request)
        if self._manual_token is not None and given != _read_token(self._manual_token):
            raise RefusedError(wire.refusal(500, 500, "invalid token"))
        if self._user_token is not None and given != self._user_token:
            raise RefusedError(wire.refusal(401, 401, "unauthenticated for invalid credentials"))
        return await handler(request)


def _read_token(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
