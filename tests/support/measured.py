"""`make coverage` in processes that are not started with the environment of the test.

A process is measured when it finds COVERAGE_PROCESS_CONFIG, and has written its data when it ends by itself or by
SIGTERM. What SIGKILL ends is not counted.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_VARIABLE: Final = "COVERAGE_PROCESS_CONFIG"
MEASURED: Final = {name: os.environ[name] for name in (_VARIABLE,) if name in os.environ}
"""To be added to an environment; empty without `make coverage`."""


def measure_machine(root: Path) -> Path | None:
    """Have each process of a machine measured, if its Python is of our version.

    Returns:
        The folder that the machine must see, and the service be allowed to write to; None: nothing is measured.
    """
    packages = root / "usr/lib/python3/dist-packages"
    found = find_spec("coverage")
    if not MEASURED or not (root / f"usr/bin/python3.{sys.version_info.minor}").exists():
        return None
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, packages / "coverage")
    start = (
        f"os.environ[{_VARIABLE!r}] = {MEASURED[_VARIABLE]!r}; import coverage; coverage.process_startup()"
    )
    (packages / "coverage.pth").write_text(f"import os; {start}\n")
    return Path(os.environ["COVERAGE_FILE"]).parent
