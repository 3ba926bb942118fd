"""Who may have the page: nobody unless it is configured, and no foreign site through a visitor's browser."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from routesync.control.api import PAGES
from support.daemon import Daemon, prepared
from support.netns import Namespace, namespace
from support.page import forwarded
from support.waiting import eventually_sync

NODE = '[node]\nname = "n"\n[[targets]]\nname = "lb"\nurl = "http://127.0.0.1:9"\n'
LISTEN = '[control]\nlisten = "127.0.0.1:9469"\n'
PAGE = f'{LISTEN}page = true\npage_hosts = ["node-1.example"]\n'


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    with namespace("page") as made:
        made.batch(
            [
                "link add d0 type veth peer name p0",
                "link set p0 up",
                "addr add 192.0.2.1/24 dev d0",
                "link set d0 up",
            ]
        )
        yield made


@pytest.fixture(scope="module")
def daemon(space: Namespace) -> Iterator[Daemon]:
    with prepared(NODE + PAGE, space=space) as made:
        made.start()
        made.serves()
        yield made


@pytest.fixture(scope="module")
def port(space: Namespace, daemon: Daemon) -> Iterator[int]:
    with forwarded(space.name) as made:
        assert daemon.process is not None
        eventually_sync(lambda: answers(made), what="the listener")
        yield made


def answers(port: int) -> bool:
    try:
        return ask(port, "/health/live").status == 200
    except (OSError, http.client.HTTPException):
        return False


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read().decode()

    @property
    def problem(self) -> str:
        return str(json.loads(self.body)["detail"])


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        return Answer(connection.getresponse())


def test_a_listener_alone_serves_metrics_and_health_and_nothing_else(
    space: Namespace, daemon: Daemon
) -> None:
    daemon.config.write_text(NODE + LISTEN)
    with forwarded(space.name) as port:
        daemon.reload()
        eventually_sync(lambda: ask(port, "/").status == 404, what="the end of the page")
        for path in ("/", "/page/main.js", "/v1/status", "/v1/routes", "/v1/explain?of=::1", "/v1/events"):
            assert ask(port, path).status == 404, path
            assert "use the control socket for the rest" in ask(port, path).problem
        assert ask(port, "/metrics").status == 200
        daemon.config.write_text(NODE + PAGE)
        daemon.reload()
        eventually_sync(lambda: ask(port, "/").status == 200, what="the page again")


def test_the_page_may_load_nothing_from_elsewhere_and_be_in_no_frame(port: int) -> None:
    page = ask(port, "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    script = ask(port, "/page/main.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for known in (script.headers["etag"], f'"x", W/{script.headers["etag"]}', "*"):
        assert ask(port, "/page/main.js", If_None_Match=known).status == 304, known
    assert ask(port, "/page/main.js", If_None_Match='"x"').status == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/metrics", "/health/live"])
def test_the_head_alone_can_be_asked_for(port: int, path: str) -> None:
    head, whole = ask(port, path, "HEAD"), ask(port, path)
    assert (head.status, head.body) == (200, "")
    assert head.headers["content-type"] == whole.headers["content-type"]
    if path != "/metrics":
        assert int(head.headers["content-length"]) == len(whole.body.encode())
    assert ask(port, "/v1/status", "HEAD").status == 405
    assert ask(port, path, "HEAD", Host="evil.example").status == ask(port, path, Host="evil.example").status


@pytest.mark.parametrize("path", ["/page/none.js", "/page/..%2f__init__.py", "/page/%2e%2e/config", "/page/"])
def test_only_files_of_the_page_are_served(port: int, path: str) -> None:
    assert ask(port, path).status == 404


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]:9469", "localhost:9469", "10.0.0.1:80", "Node-1.Example:9469"]
)
def test_an_address_localhost_and_configured_names_are_hosts(port: int, host: str) -> None:
    for path in ("/", "/v1/status"):
        assert ask(port, path, Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:9469", "localhost.evil.example", "", "[evil.example]:9469"],
)
def test_any_other_host_is_refused_as_in_dns_rebinding(port: int, host: str) -> None:
    for path in ("/", "/page/main.js", "/v1/status", "/v1/routes", "/v1/explain?of=::1", "/v1/events"):
        answer = ask(port, path, Host=host)
        assert answer.status == 403
        assert "page_hosts" in answer.problem
    assert ask(port, "/metrics", Host=host).status == 200  # as ever


def test_another_site_may_link_to_the_page_and_have_nothing_of_it(port: int) -> None:
    assert ask(port, "/", Sec_Fetch_Site="cross-site").status == 200
    for site in ("cross-site", "same-site"):
        assert ask(port, "/v1/explain?of=::1", Sec_Fetch_Site=site).status == 403
    assert ask(port, "/v1/status", Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize(
    "path", ["/v1/pause", "/v1/resync", "/v1/reload", "/v1/withdraw", "/v1/plan", "/v1/openapi.json"]
)
def test_nothing_can_be_changed_and_no_more_is_served_than_the_page_uses(port: int, path: str) -> None:
    for method in ("GET", "POST"):
        assert ask(port, path, method).status == 404
    assert ask(port, "/v1/status", "POST").status == 405


class Stream:
    """Server-sent events in their plainest form."""

    def __init__(self, port: int, path: str = "/v1/events", **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", path, headers={"Accept": "text/event-stream"} | named)
        self.response = self._connection.getresponse()

    def next(self) -> tuple[str | None, dict[str, object]]:
        """The id and the data of the next message."""
        number, data = None, None
        while (line := self.response.readline().decode().rstrip("\n")) or data is None:
            name, _, value = line.partition(": ")
            if name == "id":
                number = value
            elif name == "data":
                data = json.loads(value)
        return number, data

    def until(self, kind: str) -> tuple[str | None, dict[str, object]]:
        while (message := self.next())[1]["type"] != f"io.routesync.{kind}.v1":
            pass
        return message

    def close(self) -> None:
        self.response.close()
        self._connection.close()


def test_events_come_as_server_sent_events_and_go_on_after_the_last(space: Namespace, port: int) -> None:
    stream = Stream(port)
    assert stream.response.headers["Content-Type"] == "text/event-stream"
    number, status = stream.next()
    assert (number, status["type"]) == (None, "io.routesync.status.v1")
    space.ip("route add 10.1.0.0/16 dev d0")
    number, event = stream.until("route.ineligible")
    while event["subject"] != "10.1.0.0/16":
        number, event = stream.until("route.ineligible")
    assert number == event["id"]
    stream.close()
    space.ip("route add 10.2.0.0/16 dev d0")
    again = Stream(port, "/v1/events?after=of-the-start-0", Last_Event_ID=str(number))
    assert again.until("route.ineligible")[1]["subject"] == "10.2.0.0/16"
    again.close()


def test_pages_cannot_lock_commands_out(port: int, daemon: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(PAGES):
            stream = Stream(port)
            stack.callback(stream.close)
            assert stream.response.status == 200
        busy = Stream(port)
        stack.callback(busy.close)
        assert busy.response.status == 503
        assert daemon.run("status", "--json").stdout
        assert daemon.call("GET", "/v1/explain?of=::1").status == 200
