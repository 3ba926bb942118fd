from __future__ import annotations

import os
import signal

import pytest

from routesync.service.daemon import signals
from support.waiting import eventually


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, "stop"), (signal.SIGINT, "stop"), (signal.SIGHUP, "reload")],
)
async def test_signals_reach_their_callbacks(number: signal.Signals, expected: str) -> None:
    heard: list[str] = []
    with signals(stop=lambda: heard.append("stop"), reload=lambda: heard.append("reload")):
        os.kill(os.getpid(), number)
        await eventually(lambda: heard == [expected], what=number.name)
