"""What holds for all tests: nothing is skipped in CI, and benchmarks run only when they are asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Final

import hypothesis
import pytest

UNIT: Final = Path(__file__).parent / "unit"
"""Tests elsewhere need root; `make test-unit` shows that those here do not, by running them as nobody."""

# A busy machine must not fail a test: no deadlines for single examples.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")
hypothesis.settings.register_profile(
    "fuzz",
    max_examples=20_000,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# Another Python runs the same code: what many examples find, the first has found.
hypothesis.settings.register_profile("short", max_examples=20, deadline=None)
# Each mutant of `make mutation` meets the same examples; the first that fails will do, however large.
hypothesis.settings.register_profile(
    "mutation",
    max_examples=50,
    derandomize=True,
    deadline=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench", action="store_true", help="run the benchmarks too")
    parser.addoption("--page", action="store_true", help="test the page in a browser, too")
    parser.addoption("--models", action="store_true", help="generate models of the events, too")
    parser.addoption("--cluster", action="store_true", help="test a broker of several members, too")
    parser.addoption("--artefacts", action="store_true", help="build and use all artefacts of a release, too")


def pytest_configure(config: pytest.Config) -> None:
    # the daemons of this process serve their control socket there, not at the host's own place
    runtime = os.environ["RUNTIME_DIRECTORY"] = tempfile.mkdtemp(prefix="routesync-run-")
    config.add_cleanup(lambda: shutil.rmtree(runtime, ignore_errors=True))
    config.addinivalue_line("markers", "bench: a measurement; left out without --bench")
    config.addinivalue_line("markers", "page: needs a browser; left out without --page")
    config.addinivalue_line("markers", "models: needs a generator of code, 220 MB; left out without --models")
    config.addinivalue_line("markers", "cluster: needs a clustered broker; left out without --cluster")
    config.addinivalue_line("markers", "artefacts: builds and uses an artefact; left out without --artefacts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(UNIT):
            item.add_marker("root")
        if os.geteuid() != 0 and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
    left_out = [
        name
        for name in ("bench", "artefacts", "models", "page", "cluster")
        if not config.getoption(f"--{name}")
    ]
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        (deselected if any(map(item.get_closest_marker, left_out)) else kept).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
    items[:] = long_ones_first(kept, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def long_ones_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Have each worker begin with some of the longest tests, so that none is left alone with one at the end.

    With `--dist worksteal` each worker gets an equal part of the list, and the parts follow each other.
    """
    longest = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    ordered: list[pytest.Item] = []
    for number in range(workers):
        part = longest[number::workers]
        size = (len(items) - len(ordered)) // (workers - number)
        ordered += part + list(islice(others, max(0, size - len(part))))
    return [*ordered, *others]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, a test that did not run has not passed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped in CI, in {call.when}: {reason}"
    return report
