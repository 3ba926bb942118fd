"""One MQTT connection as aiomqtt makes it, with what it and paho leave out.

Where the handshake of TLS fails, or a connection is refused or given up, everything is closed. The server's certificate
may be for another name than the host's. A broker that takes no farewell delays nobody. What goes wrong is raised, and
not logged as well.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from types import TracebackType
from typing import Any, Final, Self

import aiomqtt

from routesync.config.models import MqttSettings

FAREWELL_S: Final = 2.0
"""What an orderly end of the connection may take, and what saying `offline` may."""

_SILENT: Final = logging.getLogger("routesync.events.connection")
"""For aiomqtt and paho: what goes wrong is raised as well, and said once by whoever catches it."""
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class Connection(aiomqtt.Client):
    """A connection to the broker of the settings.

    Args:
        settings: The broker.
        client_id: Unique at the broker.
        password: As it is now; the file may have changed since the last connection.
        tls: None for plain TCP.
        more: For aiomqtt.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        password: str | None,
        tls: ssl.SSLContext | None,
        **more: Any,
    ) -> None:
        self._tls_socket: ssl.SSLSocket | None = None
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username,
            password=password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5
            if settings.protocol == "5.0"
            else aiomqtt.ProtocolVersion.V311,
            tls_context=self._adapted(tls, settings.tls.server_name if settings.tls else None),
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            logger=_SILENT,
            **more,
        )

    def _adapted(self, context: ssl.SSLContext | None, server_name: str | None) -> ssl.SSLContext | None:
        """Make up for two things in paho: it checks for no other name than the host, and leaks a failed handshake."""
        if context is None:
            return None
        wrap = context.wrap_socket

        def wrap_socket(
            sock: socket.socket, server_hostname: str, *, do_handshake_on_connect: bool
        ) -> ssl.SSLSocket:
            self._tls_socket = wrap(
                sock,
                server_hostname=server_name or server_hostname,
                do_handshake_on_connect=do_handshake_on_connect,
            )
            return self._tls_socket

        context.wrap_socket = wrap_socket  # type: ignore[method-assign, assignment]
        return context

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._abandon()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.timeout = min(self.timeout, FAREWELL_S)
        with contextlib.suppress(aiomqtt.MqttError):  # of a broker that does not even take a farewell
            await super().__aexit__(exc_type, exc, tb)
        self._abandon()
        if self._disconnected.done():
            self._disconnected.exception()  # looked at, so that asyncio does not print_error that nobody did

    def _abandon(self) -> None:
        """Close what aiomqtt leaves open when a connection is refused, does not answer, or is given up."""
        self._client._sock_close()  # noqa: SLF001 - paho's only way to close at once
        if self._tls_socket is not None:
            self._tls_socket.close()
