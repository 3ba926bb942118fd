"""Prometheus's own check of rules, expressions and expositions; brought by packaging/bootstrap."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_FETCHED = Path(__file__).parents[2] / ".venv" / "bin"  # also for the Pythons of other environments
_FOUND = shutil.which("promtool") or shutil.which("promtool", path=str(_FETCHED))

needs_promtool = pytest.mark.skipif(_FOUND is None, reason="promtool is missing: run packaging/bootstrap")


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    """Run it; return what it said, fail when it found something wrong."""
    assert _FOUND is not None
    done = subprocess.run([_FOUND, *arguments], input=stdin, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said
