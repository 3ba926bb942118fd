"""Getting in: TLS with a private CA, a client certificate and a server name; what access rules deny is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.broker import Broker, ServerTls, broker
from support.certificates import Authority
from support.events import NODE, listening, publishing
from support.waiting import eventually


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(authority: Authority) -> Iterator[Broker]:
    """A broker that wants TLS, a client certificate and a password; its certificate is for another name."""
    server = authority.issue("server", alternative="DNS:broker.test")
    tls = ServerTls(authority.certificate, server.certificate, server.key, require_client_certificate=True)
    with broker(users={"routesync": "secret"}, tls=tls) as made:
        yield made


async def test_tls_with_client_certificate_server_name_and_password(
    secure: Broker, authority: Authority, tmp_path: Path
) -> None:
    client = authority.issue("client", alternative="DNS:node-1")
    password = tmp_path / "password"
    password.write_text("secret\n")
    settings = secure.settings(
        username="routesync",
        password_file=str(password),
        tls={
            "ca_file": str(authority.certificate),
            "cert_file": str(client.certificate),
            "key_file": str(client.key),
            "server_name": "broker.test",
        },
    )
    async with publishing(settings) as node:
        await node.connected()
        node.emit(100)
        await eventually(lambda: node.outbox.acknowledged == 100)


async def test_a_server_certificate_for_another_name_is_refused(secure: Broker, authority: Authority) -> None:
    settings = secure.settings(tls={"ca_file": str(authority.certificate)})
    async with publishing(settings) as node:
        await eventually(lambda: "certificate is not valid for '127.0.0.1'" in node.publisher.state)
        assert node.publisher.state.endswith("check mqtt.tls")


async def test_a_server_certificate_of_another_authority_is_refused(secure: Broker, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    settings = secure.settings(tls={"ca_file": str(other.certificate), "server_name": "broker.test"})
    async with publishing(settings) as node:
        await eventually(lambda: "certificate verify failed" in node.publisher.state)


async def test_a_missing_certificate_file_names_the_setting(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings(tls={"ca_file": "/nonexistent/ca.pem"})) as node:
        await eventually(
            lambda: "mqtt.tls.ca_file: cannot read '/nonexistent/ca.pem'" in node.publisher.state
        )


ACL = f"""
user routesync
topic write routesync/v1/{NODE}/status
topic write routesync/v1/{NODE}/table/#
topic write routesync/v1/{NODE}/event/events/#
user listener
topic read routesync/#
"""


async def test_a_denied_topic_is_noticed_said_once_and_counted_as_loss() -> None:
    users = {"routesync": "one", "listener": "two"}
    with broker(users=users, acl=ACL) as guarded, capture_logs() as logs:
        listener_settings = guarded.settings(username="listener", password="two")
        async with (
            listening(listener_settings) as listener,
            publishing(guarded.settings(username="routesync", password="one")) as node,
        ):
            await node.connected()
            node.emit(20)
            await eventually(lambda: any(heard.topic.endswith("events/lost") for heard in listener.events))
            (trouble,) = node.publisher.troubles
            assert "denies" in trouble
            assert "event/route/accepted" in trouble
            losses = [heard.data for heard in listener.events]
            assert {loss["reason"] for loss in losses} == {"denied"}
            await eventually(lambda: sum(int(str(heard.data["count"])) for heard in listener.events) == 20)
        assert [line["event"] for line in logs if line["log_level"] == "error"] == [
            "the broker denies a topic"
        ]


async def test_a_denied_status_is_noticed_by_3_1_1_too() -> None:
    with broker(users={"routesync": "one"}, acl="user routesync\ntopic read routesync/#\n") as guarded:
        settings = guarded.settings(username="routesync", password="one", protocol="3.1.1", timeout_s=0.5)
        async with publishing(settings) as node:
            await eventually(lambda: any("denies" in trouble for trouble in node.publisher.troubles))


async def test_3_1_1_suspects_nothing_where_all_is_well(mosquitto: Broker) -> None:
    async with (
        publishing(mosquitto.settings(protocol="3.1.1", timeout_s=0.3)) as node,
        listening(mosquitto.settings()) as listener,
    ):
        await node.connected()
        node.emit(1)
        await eventually(lambda: listener.sequences == [1])
        await eventually(lambda: node.publisher._delivery is not None and node.publisher._delivery.probed)
        assert list(node.publisher.troubles) == []
