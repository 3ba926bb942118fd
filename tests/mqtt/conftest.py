"""A broker for each test; it drops nothing for a listener that lags, so that what is missing is our doing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.broker import Broker, broker


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    with broker(extra="max_queued_messages 0") as made:
        yield made
