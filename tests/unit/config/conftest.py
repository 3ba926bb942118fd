"""What the tests of the loader share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routesync.config import ConfigError, load
from routesync.names import Names

Complaints = Callable[..., list[str]]


@pytest.fixture
def complaints(tmp_path: Path) -> Complaints:
    """Load this text, and give the problems, without the file's path before each."""

    def print_error(text: str | bytes, **environ: str) -> list[str]:
        file = tmp_path / "it.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as caught:
            load(file, environ, Names())
        lines = str(caught.value).split("\n")
        assert len(lines) == len(caught.value.problems)
        assert all(line.startswith(str(file)) for line in lines)
        return [line.removeprefix(str(file)).lstrip(":") for line in lines]

    return print_error
