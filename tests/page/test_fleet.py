"""The page of a fleet, in a real browser: simulated nodes, a real broker with WebSockets, and one live daemon."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from routesync.cli.page import write_page
from routesync.events.models import AlarmRaised, RouteAccepted, RouteWithdrawn
from routesync.events.mqtt_client import Publication
from routesync.events.node_status import GuardStatus, HeldTopic
from support.broker import Broker, broker, free_port
from support.fleet import ROOT, FleetNode, publish
from support.page import PHONE, WEBSOCKETS_PORT, Browser, forwarded, node_world
from support.waiting import eventually_sync

pytestmark = pytest.mark.page

REPOSITORY = Path(__file__).parents[2]
ROUTES = {f"10.{n}.0.0/16": "192.0.2.1" for n in range(1, 40)} | {"0.0.0.0/0": "192.0.2.254"}
NODES = ".fleet .grid-body [role=row]"
NO_KEYS = ("__proto__", "constructor")
"""Names that a plain object of JavaScript has something for."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """Any web server."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def fleet_site(directory: Path, mqtt_js: Path, extra: str = "") -> Iterator[tuple[Broker, str]]:
    """A broker, and the page that connects to it."""
    port = free_port()
    listener = f"{extra}listener {port} 127.0.0.1\nprotocol websockets\n"
    with broker(extra=listener) as mosquitto:
        write_page(directory, mqtt_js=mqtt_js, websockets=f"ws://127.0.0.1:{port}", root=ROOT)
        with web_server(directory) as url:
            yield mosquitto, url


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mqtt_js: Path) -> Iterator[tuple[Broker, str]]:
    with fleet_site(tmp_path_factory.mktemp("site"), mqtt_js) as made:
        yield made


@pytest.fixture(scope="module")
def mosquitto(served: tuple[Broker, str]) -> Broker:
    return served[0]


@pytest.fixture(scope="module")
def site(served: tuple[Broker, str]) -> str:
    return served[1]


@pytest.fixture(scope="module")
def nodes(mosquitto: Broker) -> dict[str, FleetNode]:
    """Twelve nodes: one degraded, one gone in order, one silent, one with another table."""
    other = {**ROUTES, "10.7.0.0/16": "192.0.2.77"}
    del other["10.9.0.0/16"]
    made = {f"n{n}": FleetNode(f"n{n}", other if n == 5 else ROUTES) for n in range(1, 13)}
    publications = [bucket for node in made.values() for bucket in node.table()]
    for name, node in made.items():
        if name == "n2":
            alarm = node.alarm("contended", "something deletes routes again and again")
            publications.append(
                node.status("degraded", reasons=[f"target edge: {alarm.detail}"], alarms=(alarm,))
            )
        elif name == "n3":
            publications.append(node.status("offline"))
        else:
            publications.append(node.status(age_s=600 if name == "n4" else 5))
    publish(mosquitto.settings(), publications)
    return made


@pytest.fixture
def fleet(page: Browser, site: str, nodes: dict[str, FleetNode]) -> Iterator[Browser]:
    page.open(site)
    page.shows(".fleet .bar-line", "9 online")
    assert len(nodes) == 12
    yield page
    assert page.complaints() == []


def rows(page: Browser) -> list[str]:
    found: list[str] = page.script(
        "return [...document.querySelectorAll(arguments[0])].sort((a, b) => a.index - b.index).map(it => it.innerText)",
        NODES,
    )
    return [" ".join(it.split()) for it in found]


def test_nodes_are_cells_and_rows_the_troubled_first(fleet: Browser) -> None:
    fleet.shows(".fleet .bar-line", "1 degraded")
    fleet.shows(".fleet .bar-line", "1 offline")
    fleet.shows(".fleet .bar-line", "1 silent")
    assert fleet.count(".cells i") == 12
    eventually_sync(
        lambda: {it.split()[1] for it in rows(fleet)[:3]} == {"n2", "n3", "n4"}, what="the troubled first"
    )
    shown = rows(fleet)
    assert any("silent n4 10 min" in it for it in shown)  # by what the broker left of its expiry
    assert any("contended" in it and "something deletes routes" in it for it in shown)
    assert "40 of 40" in shown[-1]


