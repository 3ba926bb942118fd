"""The page of a node, in a real browser, with a live daemon, loxilb's stand-in and a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from page.test_access import Stream
from routesync.control.api import PAGES
from support.bulk_routes import add_routes, delete_routes, prefixes
from support.page import PHONE, Browser, forwarded, node_world
from support.standin import Fault
from support.waiting import eventually_sync
from support.world import World

pytestmark = pytest.mark.page

HERE = "192.168.10.1"
ROWS = ".routes .grid-body [role=row]"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with node_world(tmp_path_factory.mktemp("page")) as made:
        made.start()
        yield made


@pytest.fixture(autouse=True)
def restored(scene: World) -> Iterator[None]:
    """The kernel's table is as it was, whatever became of the test."""
    config = scene.config.read_text()
    yield
    scene.standin.inject()
    if scene.config.read_text() != config:
        scene.config.write_text(config)
        scene.reload()
    present = " ".join(scene.topology.table(scene.topology.node))
    if "10.244.9.0/24" in present:
        scene.topology.move_pod_network(9, 3)
    delete_routes(scene.topology.node, prefixes(1), HERE)


@pytest.fixture(scope="module")
def port(scene: World) -> Iterator[int]:
    with forwarded(scene.topology.node) as made:
        yield made


@pytest.fixture
def node(page: Browser, port: int) -> Iterator[Browser]:
    """The page, opened; nothing may fail in it, and nothing may be blocked."""
    page.open(f"http://127.0.0.1:{port}/")
    page.shows(".routes .bar-line", "\n5 prefixes")
    yield page
    assert page.complaints() == []


def rows(page: Browser) -> list[str]:
    """What the rows show, from the top."""
    found: list[str] = page.script(
        "return [...document.querySelectorAll(arguments[0])].sort((a, b) => a.index - b.index).map(it => it.innerText)",
        ROWS,
    )
    return [" ".join(it.split()) for it in found]


def row(page: Browser, prefix: str) -> str:
    return next((it for it in rows(page) if it.startswith(f"{prefix} ")), "")


# -- the picture ---------------------------------------------------------------------------------------------


def test_the_picture_shows_kernel_rules_best_routes_target_and_broker(node: Browser) -> None:
    node.shows("[aria-label='Kernel']", "8\n")
    node.shows("[aria-label='Best routes']", "5\n")
    for rule, routes in (("pod-networks", 4), ("dhcp-host-routes", 1), ("connected", 1), ("default", 1)):
        bars = {
            line.split("\n")[0]: line
            for line in node.script("return [...document.querySelectorAll('.bar')].map(it => it.innerText)")
        }
        assert bars[rule].split("\n")[-1] == str(routes)
    node.shows(".card", "edge\nsynced\n5 of 5")
    node.shows("[aria-label='Broker']", "connected")
    assert node.text("h1") == "node"
    assert "live" in node.text(".connection")


def test_a_click_in_the_picture_narrows_the_table(node: Browser) -> None:
    node.click_text(".bar", "pod-networks")
    node.shows(".routes .bar-line", "4 of 5")
    assert node.one("#search").get_property("value") == "rule:pod-networks"
    assert all(it.startswith("10.244.") for it in rows(node))
    node.click_text(".card .chip", "5 ")
    node.shows(".routes .bar-line", "\n5 prefixes")
    assert "target:edge" in str(node.one("#search").get_property("value"))
    assert "phase" in node.script("return decodeURIComponent(location.hash)")  # can be linked to


def test_a_target_that_does_not_answer_stands_beside_one_that_does(scene: World, node: Browser) -> None:
    with scene.config.open("a") as config:
        config.write('\n[[targets]]\nname = "other"\nurl = "http://127.0.0.1:9"\n')
    scene.reload()
    node.shows(".card:nth-child(2)", "other\nunreachable\n0 of 4\nGET /version: cannot connect")
    eventually_sync(lambda: "1 pending 1 " in row(node, "10.244.1.0/24"), what="both, the worst first")
    node.click_text(".card:nth-child(2) .chip", "default-not-allowed")
    node.shows(".routes .bar-line", "1 of 5")
    assert "other: default-not-allowed" in row(node, "0.0.0.0/0")


def test_work_that_waits_has_a_bar_and_the_time_that_is_left(scene: World, node: Browser) -> None:
    add_routes(scene.topology.node, prefixes(700), HERE)
    node.shows(".card .waiting", "left at 240/s")
    done = "return document.querySelector('.card progress').value"
    eventually_sync(lambda: 0.2 < node.script(done) < 1, what="a part of the work done")
    delete_routes(scene.topology.node, prefixes(700), HERE)
    node.shows(".card", "5 of 5", within_s=30)
    eventually_sync(lambda: not node.one(".card .waiting").is_displayed(), what="the end of the work")


