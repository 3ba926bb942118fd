"""`routesync run`: from a file to a running daemon, and errors of a user's making to one line each."""

from __future__ import annotations

import asyncio
from pathlib import Path

from routesync.cli.check import EX_CONFIG, load_or_explain
from routesync.cli.output import print_error
from routesync.kernel import KernelError
from routesync.mirror.ledger import LedgerBusyError
from routesync.service import logs
from routesync.service.daemon import run_daemon
from routesync.service.handed import take_handed
from routesync.service.notify import Notifier
from routesync.tasks import TaskDied


def run(config: Path, state: Path) -> int:
    """Run until a signal ends it; return the exit status."""
    loaded = load_or_explain(config)
    if loaded is None:
        return EX_CONFIG
    settings = loaded.settings
    logs.configure(settings.log.level, settings.log.format, secrets=loaded.secrets)
    try:
        asyncio.run(
            run_daemon(loaded, state=state, notifier=Notifier.from_environment(), handed=take_handed())
        )
    except LedgerBusyError as error:
        print_error(str(error))
        return EX_CONFIG
    except (KernelError, TaskDied) as error:
        print_error(str(error))
        return 1
    return 0
