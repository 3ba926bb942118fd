"""The calls that change something. Who may make them was looked at before."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from pydantic import ValidationError

from routesync.control import models
from routesync.control.problems import ProblemError
from routesync.control.requests import answer, explain_mistakes, read_order
from routesync.control.subject import Subject, chosen, in_force, require_ready
from routesync.mirror.reconciler import Reconciler
from routesync.settings import TargetSettings


class Orders:
    """The calls that change something, by their names in the table of calls."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    async def _chosen(self, request: web.Request) -> Sequence[Reconciler]:
        return chosen(self._subject, (await read_order(request, models.TargetOrder)).target)

    async def resync(self, request: web.Request) -> web.StreamResponse:
        """Dump the kernel's table again, and verify every route at the targets."""
        order = await read_order(request, models.ResyncOrder)
        targets = chosen(self._subject, order.target)
        self._subject.source().request_resync("command")
        for target in targets:
            target.verify(force=order.force)
        done = {
            it.name: "paused: verified after that" if it.paused else "verification ordered" for it in targets
        }
        return answer(models.Done(targets=done))

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

    async def adopt(self, request: web.Request) -> web.StreamResponse:
        """Take ownership of routes."""
        order = await read_order(request, models.AdoptOrder)
        (target,) = chosen(self._subject, order.target)
        return answer(models.OwnRoutes(target=order.target, routes=target.adopt(order.prefixes)))

    async def repair(self, request: web.Request) -> web.StreamResponse:
        """Delete and add again what a target does not forward."""
        order = await read_order(request, models.RepairOrder)
        (target,) = chosen(self._subject, order.target)
        return answer(models.OwnRoutes(target=order.target, routes=target.repair(order.prefixes)))

    async def forget(self, request: web.Request) -> web.StreamResponse:
        """Give up ownership of routes."""
        order = await read_order(request, models.ForgetOrder)
        for target in self._subject.targets():
            if target.name == order.target and order.prefixes:
                return answer(models.OwnRoutes(target=order.target, routes=target.forget(order.prefixes)))
        self._require_left_alone(order.target, "forget")
        forgotten = await self._subject.ownership.forget(order.target, order.prefixes)
        return answer(models.OwnRoutes(target=order.target, routes=forgotten))

    async def withdraw(self, request: web.Request) -> web.StreamResponse:
        """Take all of our routes out of a target."""
        order = await read_order(request, models.WithdrawOrder)
        self._require_left_alone(order.target, "withdraw from")
        done = await self._subject.ownership.withdraw(self._settings(order))
        if done.left:
            left = f"{done.left} route{'s' if done.left > 1 else ''} left, and still owned"
            detail = f"target {order.target}: {done.error}; {left}"
            raise ProblemError("unavailable", detail)
        return answer(models.OwnRoutes(target=order.target, routes=done.withdrawn))

    def _require_left_alone(self, target: str, action: str) -> None:
        """Go on only with a target that has routes of ours and is not mirrored into."""
        if any(it.name == target for it in self._subject.targets()):
            detail = (
                f"target {target} is mirrored into: its routes would be added again at once; to {action} it, take it "
                "out of the configuration and `routesync reload` first"
            )
            if action == "forget":
                detail += "; routes that are left behind can be forgotten one by one, with --prefix"
            raise ProblemError("conflict", detail)
        owned = self._subject.ownership.owned()
        if target not in owned:
            known = ", ".join(f"{name} ({count})" for name, count in sorted(owned.items())) or "none"
            raise ProblemError(
                "unknown-target", f"no route in {target} is owned; targets with owned routes: {known}"
            )

    def _settings(self, order: models.WithdrawOrder) -> TargetSettings:
        """How the target is reached: as it is configured, or at its URL."""
        for settings in self._subject.loaded().settings.targets:
            if settings.name == order.target:
                return settings
        if order.url is None:
            detail = f"target {order.target} is not configured; say where it is: --url http://…:11111"
            raise ProblemError("bad-request", detail)
        try:
            return TargetSettings.model_validate({"name": order.target, "url": order.url})
        except ValidationError as error:
            raise ProblemError("bad-request", explain_mistakes(error, TargetSettings)) from None

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