def test_a_target_that_refuses_a_route_is_in_trouble_and_says_why(scene: World, node: Browser) -> None:
    scene.standin.inject(
        Fault("answer", method="POST", status=400, body='{"message":"<b>no</b> \\u001b[31mroom\\u202e"}')
    )
    add_routes(scene.topology.node, prefixes(1), HERE)
    node.shows(".card", "1 refused")
    node.click_text(".card .chip", "1 refused")
    node.shows(ROWS, "11.0.0.0/24")
    assert "refused" in row(node, "11.0.0.0/24")
    node.shows(".reasons", "1 route refused")
    assert "degraded" in node.text(".badge")
    # what the target says is text
    node.shows(ROWS, "<b>no</b>")
    assert not {"\x1b", "\u202e"} & set(node.text("body"))
    assert node.script("return document.querySelectorAll('.why b').length") == 0
    scene.standin.inject()
    delete_routes(scene.topology.node, prefixes(1), HERE)
    node.shows(".badge", "online", within_s=60)


# -- the table, explanations, history ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("__proto__:x", 0),
        ("constructor:x", 0),
        ('rule:"', 0),
        ("%%% <b> \\", 0),
        ("1.2.3.4.5", 0),
        ("10.244.0.0/99", 0),
        ("RULE:Pod-Networks", 4),
        ('rule:"pod-networks" target:EDGE 10.244.2', 1),
    ],
)
def test_whatever_is_typed_is_a_search(node: Browser, search: str, found: int) -> None:
    node.type("#search", search)
    node.shows(".routes .bar-line", f"\n{found} of 5")


def test_an_address_is_explained_as_a_path_of_decisions(node: Browser) -> None:
    node.type("#search", "10.244.1.7")
    node.shows(".routes .bar-line", "2 of 5")
    assert [it.split()[0] for it in rows(node)] == ["10.244.1.0/24", "0.0.0.0/0"]  # the longest first
    node.click(".search .primary")
    node.shows("dialog .verdict", "edge sends it by 10.244.1.0/24 via 192.168.10.10")
    first = node.text("dialog .path")
    assert [word for word in ("kernel", "rule", "next hop", "edge") if word in first] == [
        "kernel",
        "rule",
        "next hop",
        "edge",
    ]
    assert "via 10.244.1.0 dev flannel.1 onlink proto boot" in first
    assert "rule pod-networks keeps it; elected" in first
    assert "History of 10.244.1.0/24" in node.text("dialog")


def test_a_dropped_route_is_explained_too(node: Browser) -> None:
    node.type("#search", "192.168.10.1/32")
    node.press("Enter")
    node.shows("dialog .decision", "rule dhcp-host-routes drops it")
    node.press("Escape")
    node.type("#search", "192.168.10.1/24")
    node.press("Enter")
    node.shows("dialog .bad", "has host bits set; did you mean 192.168.10.0/24?")
    node.press("Escape")
    assert not node.script("return document.querySelector('dialog').open")
    assert node.script("return document.activeElement.id") == "search"  # the focus is back where it was


def test_a_change_shows_at_once_and_a_row_has_its_history(scene: World, node: Browser) -> None:
    scene.topology.move_pod_network(3, 9)
    node.shows(".routes", "10.244.9.0/24")
    eventually_sync(lambda: not row(node, "10.244.3.0/24"), what="the end of the row of the former route")
    eventually_sync(lambda: "boot" in row(node, "10.244.9.0/24"), what="the kernel's part of the row")
    node.click_text(ROWS, "10.244.9.0/24")
    node.shows("dialog .events", "accepted via 192.168.10.10")
    node.press("Escape")
    node.shows(".timeline .events", "10.244.3.0/24 withdrawn: no-route")
    scene.topology.move_pod_network(9, 3)
    node.shows(".routes", "10.244.3.0/24")


def test_a_flood_of_changes_leaves_the_table_right(scene: World, node: Browser) -> None:
    add_routes(scene.topology.node, prefixes(400), HERE)
    node.shows(".routes .bar-line", "405 prefixes", within_s=40)
    delete_routes(scene.topology.node, prefixes(400), HERE)
    node.shows(".routes .bar-line", "\n5 prefixes", within_s=60)
    node.shows(".card", "5 of 5", within_s=30)


def test_the_timeline_can_be_filtered_and_paused(scene: World, node: Browser) -> None:
    node.click_text(".timeline .chip", "alarms")
    eventually_sync(
        lambda: not any(" accepted " in it for it in node.text(".timeline .events").splitlines()),
        what="only alarms",
    )
    node.click_text(".timeline .chip", "all")
    node.press("p")
    before = node.text(".timeline .events")
    scene.topology.move_pod_network(3, 9)
    node.shows(".timeline .bar-line", " new")
    assert node.text(".timeline .events") == before
    node.press("p")
    node.shows(".timeline .events", "10.244.9.0/24 accepted")
    scene.topology.move_pod_network(9, 3)
    node.shows(".routes", "10.244.3.0/24")


# -- for everyone --------------------------------------------------------------------------------------------


