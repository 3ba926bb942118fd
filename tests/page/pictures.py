"""`make pictures`: the pictures of the docs, of the page as it runs."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from page.test_fleet import fleet_site
from support.bulk_routes import add_routes, delete_routes, prefixes
from support.fleet import FleetNode, publish
from support.page import PHONE, Browser, browser, forwarded, node_world
from support.standin import Fault
from support.waiting import eventually_sync

SIZE = (1440, 940)
BGP = 2400
HERE = "192.168.10.1"


def node(into: Path, page: Browser) -> None:
    """A node in the middle of its work."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name, node_world(Path(name)) as made:
        add_routes(made.topology.node, prefixes(BGP // 2), HERE)
        made.node.ip("route add blackhole 198.51.100.0/24 proto bgp")
        made.start()
        with forwarded(made.topology.node) as port:
            page.open(f"http://127.0.0.1:{port}/")
            page.shows(".card", "synced", within_s=60)
            for number in range(12):  # something for the timeline
                made.topology.renew_lease()
                made.topology.move_pod_network(3 if number % 2 == 0 else 9, 9 if number % 2 == 0 else 3)
                delete_routes(made.topology.node, prefixes(5 * number), HERE)
                time.sleep(2)
                add_routes(made.topology.node, prefixes(5 * number), HERE)
                time.sleep(2)
            fault = Fault(
                "answer", method="POST", status=400, body='{"code":400,"message":"no space left"}', times=3
            )
            made.standin.inject(fault)
            add_routes(made.topology.node, prefixes(BGP), HERE)
            page.shows(".card", "refused")
            both(page, into / "node")
            page.type("#search", "10.244.1.7")
            page.click(".search .primary")
            page.shows("dialog .path", "rule pod-networks")
            page.picture(into / "explain.png")
            page.press("Escape")
            page.type("#search", "")
            phone(page, into / "node-phone.png")


def fleet(into: Path, page: Browser, mqtt_js: Path) -> None:
    """A fleet of 600 nodes, a few of them in trouble."""
    chance = random.Random(7)
    routes = {f"10.{n}.0.0/16": "192.0.2.1" for n in range(1, 201)}
    with tempfile.TemporaryDirectory() as name, fleet_site(Path(name), mqtt_js) as (mosquitto, url):
        publications = []
        for number in range(600):
            made = FleetNode(f"edge-{number:03}", routes if number % 200 else dict(list(routes.items())[:-2]))
            if number % 97 == 3:
                publications.append(made.status("offline"))
            elif number % 211 == 50:
                publications.append(made.status(age_s=chance.randrange(400, 4000)))
            elif number % 83 == 11:
                alarm = made.alarm("contended", "something deletes routes again and again: 12 routes")
                publications.append(
                    made.status("degraded", reasons=[f"target edge: {alarm.detail}"], alarms=(alarm,))
                )
            else:
                publications.append(made.status(age_s=chance.randrange(0, 55)))
            if number % 20 == 0:
                publications += made.table()
        publish(mosquitto.settings(), publications)
        page.open(url)
        page.shows(".fleet .bar-line", "offline")
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
