"""What the broker takes, by what comes back: for MQTT 3.1.1.

By 3.1.1 a publish that access rules deny is acknowledged like any other (3.3.5), or the connection is closed. So on
each connection the first message of each topic is subscribed to before it is sent, and what does not come back after
its acknowledgement was denied, or may not be read: that cannot be told apart.

Concurrency: belongs to one connection and its event loop; `close` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from functools import partial

import aiomqtt
import structlog

from routesync.events.session import Session

UNSEEN = "what is sent there does not come back: it may not be written or, by MQTT 3.1.1, not be read"

log = structlog.get_logger("routesync.events")


class Echoes:
    """Sees what comes back over one connection; does nothing by MQTT 5, whose acknowledgements speak for themselves.

    Args:
        session: The connection.
        root: `<root>/<node>`.
        timeout_s: From the acknowledgement until a message should have come back.
        retry_s: A topic that did not come back is tried again after this.
        missing: Told of topics (below the root) that did not come back.
        seen: Told of topics that did.
    """

    def __init__(
        self,
        session: Session,
        *,
        root: str,
        timeout_s: float,
        retry_s: float,
        missing: Callable[[str], None],
        seen: Callable[[str], None],
    ) -> None:
        self._session = session
        self._root = root
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._missing = missing
        self._seen = seen
        self._off = session.is_v5
        self._due: dict[str, float] = {}  # topic to the time of its next trial, in the loop's time
        self._awaited: dict[str, asyncio.TimerHandle | None] = {}  # None: not acknowledged yet
        self._tasks: set[asyncio.Task[None]] = set()

    async def prepare(self, topic: str) -> None:
        """Before a message is sent: see to it that it comes back, when it is time to look.

        Raises:
            aiomqtt.MqttError: the connection has broken.
        """
        if self._off or self._due.get(topic, 0.0) > asyncio.get_running_loop().time():
            return
        self._due[topic] = math.inf
        if await self._session.listen(f"{self._root}/{topic}", partial(self._came, topic)):
            self._awaited[topic] = None
            return
        self._off = True
        log.warning(
            "broker_denials_unseen",
            topic=f"{self._root}/{topic}",
            reason="by MQTT 3.1.1 one has to read them, and it denies that",
            remedy="allow reading, or set mqtt.protocol to 5.0",
        )

    def acknowledged(self, topic: str) -> None:
        """A message was acknowledged: it should come back now."""
        if topic in self._awaited and self._awaited[topic] is None:
            loop = asyncio.get_running_loop()
            self._awaited[topic] = loop.call_later(self._timeout_s, self._missed, topic)

    def _came(self, topic: str) -> None:
        if topic not in self._awaited:
            return
        timer = self._awaited.pop(topic)
        if timer is not None:
            timer.cancel()
        self._leave(topic)
        self._seen(topic)

    def _missed(self, topic: str) -> None:
        del self._awaited[topic]
        self._due[topic] = asyncio.get_running_loop().time() + self._retry_s
        self._leave(topic)
        self._missing(topic)

    def _leave(self, topic: str) -> None:
        task = asyncio.create_task(self._unsubscribe(topic))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unsubscribe(self, topic: str) -> None:
        with contextlib.suppress(aiomqtt.MqttError):  # the connection has broken, which others notice
            await self._session.unsubscribe(f"{self._root}/{topic}")

    def close(self) -> None:
        """Look no more."""
        for timer in self._awaited.values():
            if timer is not None:
                timer.cancel()
        self._awaited.clear()
        for task in self._tasks:
            task.cancel()
