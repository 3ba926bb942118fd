"""The daemon: all rooms wired together.

::

    BestRoutes --elected--> Targets: a Reconciler each --> loxilb
        |    `---reports--> Guarding (mode guard) --> kernel
        |                      |
        `------- events -------'--> EventHub --> Outlets: MQTT, log

Each of them takes a configuration by `apply`, at the start as at a reload. A task that dies is a defect and ends the
daemon (systemd starts it again); a target or a broker that is gone is not: those tasks see to it themselves.
"""

from __future__ import annotations

import asyncio

# asyncio.to_thread imports this at its first use; by then the daemon may not be allowed to read its interpreter
import concurrent.futures.thread  # noqa: F401
import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog

from routesync.best_routes import BestRoutes
from routesync.config import Loaded
from routesync.control import runtime_directory
from routesync.control.context import Context
from routesync.control.ownership import Ownership
from routesync.control.server import ControlServer
from routesync.events.hub import EventHub
from routesync.events.models import ConfigLoaded
from routesync.events.node_status import Status
from routesync.mirror.ledger import Ledger
from routesync.mirror.status import TargetView
from routesync.mirror.targets import Targets
from routesync.service import logs
from routesync.service.guarding import Guarding
from routesync.service.handed import Handed
from routesync.service.metrics import Metrics
from routesync.service.notify import Notifier, feed_watchdog
from routesync.service.outlets import Outlets
from routesync.service.reload import Reloader
from routesync.service.status import StatusBuilder
from routesync.tasks import RESTART, Supervisor

log = structlog.get_logger(__name__)

STATUS_INTERVAL_S: Final = 1.0


class Daemon:
    """One run of routesync, from its loaded configuration to its orderly stop. To be made within the event loop."""

    def __init__(
        self,
        loaded: Loaded,
        ledger: Ledger,
        *,
        state: Path,
        notifier: Notifier,
        handed: Handed,
        stack: AsyncExitStack,
    ) -> None:
        self.ready = asyncio.Event()
        """The kernel's first dump was evaluated, and each target answered, or failed to, once."""
        self._notifier = notifier
        self.supervisor = Supervisor()
        self.hub = EventHub(loaded.settings.node.name)
        self.best_routes = BestRoutes(loaded, self.hub, self.supervisor, sock=handed.kernel)
        self.outlets = Outlets(self.hub, self.supervisor, state, self._build_status)
        stack.push_async_callback(self.outlets.close)
        self.targets = Targets(
            self.best_routes,
            ledger,
            self.hub,
            self.supervisor,
            table=self.outlets.table,
            witness_sockets=handed.witnesses,
            state=state,
        )
        stack.push_async_callback(self.targets.close)
        ledger.when_read(self.targets.load_ledger)
        self.guarding = Guarding(self.best_routes, self.hub, self.supervisor)
        stack.push_async_callback(self.guarding.close)
        self.status = StatusBuilder(loaded.settings, self.best_routes, self.hub, self._views)
        self.status.guard = lambda: self.guarding.guard
        self.status.broker = self.outlets.broker
        self.status.broker_troubles = self.outlets.troubles
        self.metrics = Metrics(
            status=lambda: self.status,
            source=lambda: self.best_routes.source,
            kernel_troubles=lambda: self.best_routes.troubles,
            targets=self._views,
            hub=lambda: self.hub,
            publisher=lambda: self.outlets.publisher,
        )
        self.reloader = Reloader(
            loaded,
            probe=self.best_routes.probe,
            apply=self._apply,
            sink=self.hub,
            notifier=notifier,
            status=self.status.line,
        )
        context = Context(
            best_routes=self.best_routes,
            targets=self.targets,
            hub=self.hub,
            ownership=Ownership(ledger, self.hub, self.best_routes, self.targets),
            loaded=lambda: self.reloader.loaded,
            status=self._build_status,
            reload=self.reloader.reload,
            exposition=self.metrics.exposition,
            ready=self.ready,
        )
        self.control = ControlServer(context, runtime_directory())
        self.status.standing += [
            lambda: [f"ledger: {ledger.trouble}"] if ledger.trouble else (),
            lambda: self.best_routes.troubles,
            lambda: self.reloader.reasons,
            lambda: self.targets.orphans,
            lambda: self.guarding.troubles,
            lambda: self.control.troubles,
        ]

    def _views(self) -> list[TargetView]:
        return self.targets.views() + self.guarding.views()

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises:
            KernelError: the kernel's routes cannot be read as the configuration wants it.
            TaskDied: a part of the daemon ended by itself.
        """
        loaded = self.reloader.loaded
        self.best_routes.probe(loaded)
        start = self.supervisor.start
        with signals(stop=self.supervisor.request_stop, reload=self.reloader.request):
            await self.outlets.apply(loaded)
            self.hub.emit(ConfigLoaded(path=str(loaded.path), digest=loaded.digest))
            await self.targets.apply(loaded)
            await self.guarding.apply(loaded)
            await self.best_routes.start()
            start("control", self.control.run, restart=RESTART)
            start("watchdog", lambda: feed_watchdog(self._notifier, lambda: True))
            start("readiness", self._say_ready)
            try:
                await self.supervisor.wait()
            finally:
                self._notifier.stopping("stopping: routes stay where they are")

    async def _apply(self, loaded: Loaded) -> None:
        log_settings = loaded.settings.log
        secrets = (*self.reloader.loaded.secrets, *loaded.secrets)
        logs.configure(log_settings.level, log_settings.format, secrets=secrets)
        self.status.settings = loaded.settings
        await self.outlets.apply(loaded)
        async with self.targets.gathering():
            await self.best_routes.apply(loaded)
            await self.targets.apply(loaded)
        await self.guarding.apply(loaded)
        self.outlets.refresh()

    async def _say_ready(self) -> None:
        began = time.monotonic()
        await self.best_routes.evaluated.wait()
        await self.targets.contacted()
        await self.guarding.contacted()
        self.ready.set()
        gc.freeze()  # the routes: no collection looks through them again
        self._notifier.ready(self.status.line())
        took_s = round(time.monotonic() - began, 3)
        log.info("ready", **self.status.figures(), took_s=took_s, mode=self.status.settings.mode)
        self.supervisor.start("reload", self.reloader.run)  # not earlier: its end is told by READY=1, too
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            self._notifier.status(self.status.line())

    def _build_status(self) -> Status:
        return self.status.build()  # made after the outlets


@contextmanager
def signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `stop`, and SIGHUP `reload`, for the length of a `with` block."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def run_daemon(loaded: Loaded, *, state: Path, notifier: Notifier, handed: Handed) -> None:
    """Make a daemon and let it run.

    Raises:
        LedgerBusyError: another daemon works on this state directory.
        KernelError: the kernel's routes cannot be read as the configuration wants it.
        TaskDied: a part of the daemon ended by itself.
    """
    async with AsyncExitStack() as stack:
        ledger = await asyncio.to_thread(Ledger, state)
        stack.push_async_callback(ledger.close)
        daemon = Daemon(loaded, ledger, state=state, notifier=notifier, handed=handed, stack=stack)
        gc.collect()
        gc.freeze()  # modules and models: they stay
        await daemon.run()
