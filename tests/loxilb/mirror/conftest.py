"""Each test has a stand-in of its own: they starve it and stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.mirror_lab import Lab, laboratory


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Indirect parameters are arguments of the stand-in."""
    with laboratory(*getattr(request, "param", ())) as made:
        yield made
