"""What doctor finds out at a broker, and that it leaves nothing behind there."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from routesync.doctor.gather import accepts_v5, ask_broker
from support.broker import Broker, broker
from support.events import NODE, listening, publishing
from support.fleet import FleetNode, publish
from support.waiting import eventually

STATUS = f"routesync/v1/{NODE}/status"


def retained(made: Broker, *credentials: str) -> str:
    """What the broker holds under the node's status."""
    command = [
        "mosquitto_sub",
        "-h",
        made.address,
        "-p",
        str(made.port),
        "-t",
        STATUS,
        "-W",
        "1",
        *credentials,
    ]
    return subprocess.run([*command, "--retained-only"], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("protocol", ["5.0", "3.1.1"])
async def test_a_publish_that_is_accepted_is_heard_once_and_not_kept(
    mosquitto: Broker, protocol: str
) -> None:
    async with listening(mosquitto.settings(), "#") as listener:
        facts = await ask_broker(mosquitto.settings(protocol=protocol), NODE, running=False, contact=True)
        assert (facts.trouble, facts.publish) == (None, "accepted")
        if protocol == "3.1.1":
            assert await accepts_v5(mosquitto.settings(protocol=protocol))
        await eventually(lambda: bool(listener.heard), what="the probe")
        assert [heard.topic for heard in listener.heard] == [STATUS]
        assert listener.states == ["offline"]
    assert retained(mosquitto) == ""


@pytest.mark.parametrize(("protocol", "said"), [("5.0", "denied"), ("3.1.1", "not-back")])
async def test_a_denied_publish_is_noticed(protocol: str, said: str) -> None:
    acl = f"user routesync\ntopic read {STATUS}\ntopic write other/#\n"
    with broker(users={"routesync": "secret"}, acl=acl) as made:
        settings = made.settings(username="routesync", password="secret", protocol=protocol)
        facts = await ask_broker(settings, NODE, running=False, contact=True)
        assert facts.publish == said
        assert bool(facts.denial) == (protocol == "5.0")


async def test_a_wrong_password_is_explained() -> None:
    with broker(users={"routesync": "secret"}) as made:
        settings = made.settings(username="routesync", password="wrong")
        facts = await ask_broker(settings, NODE, running=False, contact=True)
    assert facts.trouble is not None
    assert "mqtt.password_file" in facts.trouble


async def test_beside_a_running_daemon_its_status_is_read_and_nothing_published(mosquitto: Broker) -> None:
    async with publishing(mosquitto.settings()) as node, listening(mosquitto.settings()) as listener:
        await node.connected()
        await eventually(lambda: listener.states == ["online"], what="the daemon's status")
        own = await ask_broker(mosquitto.settings(), NODE, running=True, contact=True)
        assert (own.publish, own.status) == ("running", "online")
        unseen = await ask_broker(mosquitto.settings(), NODE, running=None, contact=True)
        assert unseen.publish == "running"
        namesake = await ask_broker(mosquitto.settings(), NODE, running=False, contact=True)
        assert namesake.publish == "other-node"
        node.emit(1)
        await eventually(lambda: listener.sequences == [1], what="an event of the daemon, undisturbed")
        assert listener.states == ["online"]


@pytest.mark.parametrize(
    ("state", "age_s", "protocol", "expected"),
    [
        ("online", 0, "5.0", ("online", "other-node")),
        ("degraded", 100, "5.0", ("degraded", "other-node")),
        ("online", 200, "5.0", ("silent", "accepted")),
        ("degraded", 6 * 86400, "5.0", ("silent", "accepted")),
        ("online", 6 * 86400, "3.1.1", ("online", "other-node")),
        ("offline", 0, "5.0", ("offline", "accepted")),
    ],
)
async def test_a_status_that_nothing_renews_is_no_other_nodes(
    mosquitto: Broker, state: str, age_s: int, protocol: str, expected: tuple[str, str]
) -> None:
    left = FleetNode(NODE, {}).status(state, age_s=age_s)
    await asyncio.to_thread(publish, mosquitto.settings(), [left])
    facts = await ask_broker(mosquitto.settings(protocol=protocol), NODE, running=False, contact=True)
    assert (facts.status, facts.publish) == expected


async def test_without_contact_nobody_is_asked() -> None:
    with broker() as made:
        settings = made.settings()
        made.kill()
        assert (await ask_broker(settings, NODE, running=False, contact=False)).trouble is None