def test_the_nodes_can_be_searched(fleet: Browser) -> None:
    fleet.type("#nodes", "deletes")
    eventually_sync(lambda: len(rows(fleet)) == 1, what="one row")
    fleet.click_text(".fleet .chip", "silent")
    eventually_sync(lambda: [it.split()[1] for it in rows(fleet)] == ["n4"], what="the silent node")


def test_a_change_of_a_node_shows(mosquitto: Broker, fleet: Browser, nodes: dict[str, FleetNode]) -> None:
    publish(mosquitto.settings(), [nodes["n12"].status("degraded", reasons=["broker: a reason"])])
    fleet.shows(".fleet .bar-line", "2 degraded")
    publish(mosquitto.settings(), [nodes["n12"].status()])
    fleet.shows(".fleet .bar-line", "1 degraded")
    publish(mosquitto.settings(), [FleetNode("n99", {}).status()])
    fleet.shows(".fleet .bar-line", "10 online")
    publish(mosquitto.settings(), [Publication(f"{ROOT}/n99/status", b"", retain=True)])  # renamed
    fleet.shows(".fleet .bar-line", "9 online")
    assert fleet.count(".cells i") == 12


def test_all_nodes_can_be_asked_who_has_an_address_or_a_prefix(fleet: Browser) -> None:
    fleet.type("#who-has", "10.7.1.2")
    fleet.press("Enter")
    fleet.shows("[aria-labelledby=who-title]", "12 nodes of 12 have a route to 10.7.1.2")
    found = fleet.text("[aria-labelledby=who-title]")
    assert "10.7.0.0/16 via 192.0.2.77, accepted, at edge\nn5" in found
    fleet.type("#who-has", "10.9.3.3")
    fleet.press("Enter")
    fleet.shows("[aria-labelledby=who-title]", "route to 10.9.3.3")
    assert "0.0.0.0/0 via 192.0.2.254, accepted, at edge\nn5" in fleet.text("[aria-labelledby=who-title]")
    fleet.type("#who-has", "10.9.0.0/16")
    fleet.press("Enter")
    fleet.shows("[aria-labelledby=who-title]", "11 nodes of 12 have a route to 10.9.0.0/16")
    fleet.type("#who-has", "<img src=x>")
    fleet.press("Enter")
    fleet.shows("[aria-labelledby=who-title]", "<img src=x> is no address or prefix")
    fleet.type("#who-has", " ")
    fleet.press("Enter")
    fleet.shows("[aria-labelledby=who-title]", "Type an address or a prefix.")


def test_a_table_that_is_not_whole_is_named_and_nothing_is_claimed_of_it(
    mosquitto: Broker, fleet: Browser, nodes: dict[str, FleetNode]
) -> None:
    who, difference = "[aria-labelledby=who-title]", "[aria-labelledby=diff-title]"
    *buckets, manifest = nodes["n7"].table()
    missing = next(it for it in buckets if b'"10.7.0.0/16"' in it.payload)
    publish(mosquitto.settings(), [missing._replace(payload=b"")])
    fleet.type("#who-has", "10.7.1.2")
    fleet.press("Enter")
    fleet.shows(who, "1 node whose table could not be read whole: try again in a minute\nn7")
    assert "11 nodes of 12 have a route to 10.7.1.2" in fleet.text(who)
    fleet.click_text(NODES, "n7")
    fleet.shows(".detail .routes .bar-line", " prefixes, reading the latest changes")
    publish(mosquitto.settings(), [missing, manifest._replace(payload=b"")])
    fleet.click_text(f"{difference} button", "Compare all")
    fleet.shows(difference, "1 node whose table could not be read whole: try again in a minute\nn7")
    assert "10 nodes with the same 40 routes" in fleet.text(difference)
    publish(mosquitto.settings(), [manifest])
    fleet.click_text(NODES, "n7")
    fleet.shows(".detail .routes .bar-line", "\n40 prefixes")
    fleet.type("#who-has", "10.9.0.0/16")
    fleet.press("Enter")
    fleet.shows(who, "1 node without one\nn5")


