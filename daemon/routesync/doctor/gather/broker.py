"""Tries the broker: does it let us in, and may we publish?

The probe has to be harmless. While a daemon runs, nothing is published, and its own retained status is read instead.
While none runs, the status `offline` is published, not retained: subscribers hear once more what is true, and nothing
stays behind. If the retained status says that the node is online all the same, another one bears its name, and nothing
is published either. The client id is one of doctor's own, so that no daemon is thrown out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import Final

import aiomqtt

from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.doctor.facts import BrokerFacts
from routesync.events.access import explain, read_password, tls_context
from routesync.events.hub import EventHub
from routesync.events.retained import encode_status
from routesync.events.session import Publication, Session
from routesync.events.status import offline

RETAINED_WITHIN_S: Final = 1.0
"""A retained message follows the subscription at once; after this time there is none."""


async def ask_broker(
    settings: MqttSettings, node: str, *, running: bool | None, contact: bool
) -> BrokerFacts:
    """Try the broker out.

    Args:
        settings: the broker.
        node: this node's name.
        running: whether a daemon runs; None, where it cannot be told, counts as if one did.
        contact: False asks nothing.
    """
    where = f"{settings.host}:{settings.port}"
    if not contact:
        return BrokerFacts(where)
    client_id = f"routesync-doctor-{secrets.token_hex(3)}"
    topic = f"{settings.root}/{node}/status"
    payload = encode_status(offline(node), EventHub(node))
    try:
        session = Session(
            settings,
            client_id=client_id,
            password=read_password(settings),
            tls=tls_context(settings),
            will=None,
        )
        async with session:
            probe = _Probe(session, topic)
            return await probe.run(where, payload, silent=running is not False, within_s=settings.timeout_s)
    except (aiomqtt.MqttError, OSError, SettingError) as error:
        return BrokerFacts(where, trouble=explain(error, settings, client_id), publish="unknown")


class _Probe:
    """One connection's work."""

    def __init__(self, session: Session, topic: str) -> None:
        self._session = session
        self._topic = topic

    async def run(self, where: str, payload: bytes, *, silent: bool, within_s: float) -> BrokerFacts:
        listens = await self._session.listen(self._topic, lambda: None)  # messages are read below
        status, reasons = await self._retained() if listens else (None, ())
        facts = BrokerFacts(where, status=status, reasons=reasons)
        if silent:
            return facts._replace(publish="running")
        if status in {"online", "degraded"}:
            return facts._replace(publish="other-node")
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._session.post(Publication(self._topic, payload, expiry_s=1), answer.set_result)
        try:
            denial = await asyncio.wait_for(answer, within_s)
        except TimeoutError:
            return facts._replace(publish="unknown")
        if denial is not None:
            return facts._replace(publish="denied", denial=denial)
        if self._session.is_v5:
            return facts._replace(publish="taken")
        if not listens:
            return facts._replace(publish="unknown")
        return facts._replace(publish="taken" if await self._comes_back(within_s) else "not-back")

    async def _retained(self) -> tuple[str | None, tuple[str, ...]]:
        with contextlib.suppress(TimeoutError, ValueError, KeyError, TypeError):
            async with asyncio.timeout(RETAINED_WITHIN_S):
                async for message in self._session.messages:
                    data = json.loads(bytes(message.payload))["data"]
                    return str(data["state"]), tuple(map(str, data.get("reasons", ())))
        return None, ()

    async def _comes_back(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                async for message in self._session.messages:
                    if not message.retain:
                        return True
        return False
