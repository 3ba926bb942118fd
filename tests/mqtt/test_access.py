"""Getting in: TLS with a private CA, a client certificate and a server name; what access rules deny is noticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routesync.events import delivery, sender
from routesync.events.models import SyncCompleted
from routesync.events.node_status import MIN_DEPTH
from support.broker import Broker, ServerTls, broker
from support.certificates import Authority
from support.events import NODE, Listener, listening, publishing
from support.waiting import eventually

BUCKETS = 2**MIN_DEPTH
COMPLETED = SyncCompleted(target="lb-1", routes=0, posted=0, deleted=0, duration_s=0)


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


ALL = f"routesync/v1/{NODE}"
DENIED = {
    "status": f"topic deny {ALL}/status",
    "table/lb-1/#": f"topic deny {ALL}/table/#",
    "event/route/accepted": f"topic deny {ALL}/event/route/accepted",
}
"""What a broker may deny, and the access rule for it."""
LISTENER = "user listener\ntopic read routesync/#\n"
USERS = {"routesync": "one", "listener": "two"}


def rules(*rules: str) -> str:
    return "\n".join(["user routesync", *rules, f"topic readwrite {ALL}/#", LISTENER])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "DENIED_S", 0.3)
    monkeypatch.setattr(sender, "DENIED_S", 0.3)


def losses(listener: Listener) -> list[dict[str, object]]:
    return [heard.data for heard in listener.events if heard.topic.endswith("events/lost")]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
@pytest.mark.parametrize("denied", DENIED)
async def test_a_denied_topic_is_said_and_when_it_is_allowed_again_all_is_made_good(
    protocol: str, denied: str
) -> None:
    with broker(users=USERS, acl=rules(DENIED[denied])) as guarded, capture_logs() as logs:
        settings = guarded.settings(username="routesync", password="one", protocol=protocol, timeout_s=0.5)
        async with (
            listening(guarded.settings(username="listener", password="two")) as listener,
            publishing(settings) as node,
        ):
            await node.connected()
            node.emit(20)
            node.hub.emit(COMPLETED)
            await eventually(lambda: len(node.publisher.troubles) == 1)
            (trouble,) = node.publisher.troubles
            assert f"denies publishing to {ALL}: {denied} (" in trouble
            if denied.startswith("event/") and protocol == "3.1.1":
                await eventually(lambda: bool(losses(listener)))
                assert {loss["reason"] for loss in losses(listener)} == {"denied"}

            guarded.set_acl(rules())
            guarded.reload()

            def healed() -> bool:
                if denied.startswith("event/") and protocol == "3.1.1":
                    node.emit(1)
                return not node.publisher.troubles

            await eventually(healed)
            wanted = BUCKETS + 1 if denied.startswith("table/") else 1  # with the manifest
            place = f"{ALL}/{denied.rstrip('#')}"
            await eventually(
                lambda: (
                    len({heard.topic for heard in listener.heard if heard.topic.startswith(place)}) == wanted
                )
            )
    said = [(line["log_level"], line["topic"]) for line in logs if "topic" in line]
    assert said == [("error", f"{ALL}/{denied}"), ("info", f"{ALL}/{denied}")]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
async def test_of_a_table_only_the_bucket_that_is_denied_is_sent_again(protocol: str) -> None:
    denied = "table/lb-1/00"
    with broker(users=USERS, acl=rules(f"topic deny {ALL}/{denied}")) as guarded:
        settings = guarded.settings(username="routesync", password="one", protocol=protocol, timeout_s=0.5)
        async with (
            listening(guarded.settings(username="listener", password="two"), f"{ALL}/table/#") as listener,
            publishing(settings) as node,
        ):
            await node.connected()
            node.emit(20)
            node.hub.emit(COMPLETED)
            tries: set[float] = set()

            def is_tried_thrice() -> bool:
                assert node.publisher._delivery is not None
                tries.update(it.at for it in node.publisher._delivery.sender.denied.values())
                return len(tries) >= 6  # each is noted when it is sent, and when it is denied

            await eventually(is_tried_thrice, within_s=20)
            heard = Counter(heard.topic for heard in listener.heard)
            del heard[f"{ALL}/table/lb-1/manifest"]  # it names the denied one
            assert len(heard) == BUCKETS - 1
            assert {*heard.values()} == {1}

            guarded.set_acl(rules())
            guarded.reload()
            await eventually(lambda: node.publisher.troubles == ())
            await eventually(lambda: f"{ALL}/{denied}" in {heard.topic for heard in listener.heard})


@pytest.mark.usefixtures("impatient")
async def test_events_of_a_broker_that_denies_all_of_them_come_when_it_allows_them() -> None:
    with broker(users=USERS, acl=rules(f"topic deny {ALL}/event/#")) as guarded:
        async with (
            listening(guarded.settings(username="listener", password="two")) as listener,
            publishing(guarded.settings(username="routesync", password="one")) as node,
        ):
            await node.connected()
            node.emit(382)
            await eventually(lambda: node.held("event/route/accepted") == 382)
            guarded.set_acl(rules())
            guarded.reload()
            await eventually(lambda: listener.sequences == list(range(1, 383)))
            assert losses(listener) == []


@pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
async def test_tls_password_and_access_rules_at_once(
    authority: Authority, tmp_path: Path, protocol: str
) -> None:
    server = authority.issue("server", alternative="DNS:broker.test")
    client = authority.issue("client", alternative="DNS:node-1")
    password = tmp_path / "password"
    password.write_text("one\n")
    tls = {
        "ca_file": str(authority.certificate),
        "cert_file": str(client.certificate),
        "key_file": str(client.key),
        "server_name": "broker.test",
    }
    pattern = "pattern readwrite routesync/v1/%u/#\n" + LISTENER
    with broker(
        users={NODE: "one", "listener": "two"},
        acl=pattern,
        tls=ServerTls(authority.certificate, server.certificate, server.key, require_client_certificate=True),
    ) as guarded:
        read = guarded.settings(username="listener", password="two", tls=tls)
        write = guarded.settings(
            username=NODE, password_file=str(password), tls=tls, protocol=protocol, timeout_s=1
        )
        async with listening(read) as listener, publishing(write) as node:
            node.emit(10)
            await eventually(lambda: listener.sequences == list(range(1, 11)))
            assert listener.states == ["online"]
            assert node.publisher.troubles == ()
            async with publishing(write, node="stranger") as stranger:
                await eventually(
                    lambda: any("denies publishing" in said for said in stranger.publisher.troubles)
                )
        assert not [heard for heard in listener.heard if "stranger" in heard.topic]


async def test_3_1_1_suspects_nothing_where_all_is_well(mosquitto: Broker) -> None:
    async with (
        publishing(mosquitto.settings(protocol="3.1.1", timeout_s=0.3)) as node,
        listening(mosquitto.settings()) as listener,
    ):
        await node.connected()
        node.emit(1)
        node.hub.emit(COMPLETED)
        await eventually(lambda: len(listener.sequences) == 2)
        await eventually(
            lambda: (
                (delivery := node.publisher._delivery) is not None
                and {"status", "event/route", "event/sync", "table/lb-1"} == {*delivery.sender._chosen}
                and not delivery.sender._unechoed
                and not delivery.sender._checks
            )
        )
        assert node.publisher.troubles == ()
