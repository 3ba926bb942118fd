"""A browser, and the page of a daemon that runs in a namespace of its own."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo.topology import FoundingTopology
from routesync.kernel.namespaces import in_namespace
from support.broker import broker
from support.daemon import ended
from support.netns import Namespace
from support.standin import running_standin
from support.waiting import eventually_sync
from support.world import EXAMPLE, NODE, World

CONTROL = '\n[control]\nlisten = "127.0.0.1:9469"\npage = true\n'
PORT = 9469
WEBSOCKETS_PORT = 9001
WEBSOCKETS = f"listener {WEBSOCKETS_PORT} 127.0.0.1\nprotocol websockets\n"
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Down": "\ue015", "End": "\ue010", "Home": "\ue011"}
KEYS |= {"Space": " ", "Backspace": "\ue003"}
WIDE, PHONE = (1440, 1000), (390, 844)


class _Forwarder(socketserver.ThreadingTCPServer):
    """Listens here, and connects each client to a port of the loopback in a namespace."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, netns: str, port: int) -> None:
        self.netns = netns
        self.to = ("127.0.0.1", port)
        super().__init__(("127.0.0.1", 0), _Forward)

    def handle_error(self, request: object, client_address: object) -> None:
        """The daemon is away, or one of the two hung up."""


class _Forward(socketserver.BaseRequestHandler):
    server: _Forwarder

    def handle(self) -> None:
        to = self.server.to
        with in_namespace(self.server.netns, lambda: socket.create_connection(to, timeout=5)) as inner:
            inner.settimeout(None)
            back = threading.Thread(target=_copy, args=(inner, self.request), daemon=True)
            back.start()
            _copy(self.request, inner)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarded(netns: str, port: int = PORT) -> Iterator[int]:
    """The port here that leads to one inside the namespace."""
    with _Forwarder(netns, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def node_world(directory: Path, *standin: str) -> Iterator[World]:
    """The founding world, whose broker takes WebSockets, too, and whose daemon serves the page; the test starts it."""
    with ExitStack() as stack:
        topology = stack.enter_context(FoundingTopology())
        node, loxilb = Namespace(topology.node), Namespace(topology.loxilb)
        process = stack.enter_context(running_standin(loxilb, *standin))
        mosquitto = stack.enter_context(broker(namespace=node, extra=WEBSOCKETS))
        made = World(directory, topology, loxilb, process, mosquitto)
        made.config.write_text(EXAMPLE.read_text() + NODE + CONTROL)
        stack.enter_context(ended(made))
        yield made


class Browser:
    """Headless Chromium with a profile of its own."""

    def __init__(self, profile: Path, size: tuple[int, int] = WIDE) -> None:
        from selenium import webdriver  # noqa: PLC0415 - installed when the first test needs it
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

        options = webdriver.ChromeOptions()
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars=false",
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver: Any = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
        self.resize(*size)

    def resize(self, width: int, height: int) -> None:
        """The size of what is seen, whatever the window's own edges are."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefers(self, **features: str) -> None:
        """What the visitor prefers, e.g. color_scheme="dark", reduced_motion="reduce"."""
        wanted = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def open(self, url: str) -> None:
        self.driver.get(url)

    def script(self, code: str, *arguments: object) -> Any:
        """Run a function's body in the page; return what it returns."""
        return self.driver.execute_script(code, *arguments)

    def text(self, selector: str) -> str:
        """All text of the first element that matches; empty if there is none."""
        found = self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found)

    def count(self, selector: str) -> int:
        return int(self.script("return document.querySelectorAll(arguments[0]).length", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Replace what is in a field."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text or KEYS["Space"] + KEYS["Backspace"])  # clear() alone is no input

    def press(self, *keys: str) -> None:
        """Press keys, by name or as they are, where the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(KEYS.get(key, key))

    def click_text(self, selector: str, text: str) -> None:
        """Click the first element that matches and whose text contains this; waits for it."""
        code = "return [...document.querySelectorAll(arguments[0])].find(it => it.innerText.includes(arguments[1]))"
        eventually_sync(
            lambda: self.script(code, selector, text) is not None, what=f"{text!r} in one of {selector}"
        )
        self.script(code, selector, text).click()

    def shows(self, selector: str, text: str, within_s: float = 15) -> None:
        """Wait until the text is there."""
        eventually_sync(
            lambda: text in self.text(selector),
            within_s=within_s,
            what=f"{text!r} in {selector}",
            but=lambda: f"there is {self.text(selector)[:2000]!r}",
        )

    def complaints(self) -> list[str]:
        """What went wrong in the page since the last call: errors, and what the security policy blocked.

        That a request failed, since the daemon was away, is none of it.
        """
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in {"SEVERE", "WARNING"} and entry["source"] != "network"
        ]

    def violations(self, axe: str) -> list[str]:
        """What axe finds wrong."""
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((it) => done(it.violations))"
        )
        return [f"{it['id']}: {it['help']}: {[node['html'] for node in it['nodes']][:3]}" for it in found]

    def picture(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(file))

    def quit(self) -> None:
        self.driver.quit()


@contextmanager
def browser(size: tuple[int, int] = WIDE) -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="rs-browser-", ignore_cleanup_errors=True) as profile:
        made = Browser(Path(profile), size)
        try:
            yield made
        finally:
            made.quit()
