"""Requests into models, models into responses; long responses in slices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar, get_origin

import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from routesync.control.calls import JSON, PROBLEM_JSON
from routesync.control.models import Problem, ProblemError, RequestModel

log = structlog.get_logger(__name__)

SLICE_S: Final = 0.005
"""How long rows are made before other tasks run; one row costs some 50 us."""
PATIENCE_S: Final = 30.0
"""A client that takes nothing for so long loses its response."""

R = TypeVar("R", bound=RequestModel)


def respond(value: BaseModel) -> web.Response:
    """A short response, whole."""
    return web.Response(body=value.model_dump_json().encode(), content_type=JSON)


def respond_problem(problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    """The response of a call that failed."""
    return web.Response(
        status=problem.status,
        body=problem.model_dump_json().encode(),
        content_type=PROBLEM_JSON,
        headers=headers,
    )


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
        ProblemError: it is no JSON, or not valid.
    """
    body = await request.read()
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


async def stream_rows(
    request: web.Request, name: str, rows: Iterator[BaseModel | None], others: Callable[[], BaseModel]
) -> web.StreamResponse:
    """Respond with an object that contains a long array, slice by slice.

    Args:
        request: the call.
        name: the array's name.
        rows: makes its elements; None: no element, after as much work as for one.
        others: makes the other members after all rows, in a model whose array of that name is empty.
    """
    async with streaming(request, JSON) as response:
        await _write_rows(response, name, rows, others)
    return response


async def _write_rows(
    response: web.StreamResponse,
    name: str,
    rows: Iterator[BaseModel | None],
    others: Callable[[], BaseModel],
) -> None:
    waiting = [b'{"%s":[' % name.encode()]
    separator = b""
    until = time.monotonic() + SLICE_S
    for row in rows:
        if row is not None:
            waiting += (separator, row.model_dump_json().encode())
            separator = b","
        if time.monotonic() > until:
            await write(response, b"".join(waiting))
            waiting.clear()
            await asyncio.sleep(0)
            until = time.monotonic() + SLICE_S
    rest = others().model_dump_json(exclude={name}).encode()
    waiting.append(b"]" + (b"," if len(rest) > 2 else b"") + rest[1:])
    await write(response, b"".join(waiting))
    await response.write_eof()


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
