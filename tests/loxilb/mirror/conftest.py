"""Each test has a stand-in of its own: they starve it and stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.mirror_lab import Lab, laboratory


@pytest.fixture
def lab() -> Iterator[Lab]:
    with laboratory() as made:
        yield made