def test_it_can_be_used_by_keys_alone(node: Browser) -> None:
    node.press("/")
    assert node.script("return document.activeElement.id") == "search"
    node.script("document.querySelector('.routes [role=grid]').focus()")
    node.press("Down", "Down")
    active = (
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.innerText"
    )
    eventually_sync(
        lambda: "10.244.0.0/24" in (node.script(f"return {active}") or ""),
        what="the second row as the active one",
    )
    node.press("Enter")
    node.shows("dialog h2", "10.244.0.0/24")
    node.press("Escape")
    assert node.script("return document.activeElement.getAttribute('role')") == "grid"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(node: Browser, axe: str, theme: str) -> None:
    node.prefers(color_scheme=theme)
    assert node.violations(axe) == []
    node.type("#search", "10.244.1.7")
    node.click(".search .primary")
    node.shows("dialog .path", "rule pod-networks")
    assert node.violations(axe) == []
    node.press("Escape")
    node.resize(*PHONE)
    assert node.violations(axe) == []
    assert node.script("return document.documentElement.scrollWidth") <= PHONE[0]  # nothing is cut off


def test_nothing_moves_for_those_who_want_that(scene: World, node: Browser) -> None:
    def moving() -> bool:
        return bool(node.script("return document.getAnimations().some(it => it.playState === 'running')"))

    node.prefers(reduced_motion="no-preference")
    scene.topology.move_pod_network(3, 9)
    eventually_sync(moving, what="something that moves")
    node.prefers(reduced_motion="reduce")
    assert not moving()
    scene.topology.move_pod_network(9, 3)
    node.shows(".routes", "10.244.3.0/24")


# -- trouble -------------------------------------------------------------------------------------------------


def test_the_loss_of_the_broker_is_in_the_timeline(scene: World, node: Browser) -> None:
    scene.broker.kill()
    node.shows("[aria-label='Broker']", "not connected")
    node.shows(".timeline .events", "no connection to the broker: ")
    scene.broker.start()
    node.shows(".timeline .events", "connected to the broker again", within_s=60)
    node.shows("[aria-label='Broker']", "connected")


def test_it_outlives_the_daemon_and_shows_what_happened_meanwhile(
    scene: World, node: Browser, axe: str
) -> None:
    scene.kill()
    node.shows(".connection", "the daemon is gone; what you see is old")
    assert node.script("return getComputedStyle(document.querySelector('.flow')).filter") == "grayscale(1)"
    assert node.violations(axe) == []
    node.type("#search", "10.244.1.7")
    node.press("Enter")
    node.shows("dialog .bad", "the daemon is gone")
    node.press("Escape")
    node.type("#search", "")
    scene.topology.move_pod_network(3, 9)
    scene.start()
    node.shows(".connection", "live", within_s=30)
    node.shows(".routes", "10.244.9.0/24", within_s=30)
    eventually_sync(lambda: not row(node, "10.244.3.0/24"), within_s=60, what="the end of the former route")
    node.shows(".timeline .events", "this page is connected again")
    assert "missed 1," not in node.text(".timeline .events")  # nobody knows how many a killed daemon had
    scene.topology.move_pod_network(9, 3)
    node.shows(".timeline .events", "10.244.3.0/24 accepted", within_s=30)  # the events go on as well


def test_a_page_too_many_says_that_it_gets_no_events(page: Browser, port: int) -> None:
    with ExitStack() as others:
        for _ in range(PAGES):
            others.callback(Stream(port).close)
        page.open(f"http://127.0.0.1:{port}/")
        page.shows(".connection", "live, without events: too many pages are open")
        page.shows(".routes .bar-line", "\n5 prefixes")
    eventually_sync(lambda: page.text(".connection") == "live", what="a place for this page")


def test_pages_that_the_browser_keeps_hold_no_connection(page: Browser, port: int) -> None:
    for _ in range(8):  # a browser has six connections for a host
        page.open(f"http://127.0.0.1:{port}/")
        page.shows(".routes .bar-line", "\n5 prefixes")
        page.type("#search", "10.244.1.7")  # a browser keeps only pages that were used
        page.click(".search .primary")
        page.shows("dialog .path", "rule pod-networks")
        page.open("about:blank")


def test_only_rows_that_can_be_seen_are_elements(page: Browser, tmp_path: Path) -> None:
    count = 30_000
    with node_world(tmp_path, "--queue-limit", "10000000", "--batch", "100000") as big:
        add_routes(big.topology.node, prefixes(count), HERE)
        big.start()
        with forwarded(big.topology.node) as port:
            page.open(f"http://127.0.0.1:{port}/")
            page.shows(".routes .bar-line", f"{count + 5:,} prefixes", within_s=60)
            most, seen = page.script(
                """
                const scroller = document.querySelector('.routes .grid-scroll');
                let most = 0, seen = 0;
                for (let at = 0; at <= 100; at += 1) {
                  scroller.scrollTop = (scroller.scrollHeight - scroller.clientHeight) * at / 100;
                  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                  most = Math.max(most, scroller.querySelectorAll('*').length);
                  seen += 1;
                }
                return [most, seen];
                """
            )
            assert seen == 101
            assert most < 1000  # elements, of all rows together
            assert any("11.117.47.0/24" in it for it in rows(page))  # the last
            page.type("#search", "11.100.200")
            page.shows(".routes .bar-line", f"1 of {count + 5:,}")
            big.node.ip("route del 11.100.200.0/24")
            page.shows(".routes .bar-line", f"0 of {count + 4:,}", within_s=60)
    assert page.complaints() == []