def test_two_questions_at_once_are_both_answered(fleet: Browser) -> None:
    fleet.type("#who-has", "10.9.0.0/16")
    fleet.press("Enter")
    fleet.click_text("[aria-labelledby=diff-title] button", "Compare all")
    fleet.shows("[aria-labelledby=diff-title]", "11 nodes with the same 40 routes")
    fleet.shows("[aria-labelledby=who-title]", "11 nodes of 12 have a route to 10.9.0.0/16")
    assert "could not be read" not in fleet.text("main")


def test_what_happens_in_the_fleet_is_listed(
    mosquitto: Broker, fleet: Browser, nodes: dict[str, FleetNode]
) -> None:
    raised = AlarmRaised(kind="contended", target="edge", detail="something deletes it")
    publish(mosquitto.settings(), [nodes["n11"].event(raised), nodes["n11"].status("offline")])
    fleet.shows(".news", "n11\nalarm contended: something deletes it")
    fleet.shows(".news", "n11\noffline, was online")
    eventually_sync(lambda: "(4) Fleet" in fleet.script("return document.title"), what="the title")
    publish(mosquitto.settings(), [nodes["n11"].status()])
    fleet.shows(".news", "online, was offline")
    fleet.shows(".fleet .bar-line", "9 online")


def test_whose_table_differs_is_shown_and_how(fleet: Browser) -> None:
    difference = "[aria-labelledby=diff-title]"
    fleet.click_text(f"{difference} button", "Compare all")
    fleet.shows(difference, "11 nodes with the same 40 routes")
    fleet.shows(difference, "1 node with another table of 39 routes")
    fleet.click_text(f"{difference} button", "Compare n5 with")
    fleet.shows(difference, "10.7.0.0/16\nn5: via 192.0.2.77, accepted · n1: via 192.0.2.1, accepted")
    assert "10.9.0.0/16\nn5: none · n1: via 192.0.2.1, accepted" in fleet.text(difference)
    assert "10.8.0.0/16" not in fleet.text(difference)


def test_one_node_is_shown_from_near(mosquitto: Broker, fleet: Browser, nodes: dict[str, FleetNode]) -> None:
    fleet.click_text(NODES, "n7")
    fleet.shows(".detail h2", "n7")
    assert fleet.script("return document.activeElement.innerText") == "n7"
    fleet.shows(".detail .routes .bar-line", "40 prefixes")
    node = nodes["n7"]
    change = RouteAccepted(
        target="edge", prefix="10.200.0.0/16", family="ipv4", gateway="192.0.2.9", rule="default"
    )
    publish(mosquitto.settings(), [node.event(change)])
    fleet.shows(".detail .routes .bar-line", "41 prefixes")
    fleet.shows(".detail .timeline", "10.200.0.0/16 accepted via 192.0.2.9")
    fleet.type("#search", "10.200.1.1")
    fleet.click(".search .primary[type=button]")
    fleet.shows("dialog .verdict", "edge 10.200.0.0/16 via 192.0.2.9: accepted")
    fleet.press("Escape")
    gone = RouteWithdrawn(
        target="edge", prefix="10.200.0.0/16", family="ipv4", gateway="192.0.2.9", reason="no-route"
    )
    publish(mosquitto.settings(), [node.event(gone)])
    fleet.shows(".detail .timeline", "withdrawn: no-route")
    assert fleet.text(".detail .timeline").count("withdrawn: no-route") == 1
    node.sequence = 3  # held back by the node until now: its bucket has what came after it
    late = RouteWithdrawn(
        target="edge", prefix="10.8.0.0/16", family="ipv4", gateway="192.0.2.1", reason="no-route"
    )
    publish(mosquitto.settings(), [node.event(late)])
    fleet.shows(".detail .timeline", "10.8.0.0/16 withdrawn")
    fleet.type("#search", "10.8.1.1")
    fleet.shows(".detail .grid-body", "10.8.0.0/16\naccepted")
    assert fleet.script("return document.activeElement.id") == "search"
    fleet.click_text(".detail button", "Close")
    assert fleet.text(".detail") == ""
    assert fleet.script("return document.activeElement.getAttribute('aria-label')") == "Nodes"
    fleet.press("/")
    assert fleet.script("return document.activeElement.id") == "nodes"


