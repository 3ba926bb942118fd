"""One MQTT connection: aiomqtt's, with what it hides.

aiomqtt 2.5 awaits each publish by an Event and a timer of its own, and drops the reason code of the acknowledgement
(MQTT 5, 3.4.2.1), so that a publish which the broker's access rules deny looks like one that was taken. Here the
acknowledgement itself is handed on, with its code; that is also what makes many publishes in flight cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from routesync.events.cloudevents import CONTENT_TYPE
from routesync.settings import MqttSettings

WINDOW: Final = 64
"""Publishes in flight, where the broker does not ask for fewer (Receive Maximum)."""
SUCCESSES: Final = 0x80
"""Reason codes below this one mean that the publish was taken (0x00, 0x10 no subscribers)."""


class Publication(NamedTuple):
    """What is published."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


class Session(aiomqtt.Client):
    """A connection that hands on each acknowledgement: packet identifier and reason code.

    Args:
        settings: The broker.
        client_id: Stable and unique at the broker.
        password: As it is now; the file may have changed since the last connection.
        will: The last will.
        on_acknowledged: Called with (packet identifier, reason code) in the event loop's thread.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        password: str | None,
        will: aiomqtt.Will,
        on_acknowledged: Callable[[int, ReasonCode], None],
    ) -> None:
        self.is_v5 = settings.protocol == "5.0"
        self.window = WINDOW
        self._on_acknowledged = on_acknowledged
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username,
            password=password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if self.is_v5 else aiomqtt.ProtocolVersion.V311,
            will=will,
            clean_session=None if self.is_v5 else True,
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            max_inflight_messages=0,  # ours is the window
        )

    def post(self, publication: Publication) -> int:
        """Publish at QoS 1 without waiting; returns the packet identifier.

        Raises:
            aiomqtt.MqttError: there is no connection.
        """
        properties = _properties(publication) if self.is_v5 else None
        info = self._client.publish(publication.topic, publication.payload, 1, publication.retain, properties)
        if info.rc != 0:
            raise aiomqtt.MqttCodeError(info.rc, "cannot publish")
        return info.mid

    def _on_connect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        maximum = getattr(properties, "ReceiveMaximum", None)
        if isinstance(maximum, int):
            self.window = min(WINDOW, maximum)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: PahoClient, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        super()._on_publish(client, userdata, mid, reason_code, properties)
        self._on_acknowledged(mid, reason_code)


def _properties(publication: Publication) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = CONTENT_TYPE
    properties.PayloadFormatIndicator = 1
    if publication.expiry_s is not None:
        properties.MessageExpiryInterval = publication.expiry_s
    if publication.user:
        properties.UserProperty = list(publication.user)
    return properties
