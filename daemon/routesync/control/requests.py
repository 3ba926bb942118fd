"""Requests read, and answers written: in words of the models, and in slices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar, get_origin

import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from routesync.control.calls import JSON
from routesync.control.models import Order
from routesync.control.problems import CONTENT_TYPE as PROBLEM_JSON
from routesync.control.problems import Problem, ProblemError

log = structlog.get_logger(__name__)

SLICE_S: Final = 0.005
"""So long rows are made before others have their turn; one costs some 50 us."""
PATIENCE_S: Final = 30.0
"""A caller that takes nothing for so long has lost its answer."""

Q = TypeVar("Q", bound=Order)


def answer(value: BaseModel) -> web.Response:
    """A whole answer."""
    return web.Response(body=value.model_dump_json().encode(), content_type=JSON)


def problem_answer(problem: Problem, headers: dict[str, str] | None = None) -> web.Response:
    """A problem, as an answer."""
    return web.Response(
        status=problem.status,
        body=problem.model_dump_json().encode(),
        content_type=PROBLEM_JSON,
        headers=headers,
    )


def read_query(request: web.Request, model: type[Q]) -> Q:
    """Read the parameters of a call.

    Raises:
        ProblemError: one is unknown, missing, given twice, or not as it should be.
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


async def read_order(request: web.Request, model: type[Q]) -> Q:
    """Read the body of a call; none is an order without particulars.

    Raises:
        ProblemError: no JSON, or not as it should be.
    """
    body = await request.read()
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise ProblemError("bad-request", explain_mistakes(error, model)) from None


def explain_mistakes(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a request, in one line."""
    said = []
    for details in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in details["loc"])
        words = details["msg"].removeprefix("Value error, ")
        if details["type"] == "extra_forbidden":
            words = f"is unknown; known are: {', '.join(model.model_fields)}"
        elif details["type"] == "missing":
            words = "is missing"
        said.append(f"{place}: {words}" if place else words)
    return "; ".join(said)


async def stream_rows(
    request: web.Request, name: str, rows: Iterator[BaseModel | None], others: Callable[[], BaseModel]
) -> web.StreamResponse:
    """Answer with an object that has a long array in it, slice by slice.

    Args:
        request: the call.
        name: the array's name.
        rows: makes its elements; None: one less, after as much work.
        others: makes the other members when all rows are made, in a model that has none of that name.
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
    """An answer that is written piece by piece; whatever breaks it off breaks the connection, for it is not whole."""
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
    try:
        await response.prepare(request)
        yield response
    except (ConnectionError, TimeoutError):  # who asked is gone, or takes nothing any more
        _break_off(request)
    except Exception:
        log.exception("control_answer_broken_off", path=request.path)
        _break_off(request)


def _break_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def write(response: web.StreamResponse, data: bytes) -> None:
    """Write, and wait until there is room for more.

    Raises:
        TimeoutError: the caller takes nothing any more.
    """
    if data:
        async with asyncio.timeout(PATIENCE_S):
            await response.write(data)