def test_what_a_node_guards_and_holds_back_is_shown(
    mosquitto: Broker, fleet: Browser, nodes: dict[str, FleetNode]
) -> None:
    guard = GuardStatus(dry_run=True, permitted=None, redundant=2)
    held = HeldTopic(topic="event/route/accepted", count=7, first=1, last=9)
    publish(mosquitto.settings(), [nodes["n10"].status(mode="guard", guard=guard, held=(held,))])
    fleet.click_text(NODES, "n10")
    fleet.shows(".detail [aria-label='Kernel']", "guard: 2 would be removed, 0 removed, 0 failed")
    fleet.shows(
        ".detail [aria-label='Broker']", "7 events held, which the broker denies: event/route/accepted"
    )
    publish(mosquitto.settings(), [nodes["n10"].status()])


def test_a_hostile_broker_gets_text_shown_and_nothing_else(mosquitto: Broker, fleet: Browser) -> None:
    fleet.script("window.hacked = false")
    bad = '<img src=x onerror="window.hacked=true"><script>window.hacked=true</script>\x1b[31m\u202egnp.exe'
    evil = FleetNode("evil", {"10.1.0.0/16": "192.0.2.1"})
    alarm = evil.alarm(bad, bad)
    topic = f"{ROOT}/<b>bold<b>/status"
    publish(
        mosquitto.settings(),
        [
            *evil.table(),
            *(FleetNode(it, {}).status("degraded") for it in NO_KEYS),
            Publication(
                f"{ROOT}/toString/status",
                b'{"type":"io.routesync.status.v1","time":"2026-01-01T00:00:00Z","data":{"state":"constructor",'
                b'"verdicts":{"__proto__":1},"targets":[{"name":"__proto__","state":"valueOf","phases":{"toString":5}}],'
                b'"alarms":[{"kind":"a","target":"__proto__"},{"kind":"a","target":"__proto__"}]}}',
                retain=True,
            ),
            evil.status("degraded", reasons=[bad], version=bad, mode=bad, broker=bad, alarms=(alarm,)),
            FleetNode("x", {}).status()._replace(topic=topic),
            *(
                Publication(f"{ROOT}/evil/{place}", payload, retain=True)
                for place, payload in (
                    (
                        "table/edge/zz",
                        b'{"type":"io.routesync.table.v1","time":"2026-01-01T00:00:00Z","data":{"routes":7}}',
                    ),
                    ("table/edge/zy", b"\xff\xfe"),
                    ("event/route/accepted", b"[]"),
                    (
                        "event/alarm/raised",
                        b'{"type":"io.routesync.alarm.raised.v1","time":"never","data":null}',
                    ),
                )
            ),
            Publication(
                f"{ROOT}/odd/status",
                b'{"type":"io.routesync.status.v1","time":"2026-01-01T00:00:00Z","data":{"state":[],"targets":{"a":1},'
                b'"alarms":[null,7],"reasons":"x","since":[],"labels":[1],"kernel":5,"heartbeat_s":"no"}}',
                retain=True,
            ),
        ],
    )
    fleet.shows(".fleet .bar-line", "4 degraded")
    fleet.click_text(NODES, "toString")
    fleet.shows(".detail .card", "5 toString")
    fleet.shows(".fleet .grid-body", '<img src=x onerror="window.hacked=true">')
    fleet.shows(".fleet .grid-body", "<b>bold<b>")
    fleet.shows(".fleet .grid-body", "\\u001b[31m\\u202egnp.exe")
    fleet.click_text(NODES, "evil")
    fleet.shows(".detail .reasons", "<script>window.hacked=true</script>")
    fleet.type("#who-has", "10.1.2.3")
    fleet.press("Enter")
    fleet.shows("[aria-labelledby=who-title]", "nodes of 18 have a route")
    assert fleet.count("main img, main script, .grid b") == 0
    assert fleet.script("return window.hacked") is False
    assert not {"\x1b", "\u202e"} & set(fleet.text("body"))
    names = (
        *(f"{it}/status" for it in (*NO_KEYS, "toString")),
        "evil/status",
        "<b>bold<b>/status",
        "odd/status",
        "evil/table/edge/zz",
        "evil/table/edge/zy",
    )
    rest = [Publication(f"{ROOT}/{name}", b"", retain=True) for name in (*names, "evil/event/route/accepted")]
    rest += [it._replace(payload=b"") for it in evil.table()]
    rest.append(Publication(f"{ROOT}/evil/event/alarm/raised", b"", retain=True))
    publish(mosquitto.settings(), rest)
    fleet.shows(".fleet .bar-line", "1 degraded")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(fleet: Browser, axe: str, theme: str) -> None:
    fleet.prefers(color_scheme=theme)
    fleet.click_text(NODES, "n2")
    fleet.shows(".detail .routes .bar-line", "prefixes")
    assert fleet.violations(axe) == []
    fleet.resize(*PHONE)
    assert fleet.violations(axe) == []
    assert fleet.script("return document.documentElement.scrollWidth") <= PHONE[0]


