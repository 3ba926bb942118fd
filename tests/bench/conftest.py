"""Sets up the process as the daemon does, and prints what the benchmarks recorded."""

from __future__ import annotations

import gc

import pytest

from routesync.service import logs
from support import bench


@pytest.fixture(autouse=True)
def _as_the_daemon() -> None:
    """Log as by default (single routes at debug, which is not written), and look for no garbage in what was before."""
    logs.configure()
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if bench.ROWS:
        terminalreporter.section("figures (also in build/bench.json)")
        terminalreporter.write_line(bench.table(bench.ROWS))
