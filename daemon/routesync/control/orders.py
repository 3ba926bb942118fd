"""The calls that change something. Who may make them was looked at before."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from routesync.control import models
from routesync.control.problems import ProblemError
from routesync.control.requests import answer, read_order
from routesync.control.subject import Subject, chosen, in_force, require_ready
from routesync.mirror.reconciler import Reconciler


class Orders:
    """The calls that change something, by their names in the table of calls."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    async def _chosen(self, request: web.Request) -> Sequence[Reconciler]:
        return chosen(self._subject, (await read_order(request, models.TargetOrder)).target)

    async def resync(self, request: web.Request) -> web.StreamResponse:
        """Read and prove everything anew."""
        targets = await self._chosen(request)
        self._subject.source().request_resync("command")
        for target in targets:
            target.order_sweep()
        said = {it.name: "paused, proved after that" if it.paused else "sweep ordered" for it in targets}
        return answer(models.Done(targets=said))

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Let a mass withdrawal go."""
        targets = await self._chosen(request)
        return answer(models.Released(released={target.name: target.release() for target in targets}))

    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Hold targets as they are."""
        targets = await self._chosen(request)
        return answer(
            models.Done(targets={it.name: _said("paused", it.paused, it.pause()) for it in targets})
        )

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """End a pause."""
        targets = await self._chosen(request)
        return answer(
            models.Done(targets={it.name: _said("resumed", not it.paused, it.resume()) for it in targets})
        )

    async def reload(self, _request: web.Request) -> web.StreamResponse:
        """Take up the configuration file anew."""
        require_ready(self._subject)
        problems = await self._subject.reload()
        if problems:
            raise ProblemError("rejected", "\n".join(problems))
        return answer(models.Reloaded(config=in_force(self._subject)))


def _said(done: str, already: bool, trouble: str | None) -> str:  # noqa: FBT001
    if already:
        return f"{done} already"
    return f"{done}, but not over a restart: {trouble}" if trouble else done
