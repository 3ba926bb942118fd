"""One request: its entry in the table of calls, the client's permission, its parameters as a model, the response.

Long responses are written in slices.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pwd
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar, get_origin, get_type_hints

import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from routesync.characters import whole_json
from routesync.control.models import Problem, ProblemError, RequestModel
from routesync.slices import SLICE_S

log = structlog.get_logger(__name__)

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"
OPENMETRICS: Final = "application/openmetrics-text"
PROBLEM_JSON: Final = "application/problem+json"

LARGEST_BODY: Final = 4 * 2**20
"""Bytes: a request may name each of a target's routes."""
PATIENCE_S: Final = 30.0
"""A client that takes nothing, or sends no whole request, for so long loses its connection."""

OverTcp = Literal["never", "page", "always"]
"""Whether the TCP listener serves a call; `page`: only with `[control] page`."""
R = TypeVar("R", bound=RequestModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
M = TypeVar("M", bound=Callable[..., Awaitable[BaseModel | web.StreamResponse]])


# -- the table of calls --------------------------------------------------------------------------------------


class Call(NamedTuple):
    """One call, and the method that carries it out.

    `answer` is a model, or a media type. `problems` are names in `PROBLEMS`, in addition to those that follow from the
    rest.
    """

    method: Literal["GET", "POST"]
    path: str
    carry_out: Callable[..., Awaitable[BaseModel | web.StreamResponse]]
    parameters: dict[str, type]
    answer: type[BaseModel] | str
    problems: tuple[str, ...]
    over_tcp: OverTcp

    @property
    def name(self) -> str:
        return self.carry_out.__name__

    @property
    def documentation(self) -> tuple[str, str]:
        """A summary and a description."""
        summary, _, description = (inspect.getdoc(self.carry_out) or "").partition("\n\n")
        return " ".join(summary.split()).removesuffix("."), " ".join(description.split())

    @property
    def takes(self) -> type[RequestModel] | None:
        """The model of the parameters of a GET, or of the body of a POST."""
        return next((it for it in self.parameters.values() if issubclass(it, RequestModel)), None)

    @property
    def changes(self) -> bool:
        """Whether only root and the daemon's user may make it."""
        return self.method == "POST"

    @property
    def failures(self) -> list[str]:
        """Names of all problems that the call can end in."""
        return [
            *(["bad-request"] if self.takes else []),
            *(["too-large"] if self.takes and self.changes else []),
            *(["not-permitted"] if self.changes else []),
            *self.problems,
            "internal",
        ]

    async def handle(self, api: object, request: web.Request) -> web.StreamResponse:
        """Check the permission, read what the call takes, carry it out and respond."""
        logged = self._logged(require_permission(request, self.name)) if self.changes else nullcontext()
        arguments: dict[str, object] = {}
        for name, kind in self.parameters.items():
            if not issubclass(kind, RequestModel):
                arguments[name] = request
            elif self.changes:
                arguments[name] = await read_body(request, kind)
            else:
                arguments[name] = read_query(request, kind)
        with logged:
            answer = await self.carry_out(api, **arguments)
        return respond(answer) if isinstance(answer, BaseModel) else answer

    @contextmanager
    def _logged(self, peer: Peer) -> Iterator[None]:
        """Log who made the call and what came of it: one that fails may have changed something, too."""
        outcome = "broken off"  # the client is gone, or the daemon stops
        try:
            yield
            outcome = "done"
        except Exception as error:
            outcome = error.problem.name if isinstance(error, ProblemError) else "internal"
            raise
        finally:
            log.info("control_call", call=self.name, peer=str(peer), outcome=outcome)


class CallTable(list[Call]):
    """The calls that the methods of one class carry out; its decorators add them.

    The docstring of a method describes its call. A method takes nothing, the `RequestModel` of the call, the request
    itself, or both; it returns the model of the answer, or a response that it has written itself (then its decorator
    names the model or the media type).
    """

    def read(
        self,
        path: str,
        *problems: str,
        answer: type[BaseModel] | str | None = None,
        over_tcp: OverTcp = "never",
    ) -> Callable[[M], M]:
        """A call that changes nothing."""

        def add(method: M) -> M:
            hints = get_type_hints(method)
            returned = hints.pop("return")
            self.append(Call("GET", path, method, hints, answer or returned, problems, over_tcp))
            return method

        return add

    def change(self, path: str, *problems: str) -> Callable[[M], M]:
        """A call that changes something."""

        def add(method: M) -> M:
            hints = get_type_hints(method)
            returned = hints.pop("return")
            self.append(Call("POST", path, method, hints, returned, problems, "never"))
            return method

        return add


# -- permissions ---------------------------------------------------------------------------------------------

_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{_user(self.uid)}, process {self.pid}"


def peer_of(transport: asyncio.BaseTransport | None) -> Peer | None:
    """The peer of a connection (SO_PEERCRED); None: not over a Unix socket, or the connection is gone."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    return Peer(
        *_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


def may_change(peer: Peer | None, own_uid: int) -> bool:
    """Whether this peer may change anything: root may, and the daemon's own user.

    In a user namespace (PrivateUsers= of systemd) every unmapped user has the same uid, the overflow uid. It identifies
    no user, so it gives no permission, even if the daemon has it too.
    """
    return peer is not None and (peer.uid == 0 or (peer.uid == own_uid and peer.uid != overflow_uid()))


def overflow_uid() -> int:
    """The uid of all users that have none in this user namespace."""
    try:
        return int(_OVERFLOW.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534


def _user(uid: int) -> str:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "unknown"
    return f"uid {uid} ({name})"


def require_permission(request: web.Request, name: str) -> Peer:
    """Go on only if the client may change something; return who it is.

    Raises:
        ProblemError: it may not.
    """
    peer, own = peer_of(request.transport), os.geteuid()
    if peer is not None and may_change(peer, own):
        return peer
    log.warning("control_refused", call=name, peer=str(peer))
    permitted = "root" if own == 0 else f"root and {_user(own)}, which the daemon runs as,"
    raise ProblemError("not-permitted", f"only {permitted} may {name}; you are {peer}")


# -- what goes in --------------------------------------------------------------------------------------------


def read_query(request: web.Request, model: type[R]) -> R:
    """Read the parameters of a call.

    Raises:
        ProblemError: one is unknown, missing, given twice, or not valid.
    """
    given: dict[str, object] = {}
    for name in dict.fromkeys(request.query):
        values = request.query.getall(name)
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is tuple:
            given[name] = tuple(values)
        elif len(values) == 1:
            given[name] = values[0]
        else:
            raise ProblemError("bad-request", f"{name} is given {len(values)} times; once is enough")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ProblemError("bad-request", explain_mistakes(error, model)) from None


async def read_body(request: web.Request, model: type[R]) -> R:
    """Read the body of a call; an empty one is `{}`.

    Raises:
        ProblemError: it does not come, is not encoded as its headers say, is no JSON, or not valid.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            body = await request.read()
    except TimeoutError:
        raise ProblemError("bad-request", f"the body did not come whole within {PATIENCE_S:.0f} s") from None
    except web.RequestPayloadError:
        encoding = request.headers.get("Content-Encoding", "as it is sent")
        raise ProblemError("bad-request", f"the body cannot be read as {encoding}") from None
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise ProblemError("bad-request", explain_mistakes(error, model)) from None


def explain_mistakes(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a request, in one line."""
    mistakes = []
    for details in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in details["loc"])
        text = details["msg"].removeprefix("Value error, ")
        if details["type"] == "extra_forbidden":
            text = f"is unknown; known are: {', '.join(model.model_fields)}"
        elif details["type"] == "missing":
            text = "is missing"
        mistakes.append(f"{place}: {text}" if place else text)
    return "; ".join(mistakes)


# -- what comes out ------------------------------------------------------------------------------------------


def _written(value: BaseModel, without: set[str] | None = None) -> bytes:
    try:
        return value.model_dump_json(exclude=without).encode()
    except PydanticSerializationError:  # half a surrogate pair, as in the name of a file that is not UTF-8
        return whole_json(value.model_dump(mode="json", exclude=without)).encode()


def respond(value: BaseModel) -> web.Response:
    """A short response, whole."""
    return web.Response(body=_written(value), content_type=JSON)


def respond_problem(problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    """The response of a call that failed."""
    return web.Response(
        status=problem.status,
        body=_written(problem),
        content_type=PROBLEM_JSON,
        headers=headers,
    )


async def with_problems(request: web.Request, handler: Handler, elsewhere: str) -> web.StreamResponse:
    """Respond to every failure with a problem. `elsewhere`: where to look for calls that do exist."""
    try:
        return await handler(request)
    except ProblemError as error:
        return respond_problem(error.problem)
    except web.HTTPNotFound:
        return respond_problem(Problem.of("not-found", f"there is no {request.path}; {elsewhere}"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.path} takes {allowed}, not {request.method}"
        return respond_problem(Problem.of("wrong-method", detail), {"Allow": allowed})
    except web.HTTPRequestEntityTooLarge:
        return respond_problem(Problem.of("too-large", f"a request body has at most {LARGEST_BODY} bytes"))
    except web.HTTPException as error:
        return respond_problem(Problem.of("bad-request", error.reason))
    except (ConnectionError, TimeoutError):  # the client is gone, or takes nothing: no client to answer
        raise
    except Exception as error:
        log.exception("control_call_failed", path=request.path)
        return respond_problem(Problem.of("internal", f"{type(error).__name__}; see the daemon's log"))


async def stream_rows(
    request: web.Request, name: str, rows: Iterable[BaseModel | None], others: Callable[[], BaseModel]
) -> web.StreamResponse:
    """Respond with an object that contains a long array, slice by slice.

    Args:
        request: the call.
        name: the array's name.
        rows: makes its elements; None: no element, after as much work as for one.
        others: makes the other members after all rows, in a model whose array of that name is empty.
    """
    async with streaming(request, JSON) as response:
        waiting = [b'{"%s":[' % name.encode()]
        separator = b""
        until = time.monotonic() + SLICE_S
        for row in rows:
            if row is not None:
                waiting += (separator, _written(row))
                separator = b","
            if time.monotonic() > until:
                await write(response, b"".join(waiting))
                waiting.clear()
                await asyncio.sleep(0)
                until = time.monotonic() + SLICE_S
        rest = _written(others(), {name})
        waiting.append(b"]" + (b"," if len(rest) > 2 else b"") + rest[1:])
        await write(response, b"".join(waiting))
        async with asyncio.timeout(PATIENCE_S):
            await response.write_eof()  # waits for the client, too: write() left up to 64 KiB unsent
    return response


@asynccontextmanager
async def streaming(request: web.Request, content_type: str) -> AsyncIterator[web.StreamResponse]:
    """A response that is written piece by piece.

    An error in the middle aborts the connection: the status was sent, so only this shows that something is missing.
    """
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
    try:
        await response.prepare(request)
        yield response
    except (ConnectionError, TimeoutError):  # the client is gone, or takes nothing any more
        _abort(request)
    except Exception:
        log.exception("control_answer_broken_off", path=request.path)
        _abort(request)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def write(response: web.StreamResponse, data: bytes) -> None:
    """Write, and wait until there is room for more.

    Raises:
        TimeoutError: the client takes nothing any more.
    """
    if data:
        async with asyncio.timeout(PATIENCE_S):
            await response.write(data)
