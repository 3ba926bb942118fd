"""Prints what the benchmarks recorded."""

from __future__ import annotations

import pytest

from support import bench


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if bench.ROWS:
        terminalreporter.section("figures (also in build/bench.json)")
        terminalreporter.write_line(bench.table(bench.ROWS))