def test_it_outlives_the_broker(
    mosquitto: Broker, fleet: Browser, axe: str, nodes: dict[str, FleetNode]
) -> None:
    fleet.click_text("[aria-labelledby=diff-title] button", "Compare all")
    fleet.shows("[aria-labelledby=diff-title]", "Reading")
    mosquitto.kill()
    fleet.shows("[aria-labelledby=diff-title]", "the connection to the broker was lost")
    fleet.shows(".connection", "what you see is old")
    assert fleet.violations(axe) == []
    fleet.click_text("[aria-labelledby=diff-title] button", "Compare all")
    fleet.shows("[aria-labelledby=diff-title]", "there is no connection to the broker")
    mosquitto.start()
    publish(mosquitto.settings(), [nodes["n1"].status("degraded", reasons=["back again"])])
    fleet.shows(".connection", "connected", within_s=30)
    fleet.shows(".fleet .grid-body", "back again")


def test_a_user_types_the_password_and_it_is_kept_nowhere(
    page: Browser, tmp_path: Path, mqtt_js: Path
) -> None:
    port = free_port()
    listener = f"listener {port} 127.0.0.1\nprotocol websockets\n"
    with broker(users={"looker": "s3cret", "routesync": "x"}, extra=listener) as guarded:
        publish(guarded.settings(username="routesync", password="x"), [FleetNode("n1", {}).status()])
        write_page(tmp_path, mqtt_js=mqtt_js, websockets=None, root=ROOT)
        with web_server(tmp_path) as url:
            page.open(url)
            page.shows(".connect", "Password")
            for broken, problem in (
                ("ws://127.0.0.1:9", "no connection: no broker takes WebSockets at this URL"),
                ("ws://a b", "is invalid"),
            ):
                page.type("[name=url]", broken)
                page.click(".connect .primary")
                page.shows(".connect .bad", problem)
                assert "what you see" not in page.text(".connection")
            page.type("[name=root]", f"{ROOT}/")
            page.type("[name=url]", f"ws://127.0.0.1:{port}")
            page.type("[name=username]", "looker")
            page.type("[name=password]", "wrong")
            page.click(".connect .primary")
            page.shows(".connect", "Not authorized")
            page.type("[name=password]", "s3cret")
            page.click(".connect .primary")
            page.shows(".fleet .bar-line", "1 online")
            kept = page.script(
                "return [JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie, location.href]"
            )
            assert "s3cret" not in " ".join(kept)
            page.open(url)
            page.shows(".connect", "Password")
            assert page.one("[name=password]").get_property("value") == ""


