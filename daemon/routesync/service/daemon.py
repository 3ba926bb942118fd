"""The daemon: creates all parts, connects them, and reloads their configuration.

::

    BestRoutes -----------> Targets: a Reconciler each --> loxilb
        |    `---on_report--> Guarding (mode guard) --> kernel
        |                        |
        `------- events ---------'--> EventHub --> EventSinks: MQTT, log

Each part takes a configuration by `apply`, at the start as at a reload. A task that dies is a defect and ends the
daemon (systemd starts it again); a target or a broker that is gone is not: their tasks try again by themselves.

Reload: the whole file is validated, then applied, or rejected. If it is rejected the running configuration stays; the
faults are logged with the lines of `routesync check`, published as an event, and shown in the status until a valid file
is loaded. A key that cannot change while the daemon runs (`node.name`, which is part of every topic) keeps its value,
and the status reports it. One task performs all reloads, one after the other.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog

from routesync.best_routes import BestRoutes
from routesync.config import ConfigError, Loaded, load
from routesync.config.parsers import SettingError
from routesync.config.problems import line_of, problem_at
from routesync.config.resolve import Resolver
from routesync.config.sources import digest_now
from routesync.control import runtime_directory
from routesync.control.context import Context
from routesync.control.ownership import Ownership
from routesync.control.server import ControlServer
from routesync.events.hub import EventHub
from routesync.events.models import ConfigLoaded, ConfigRejected
from routesync.events.node_status import Status
from routesync.kernel import KernelError
from routesync.mirror.ledger import Ledger
from routesync.mirror.targets import Targets
from routesync.service import logs
from routesync.service.event_sinks import EventSinks
from routesync.service.guarding import Guarding
from routesync.service.kernel_table import KernelTable
from routesync.service.metrics import Metrics
from routesync.service.status import StatusBuilder
from routesync.service.systemd import ActivatedSockets, Notifier
from routesync.tasks import RESTART, Supervisor
from routesync.threads import ThreadPerCall

log = structlog.get_logger(__name__)

STATUS_INTERVAL_S: Final = 1.0
COLLECTING: Final = gc.get_threshold()
STARTING: Final = (*COLLECTING[:2], 10_000)
"""Collects no old objects: what a start builds stays, and to look through 100,000 routes takes 40 ms and more."""
WATCH_INTERVAL_S: Final = 2.0
NAMES_INTERVAL_S: Final = 10.0
NODE_NAME_IS_FIXED: Final = "configuration: node.name takes effect when the daemon is restarted"


class Daemon:
    """One run of routesync, from its loaded configuration to its orderly stop. To be made within the event loop."""

    def __init__(
        self,
        loaded: Loaded,
        ledger: Ledger,
        *,
        state: Path,
        notifier: Notifier,
        sockets: ActivatedSockets,
        stack: AsyncExitStack,
    ) -> None:
        self._loaded = loaded
        self._tried: str | None = loaded.digest
        """The digest of the files at the last reload, which may have been rejected; None: one could not be read."""
        self._written = loaded.settings.targets
        """The targets as they are in the file: names with `all_addresses` are not looked up."""
        self._resolver = Resolver()
        self._unresolved: Sequence[str] = ()
        """Names that cannot be looked up, one line each."""
        self._applying = asyncio.Lock()
        self._config_problems: Sequence[str] = ()
        """Why the daemon does not run with its file as it is, one line each."""
        self._reload_requested = asyncio.Event()
        self._reload_waiters: list[asyncio.Future[Sequence[str]]] = []
        self._ready = asyncio.Event()
        """The kernel's first dump was evaluated, and each target answered, or failed to, once."""
        self._notifier = notifier
        self._ledger = ledger
        self._supervisor = Supervisor()
        self._hub = EventHub(loaded.settings.node.name)
        self._best_routes = BestRoutes(loaded, self._hub, self._supervisor, sock=sockets.kernel)
        self._sinks = EventSinks(self._hub, self._supervisor, state, self._build_status)
        self._kernel_table = KernelTable(self._best_routes, self._hub, self._sinks.tables)
        stack.push_async_callback(self._sinks.close)
        self._targets = Targets(
            self._best_routes,
            ledger,
            self._hub,
            self._supervisor,
            table=self._sinks.tables,
            peers=self._sinks.peers,
            witness_sockets=sockets.witnesses,
            state=state,
        )
        stack.push_async_callback(self._targets.close)
        ledger.when_read(self._targets.load_ledger)
        self._guarding = Guarding(self._best_routes, self._hub, self._supervisor)
        stack.push_async_callback(self._guarding.close)
        self._status = StatusBuilder(
            self._hub,
            self._best_routes,
            self._targets,
            self._guarding,
            self._sinks,
            problems=self._problems,
            settings=loaded.settings,
        )
        self._control = ControlServer(
            Context(
                best_routes=self._best_routes,
                targets=self._targets,
                hub=self._hub,
                ownership=Ownership(ledger, self._hub, self._best_routes, self._targets),
                loaded=lambda: self._loaded,
                status=self._status.build,
                reload=self._request_reload,
                exposition=Metrics(self._status, self._best_routes, self._hub, self._sinks).exposition,
                ready=self._ready,
            ),
            runtime_directory(),
        )

    def _build_status(self) -> Status:
        return self._status.build()  # made after the sinks

    def _problems(self) -> list[str]:
        """Why the daemon is degraded beside its targets and its broker, one line each."""
        return [
            *([f"ledger: {self._ledger.trouble}"] if self._ledger.trouble else ()),
            *self._best_routes.troubles,
            *self._config_problems,
            *self._unresolved,
            *self._targets.orphans,
            *self._targets.doubled,
            *self._guarding.troubles,
            *self._control.troubles,
        ]

    # -- start and stop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises:
            KernelError: the kernel's routes cannot be read as the configuration wants it.
            TaskDied: a part of the daemon ended by itself.
        """
        loaded, start = self._loaded, self._supervisor.start
        _log_warnings(loaded)
        self._best_routes.probe(loaded)
        await self._resolver.look_up(self._written)
        loaded = self._loaded = self._resolve(loaded)
        with signals(stop=self._supervisor.request_stop, reload=self._reload_requested.set):
            await self._kernel_table.apply(loaded)
            await self._sinks.apply(loaded)
            self._hub.emit(ConfigLoaded(path=str(loaded.path), digest=loaded.digest))
            await self._targets.apply(loaded)
            await self._guarding.apply(loaded)
            await self._best_routes.start()
            start("control", self._control.run, restart=RESTART)
            start("watchdog", self._notifier.feed_watchdog)
            start("readiness", self._report_ready)
            try:
                await self._supervisor.wait()
            finally:
                self._notifier.stopping("stopping: routes stay where they are")

    async def _report_ready(self) -> None:
        began = time.monotonic()
        await self._best_routes.evaluated.wait()
        await self._targets.contacted()
        await self._guarding.contacted()
        self._ready.set()
        gc.freeze()  # the routes: no collection looks through them again
        gc.set_threshold(*COLLECTING)
        self._notifier.ready(self._status.line())
        took_s = round(time.monotonic() - began, 3)
        log.info("ready", **self._status.figures(), took_s=took_s, mode=self._loaded.settings.mode)
        self._supervisor.start(
            "reload", self._reload_on_request
        )  # not earlier: a reload ends with READY=1, too
        self._supervisor.start("file", self._reload_on_change)
        self._supervisor.start("names", self._follow_names)
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            self._notifier.status(self._status.line())

    # -- reload --------------------------------------------------------------------------------------------------------

    async def _request_reload(self) -> Sequence[str]:
        """Reload; return the faults of the file, one line each: without any, it is active."""
        done: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()
        self._reload_waiters.append(done)
        self._reload_requested.set()
        return await done

    async def _reload_on_request(self) -> None:
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            waiters, self._reload_waiters = self._reload_waiters, []
            self._notifier.reloading("reading the configuration again")
            async with self._applying:
                faults = await self._reload()
            self._notifier.ready(self._status.line())
            for done in waiters:
                if not done.done():
                    done.set_result(faults)

    async def _reload_on_change(self) -> None:
        """Reload when the content of the file or a drop-in has changed, and stays so: it may be half written."""
        before: str | None = None
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if not self._loaded.settings.reload_on_change:
                continue
            found = await asyncio.to_thread(digest_now, self._loaded.path)
            if found is not None and found == before and found != self._tried:
                await self._request_reload()
            before = found

    async def _reload(self) -> Sequence[str]:
        path = self._loaded.path
        self._tried = await asyncio.to_thread(digest_now, path)  # before it is loaded: no change is missed
        try:
            loaded = await asyncio.to_thread(load, path)
        except ConfigError as error:
            return self._reject(tuple(map(str, error.problems)))
        try:
            self._best_routes.probe(loaded)
        except KernelError as error:
            place = line_of(loaded.lines, ("kernel", "netns")) or path
            return self._reject((str(problem_at(place, "[kernel], key netns", SettingError(str(error)))),))
        _log_warnings(loaded)
        self._config_problems = ()
        if (name := self._loaded.settings.node.name) != loaded.settings.node.name:
            node = loaded.settings.node.model_copy(update={"name": name})
            settings = loaded.settings.model_copy(update={"node": node})
            loaded = loaded._replace(settings=settings)
            self._config_problems = (NODE_NAME_IS_FIXED,)
            log.warning("config_partly_applied", reason=NODE_NAME_IS_FIXED)
        self._written = loaded.settings.targets
        await self._resolver.look_up(self._written)
        loaded = self._resolve(loaded)
        await self._apply(loaded)
        self._loaded = loaded
        log.info("config_reloaded", path=str(path), digest=loaded.digest)
        self._hub.emit(ConfigLoaded(path=str(path), digest=loaded.digest))
        return ()

    def _resolve(self, loaded: Loaded) -> Loaded:
        """The configuration with a target for each known address of those names that mean several."""
        written = loaded.settings.model_copy(update={"targets": self._written})
        settings, troubles = self._resolver.resolved(written)
        self._unresolved = tuple(map(str, troubles))
        self._targets.unresolved = tuple(it.target for it in troubles if not it.kept)
        return loaded._replace(settings=settings)

    async def _follow_names(self) -> None:
        """Apply what changes of the addresses of names."""
        while True:
            await asyncio.sleep(NAMES_INTERVAL_S)
            await self._resolver.look_up(self._written)  # no reload waits for it
            async with self._applying:
                loaded = self._resolve(self._loaded)
                if loaded.settings.targets != self._loaded.settings.targets:
                    log.info("targets_resolved", targets=[target.url for target in loaded.settings.targets])
                    await self._apply(loaded)
                    self._loaded = loaded

    def _reject(self, faults: tuple[str, ...]) -> Sequence[str]:
        for fault in faults:
            log.error("config_rejected", problem=fault, consequence="the running configuration stays")
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        self._config_problems = (f"configuration rejected, the running one stays: {faults[0]}{more}",)
        self._hub.emit(ConfigRejected(path=str(self._loaded.path), errors=faults))
        return faults

    async def _apply(self, loaded: Loaded) -> None:
        log_settings = loaded.settings.log
        secrets = (*self._loaded.secrets, *loaded.secrets)
        logs.configure(log_settings.level, log_settings.format, secrets=secrets)
        self._status.settings = loaded.settings
        await self._sinks.apply(loaded)
        async with self._targets.gathering():
            await self._best_routes.apply(loaded)
            await self._targets.apply(loaded)
        await self._kernel_table.apply(loaded)
        await self._guarding.apply(loaded)
        if self._sinks.publisher is not None:
            self._sinks.publisher.refresh()


def _log_warnings(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        log.warning("config_warning", warning=warning)


@contextmanager
def signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `stop`, and SIGHUP `reload`, for the length of a `with` block."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # what came during the start, comes now
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def run_daemon(loaded: Loaded, *, state: Path, notifier: Notifier, sockets: ActivatedSockets) -> None:
    """Make a daemon and let it run.

    Raises:
        LedgerBusyError: another daemon works on this state directory.
        KernelError: the kernel's routes cannot be read as the configuration wants it.
        TaskDied: a part of the daemon ended by itself.
    """
    gc.set_threshold(*STARTING)
    asyncio.get_running_loop().set_default_executor(ThreadPerCall())
    async with AsyncExitStack() as stack:
        ledger = await asyncio.to_thread(Ledger, state)
        stack.push_async_callback(ledger.close)
        await Daemon(loaded, ledger, state=state, notifier=notifier, sockets=sockets, stack=stack).run()
