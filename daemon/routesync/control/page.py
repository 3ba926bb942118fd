"""The page over TCP: which requests may have it, its files, and the headers that confine it.

Any browser that reaches the port can open the page, and so can a foreign site that such a browser shows. Three things
keep a foreign site out. It cannot read across origins, since no response permits that (CORS). A name that it controls
cannot be pointed here (DNS rebinding), since a Host that is no address, not localhost and not configured is refused.
What it embeds or requests is refused by `Sec-Fetch-Site` before the daemon does any work for it.
"""

from __future__ import annotations

import ipaddress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from routesync.config.models import ControlSettings
from routesync.config.parsers import shown
from routesync.control.models import ProblemError

DIRECTORY: Final = Path(__file__).parent.parent / "page"
"""The page's files; the same that `routesync fleet --page` writes for a web server."""
_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # ask again each time: after an upgrade no file of the former version is used
}


class _File(NamedTuple):
    body: bytes
    content_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """Read the files, when the page is opened for the first time."""
    found = {}
    for path in DIRECTORY.iterdir():
        if (kind := _TYPES.get(path.suffix)) is not None:
            body = path.read_bytes()
            found[path.name] = _File(body, kind, sha256(body).hexdigest()[:32])
    return found


def admit(request: web.Request, settings: ControlSettings) -> None:
    """Go on only if the page is served, and this request comes from the page itself or from a person.

    Raises:
        HTTPNotFound: the page is not served.
        ProblemError: the request names another host, or another site's page made it.
    """
    if not settings.page:
        raise web.HTTPNotFound
    host = request.headers.get("Host", "")
    name = _name_in(host)
    if not (_is_address(name) or name == "localhost" or name in {it.lower() for it in settings.page_hosts}):
        raise ProblemError(
            "not-permitted",
            f"the request is for host {shown(host)}; use the address of this node, or add the name to page_hosts in "
            "[control]",
        )
    # "none": typed by a person, or from a bookmark. A link on another site may lead to the page, and to no call of it.
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"} and request.path != "/":
        raise ProblemError("not-permitted", "the request comes from a page of another site")


def _name_in(host: str) -> str:
    """The name or address in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def serve_file(request: web.Request) -> web.StreamResponse:
    """Respond with a file of the page; `/` is index.html."""
    file = _files().get(request.match_info.get("name", "index.html"))
    if file is None:
        raise web.HTTPNotFound
    headers = HEADERS | {"ETag": f'"{file.etag}"'}
    if any(tag.value in ("*", file.etag) for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=headers)
