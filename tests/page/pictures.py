"""`make pictures`: the pictures of README and docs, of the page, of commands and of the dashboard as they run."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from page import dashboard, terminal
from page.test_fleet import fleet_site
from support.bulk_routes import add_routes, delete_routes, prefixes
from support.daemon import ROUTESYNC
from support.fleet import FleetNode, publish
from support.page import PHONE, Browser, browser, forwarded, node_world
from support.standin import Fault
from support.waiting import eventually_sync
from support.world import World

SIZE = (1440, 940)
BGP = 2400
HERE = "192.168.10.1"
SITES = ("berlin", "lyon", "porto")
TERMINAL = {"FORCE_COLOR": "1", "COLUMNS": str(terminal.COLUMNS), "LINES": str(terminal.LINES)}
DASHBOARD_ROWS = 31
"""Of the dashboard's grid: what is above is drawn."""


def node(into: Path, page: Browser) -> None:
    """A node in the middle of its work: the page, commands in a terminal, the dashboard."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name, ExitStack() as stack:
        made = stack.enter_context(node_world(Path(name)))
        made.start()
        port = stack.enter_context(forwarded(made.topology.node))
        prometheus = stack.enter_context(dashboard.prometheus(port))
        began = time.time()
        page.open(f"http://127.0.0.1:{port}/")
        page.shows(".card", "5 of 5", within_s=60)
        watch(made, into / "watch.svg")
        add_routes(made.topology.node, prefixes(BGP // 2), HERE)
        made.node.ip("route add blackhole 198.51.100.0/24 proto bgp")
        for number in range(12):  # something for the timeline
            made.topology.renew_lease()
            move(made, back=number % 2 == 1)
            delete_routes(made.topology.node, prefixes(5 * number), HERE)
            time.sleep(2)
            add_routes(made.topology.node, prefixes(5 * number), HERE)
            time.sleep(2)
        refuse(made, times=3)
        add_routes(made.topology.node, prefixes(BGP), HERE)
        page.shows(".card", "refused")
        both(page, into / "node")
        terminal.draw(
            made.run("status", **TERMINAL).stdout.replace(name, "/etc/routesync"),
            "routesync status",
            into / "status.svg",
        )
        page.type("#search", "10.244.1.7")
        page.click(".search .primary")
        page.shows("dialog .path", "rule pod-networks")
        page.picture(into / "explain.png")
        page.press("Escape")
        page.type("#search", "")
        phone(page, into / "node-phone.png")
        page.shows(".card", f"{BGP + 5:,} of {BGP + 5:,}", within_s=90)
        dashboard.draw(prometheus, began, time.time(), DASHBOARD_ROWS, into / "dashboard.svg")


def move(made: World, *, back: bool) -> None:
    """A pod network comes in another's place."""
    made.topology.move_pod_network(*((9, 3) if back else (3, 9)))


def refuse(made: World, *, times: int | None = None) -> None:
    body = '{"code":400,"message":"no space left"}'
    made.standin.inject(Fault("answer", method="POST", status=400, body=body, times=times))


def watch(made: World, file: Path) -> None:
    """What `routesync watch` shows while things happen to a node."""
    with tempfile.NamedTemporaryFile("r") as output:

        def screen() -> str:
            return terminal.last_screen(Path(output.name).read_text())

        def waits_for(text: str, times: int = 1) -> None:
            eventually_sync(lambda: screen().count(text) >= times, what=repr(text), but=screen)

        with Path(output.name).open("w") as into:
            watching = subprocess.Popen(
                made.command(*ROUTESYNC, "watch"), stdout=into, env=made.environment | TERMINAL
            )
        try:
            waits_for("online")
            made.topology.renew_lease()
            move(made, back=False)
            waits_for("route.withdrawn")
            refuse(made)
            made.node.ip(f"route add 203.0.113.0/24 via {HERE} proto bgp")
            waits_for("route.refused")
            made.standin.inject(Fault("reset"))
            move(made, back=True)
            waits_for("target.down")
            made.standin.inject()
            waits_for("route.withdrawn", times=2)
        finally:
            watching.terminate()
            watching.wait()
        terminal.draw(screen(), "routesync watch", file)
        made.node.ip("route del 203.0.113.0/24")


def fleet(into: Path, page: Browser, mqtt_js: Path) -> None:
    """A fleet of 600 nodes, a few of them in trouble."""
    chance = random.Random(7)
    routes = {f"10.{n}.0.0/16": "192.0.2.1" for n in range(1, 201)}
    unlimited = "max_queued_messages 0\n"
    with (
        tempfile.TemporaryDirectory() as name,
        fleet_site(Path(name), mqtt_js, unlimited) as (mosquitto, url),
    ):
        publications = []
        for number in range(600):
            labels = {"site": SITES[number % len(SITES)]}
            made = FleetNode(f"edge-{number:03}", routes if number % 200 else dict(list(routes.items())[:-2]))
            others: dict[str, Any] = {"labels": labels, "version": "0.0.9" if number % 31 == 5 else "0.1.0"}
            if number % 97 == 3:
                publications.append(made.status("offline"))
            elif number % 211 == 50:
                publications.append(made.status(age_s=chance.randrange(400, 4000), **others))
            elif number % 83 == 11:
                alarm = made.alarm("contended", "something deletes routes again and again: 12 routes")
                publications.append(
                    made.status(
                        "degraded", reasons=[f"target edge: {alarm.detail}"], alarms=(alarm,), **others
                    )
                )
            else:
                publications.append(made.status(age_s=chance.randrange(0, 55), **others))
            publications += made.table()
        publish(mosquitto.settings(), publications)
        page.open(url)
        page.shows(".fleet .bar-line", "582 online")
        page.type("#who-has", "10.7.1.2")
        page.press("Enter")
        page.shows("[aria-labelledby=who-title]", "have a route")
        page.click_text("[aria-labelledby=diff-title] button", "Compare all")
        page.shows("[aria-labelledby=diff-title]", "the same")
        page.script("window.scrollTo(0, 0); document.activeElement.blur()")
        both(page, into / "fleet")
        phone(page, into / "fleet-phone.png")


def both(page: Browser, file: Path) -> None:
    for theme in ("light", "dark"):
        page.prefers(color_scheme=theme)
        time.sleep(0.3)
        page.picture(file.with_name(f"{file.name}-{theme}.png"))
    page.prefers(color_scheme="light")


def phone(page: Browser, file: Path) -> None:
    page.resize(*PHONE)
    page.script("window.scrollTo(0, 0); document.activeElement.blur()")
    time.sleep(0.3)
    page.picture(file)
    page.resize(*SIZE)


def main() -> None:
    into, mqtt_js = Path(sys.argv[1]), Path(sys.argv[2])
    with browser(SIZE) as page:
        fleet(into, page, mqtt_js)
        node(into, page)
        eventually_sync(lambda: not page.complaints(), what="a page without complaints")


if __name__ == "__main__":
    main()