def test_a_live_daemon_is_one_of_the_nodes(page: Browser, tmp_path: Path, mqtt_js: Path) -> None:
    (tmp_path / "node").mkdir()
    with node_world(tmp_path / "node") as made, forwarded(made.topology.node, WEBSOCKETS_PORT) as port:
        made.start()
        write_page(tmp_path / "site", mqtt_js=mqtt_js, websockets=f"ws://127.0.0.1:{port}", root=ROOT)
        with web_server(tmp_path / "site") as url:
            page.open(url)
            page.shows(".fleet .grid-body", "5 of 5")
            page.click_text(NODES, "node")
            page.shows(".detail .routes .bar-line", "5 prefixes")
            page.shows(".detail .card", "edge\nsynced")
            made.topology.move_pod_network(3, 9)
            page.shows(".detail .routes", "10.244.9.0/24")
            page.shows(".detail .timeline", "10.244.3.0/24 withdrawn")
    assert page.complaints() == []


def crowd(size: int, prefix: str = "") -> list[Publication]:
    """Statuses, with a prefix also manifests and the bucket in which it is."""
    one = FleetNode("m0000", ROUTES if prefix else {})
    *buckets, manifest = one.table()
    some = [one.status()]
    if prefix:
        some += [manifest, next(it for it in buckets if f'"{prefix}"'.encode() in it.payload)]
    names = [f"m{n:04}" for n in range(size)]
    return [
        it._replace(
            topic=it.topic.replace("m0000", name), payload=it.payload.replace(b"m0000", name.encode())
        )
        for name in names
        for it in some
    ]


def test_five_thousand_nodes_stay_usable(page: Browser, tmp_path: Path, mqtt_js: Path) -> None:
    with fleet_site(tmp_path, mqtt_js, "max_queued_messages 0\n") as (mosquitto, url):
        publish(mosquitto.settings(), crowd(5000, "10.7.0.0/16"))
        page.open(url)
        page.shows(".fleet .bar-line", "5,000 online", within_s=30)
        assert page.count(".cells i") == 5000
        assert page.count(NODES) < 100
        publish(mosquitto.settings(), [FleetNode("m4711", {}).status("degraded", reasons=["this one"])])
        page.shows(".fleet .grid-body", "this one")
        page.type("#nodes", "m4712")
        eventually_sync(
            lambda: [it.split()[1] for it in rows(page)] == ["m4712"], what="the one that is searched"
        )
        assert not page.one(".fleet [role=alert]").is_displayed()
        page.type("#who-has", "10.7.0.0/16")
        page.press("Enter")
        page.shows("[aria-labelledby=who-title]", "5,000 nodes of 5,000 have a route", within_s=30)
        page.click_text("[aria-labelledby=diff-title] button", "Compare all")
        page.shows("[aria-labelledby=diff-title]", "5,000 nodes with the same 40 routes", within_s=30)
    assert page.complaints() == []


def test_a_broker_that_sends_only_some_of_the_nodes_is_noticed(
    page: Browser, tmp_path: Path, mqtt_js: Path
) -> None:
    with fleet_site(tmp_path, mqtt_js) as (mosquitto, url):
        many = crowd(3000)
        publish(mosquitto.settings(), many)
        page.open(url)
        eventually_sync(lambda: page.count(".cells i") > 1000, what="more than a default mosquitto sends")
        for start in range(0, len(many), 500):  # the next heartbeats
            publish(mosquitto.settings(), many[start : start + 500])
        page.shows(".fleet [role=alert]", "max_queued_messages")
        page.shows(".fleet .bar-line", "3,000 online")
