"""The control socket of a real daemon: who may what, and that no caller gets it out of step."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator

import jsonschema
import pytest

from routesync.control.api import CALLS
from routesync.control.openapi import document
from routesync.control.requests import JSON
from routesync.control.server import CONNECTIONS
from support.daemon import Daemon, connect, prepared
from support.netns import Namespace, namespace
from support.other_user import User
from support.waiting import eventually_sync

OWNER = User(uid=61234, gid=61234)
MEMBER = User(uid=61235, gid=61235, groups=(OWNER.gid,))
STRANGER = User(uid=61236, gid=61236)
NOT_RUNNING, NOT_ALLOWED = 3, 4


@pytest.fixture(scope="module")
def alone() -> Iterator[Daemon]:
    """A daemon in a namespace with a few routes, whose one target is never there."""
    with namespace("control") as space, prepared(TARGET + LISTENER, space=space) as daemon:
        routes(space)
        daemon.start()
        daemon.serves()
        yield daemon


LISTENER = '[control]\nlisten = "127.0.0.1:9469"\n'
TARGET = """
[[policy.rules]]
name = "connected"
match = { protocol = "kernel" }
action = "drop"

[[targets]]
name = "lb"
url = "http://127.0.0.1:9"
"""


def routes(space: Namespace) -> None:
    space.batch(
        [
            "link add d0 type veth peer name p0",
            "link set p0 up",
            "addr add 192.0.2.1/24 dev d0",
            "link set d0 up",
            "route add 10.1.0.0/16 via 192.0.2.2",
            "route add 10.1.0.0/16 via 192.0.2.3 metric 50",
            "route add 10.1.2.0/24 via 192.0.2.2 proto 186 mtu 1400",
        ]
    )


# -- answers -------------------------------------------------------------------------------------------------

QUERIES = {"/v1/explain": "?of=10.1.2.3"}


@pytest.mark.parametrize(
    "call", [it for it in CALLS if not it.changes and it.name not in ("events", "metrics")]
)
def test_every_answer_is_as_the_document_says(alone: Daemon, call: object) -> None:
    path = call.path  # type: ignore[attr-defined]
    reply = alone.call("GET", path + QUERIES.get(path, ""))
    assert reply.status == 200, reply.body
    whole = document(CALLS)
    schema = whole["paths"][path]["get"]["responses"]["200"]["content"][JSON]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": whole["components"]}).validate(reply.json)


def test_orders_are_carried_out_and_answered_as_the_document_says(alone: Daemon) -> None:
    whole = document(CALLS)
    for name, body in (("resync", b""), ("pause", b'{"target": "lb"}'), ("resume", b"{}"), ("release", b"")):
        reply = alone.call("POST", f"/v1/{name}", body)
        assert reply.status == 200, reply.body
        schema = whole["paths"][f"/v1/{name}"]["post"]["responses"]["200"]["content"][JSON]["schema"]
        jsonschema.Draft202012Validator({**schema, "components": whole["components"]}).validate(reply.json)
        assert "lb" in json.dumps(reply.json)
    assert alone.log().count('"event": "control_call"') >= 4
    assert "uid 0 (root)" in alone.log()


def test_explain_finds_every_candidate_also_dropped_ones(alone: Daemon) -> None:
    found = alone.get("/v1/explain?of=10.1.2.3")
    assert [it["prefix"] for it in found["prefixes"]] == ["10.1.2.0/24", "10.1.0.0/16"]
    (longest, shorter) = found["prefixes"]
    assert longest["candidates"][0]["metrics"] == {"mtu": 1400}
    assert longest["held"] is True
    assert [(it["metric"], it["elected"]) for it in shorter["candidates"]] == [(0, True), (50, False)]
    assert "its metric 50 is above 0" in shorter["candidates"][1]["why"]
    assert longest["targets"][0]["desired"] == "192.0.2.2"

    (dropped,) = alone.get("/v1/explain?of=192.0.2.77")["prefixes"]
    assert dropped["candidates"][0]["verdict"] == "drop"
    assert dropped["candidates"][0]["why"] == "rule connected drops it"
    assert alone.get("/v1/explain?of=2001:db8::1")["prefixes"] == []


def test_the_table_is_filtered(alone: Daemon) -> None:
    def prefixes(query: str) -> list[str]:
        return [row["prefix"] for row in alone.get(f"/v1/routes?{query}")["routes"]]

    assert prefixes("family=ipv4") == ["10.1.0.0/16", "10.1.2.0/24"]
    assert prefixes("within=10.1.2.0/23") == ["10.1.2.0/24"]
    assert prefixes("covering=10.1.9.9") == ["10.1.0.0/16"]
    assert prefixes("protocol=bgp") == ["10.1.2.0/24"]
    assert prefixes("rule=connected") == []
    assert prefixes("target=lb&phase=pending&family=ipv4") == ["10.1.0.0/16", "10.1.2.0/24"]
    assert prefixes("phase=confirmed") == []
    limited = alone.get("/v1/routes?family=ipv4&limit=1")
    assert (len(limited["routes"]), limited["matched"]) == (1, 2)


def test_the_live_plan_has_the_dropped_routes_up_to_a_bound(alone: Daemon) -> None:
    plan = alone.get("/v1/plan")
    ends = {
        row["prefix"]: [end["fate"] for end in row["targets"]] for row in plan["routes"] if row["elected"]
    }
    assert ends == {"10.1.0.0/16": ["post"], "10.1.2.0/24": ["post"]}
    dropped = [row for row in plan["routes"] if row["verdict"] == "drop" and row["family"] == "ipv4"]
    assert [(row["prefix"], row["rule"]) for row in dropped] == [("192.0.2.0/24", "connected")]
    bounded = alone.get("/v1/plan?dropped=0")
    assert not [row for row in bounded["routes"] if row["verdict"] == "drop"]
    assert bounded["left_out"]["connected"] >= 1


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "url", "body", "said"),
    [
        ("GET", "/", None, "404 not-found: there is no /; GET /v1/openapi.json lists the calls"),
        ("DELETE", "/v1/status", None, "405 wrong-method: /v1/status takes GET, not DELETE"),
        ("GET", "/v1/pause", None, "405 wrong-method: /v1/pause takes POST, not GET"),
        ("GET", "/v1/explain", None, "400 bad-request: of: is missing"),
        ("GET", "/v1/explain?of=lb", None, "400 bad-request: of: 'lb' is no address or prefix"),
        ("GET", "/v1/events?colour=red", None, "400 bad-request: colour: is unknown"),
        ("GET", f"/v1/events?after=epoch-{'9' * 5000}", None, "400 bad-request: after: String should match"),
        ("GET", "/v1/routes?target=nix", None, "404 unknown-target: there is no target nix; there are: lb"),
        ("POST", "/v1/pause", b"{target", "400 bad-request: Invalid JSON"),
        ("POST", "/v1/pause", b"\xff\xfe", "400 bad-request: Invalid JSON"),
        ("POST", "/v1/pause", b"[1]", "400 bad-request: Input should be an object"),
        (
            "POST",
            "/v1/pause",
            b'{"targets": "lb"}',
            "400 bad-request: targets: is unknown; known are: target",
        ),
        ("POST", "/v1/pause", b'{"target": 7}', "400 bad-request: target: Input should be a valid string"),
        ("POST", "/v1/pause", b'{"target": "nix"}', "404 unknown-target"),
        ("POST", "/v1/pause", b" " * (5 * 2**20), "413 too-large: a request body has at most 4194304 bytes"),
        ("POST", "/v1/forget", b'{"target": "lb"}', "409 conflict: target lb is mirrored into"),
    ],
)
def test_a_mistake_is_a_problem_that_says_what_it_was(
    alone: Daemon, method: str, url: str, body: bytes | None, said: str
) -> None:
    before = len(alone.logged("control_call"))
    reply = alone.call(method, url, body)
    assert f"{reply.status} {reply.problem}".startswith(said)
    assert {it["outcome"] for it in alone.logged("control_call")[before:]} <= {"unknown-target", "conflict"}
    assert alone.get("/v1/status")["targets"][0]["paused_since"] is None


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00" * 4096,
        b"GET\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["zeroes", "no request", "unknown version", "endless path"],
)
def test_what_is_no_request_is_refused_and_costs_nothing(alone: Daemon, noise: bytes) -> None:
    with connect(alone.socket) as caller:
        caller.sendall(noise)
        assert caller.recv(64).startswith(b"HTTP/1.0 400")
    with connect(alone.socket) as caller:
        caller.sendall(b"POST /v1/resync HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    assert alone.get("/v1/status")["status"]["state"] == "degraded"
    assert "Traceback" not in alone.log()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"FOO /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/explain?of=\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 8200 + b"\r\n\r\n", 400),
        (b"POST /v1/resync HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Encoding: br\r\n\r\nx", 400),
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417),
    ],
    ids=["method", "no host", "not UTF-8", "long line", "encoding", "expectation"],
)
def test_what_is_no_call_is_refused_in_plain_text(alone: Daemon, request_: bytes, status: int) -> None:
    with connect(alone.socket) as caller:
        caller.sendall(request_)
        head = caller.recv(4096)
    assert head.split()[1] == str(status).encode()
    assert b"\r\nContent-Type: text/plain" in head


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_monitoring_may_ask_for_the_head_alone(alone: Daemon, path: str) -> None:
    reply = alone.call("HEAD", path)
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["content-length"]) > 0
    assert alone.call("HEAD", "/v1/status").status == 405


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_is_not_encoded_as_its_headers_say_is_refused(alone: Daemon, encoding: str) -> None:
    with connect(alone.socket) as caller:
        head = f"POST /v1/pause HTTP/1.0\r\nContent-Encoding: {encoding}\r\nContent-Length: 7\r\n\r\n"
        caller.sendall(head.encode() + b"garbage")
        answer = b"".join(iter(lambda: caller.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 400")
    assert f"the body cannot be read as {encoding}".encode() in answer
    assert "Traceback" not in alone.log()


def test_idle_clients_of_the_port_do_not_lock_out_health_and_metrics(alone: Daemon) -> None:
    code = (
        "import socket, urllib.request\n"
        f"crowd = [socket.create_connection(('127.0.0.1', 9469)) for _ in range({CONNECTIONS + 40})]\n"
        "for path in ('health/live', 'metrics'):\n"
        "    print(urllib.request.urlopen(f'http://127.0.0.1:9469/{path}', timeout=10).status)"
    )
    assert alone.space is not None
    assert alone.space.run(["python3", "-c", code]).split() == ["200", "200"]


def asked(daemon: Daemon, path: str, header: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request with this header."""
    with connect(daemon.socket) as caller:
        caller.sendall(b"GET %s HTTP/1.0\r\n%s\r\n\r\n" % (path.encode(), header))
        head, _, body = b"".join(iter(lambda: caller.recv(65536), b"")).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "version",
    [b"abc", b"1.a", b"1.0.0.\xff", "1.0.0.\u00fc".encode(), b'"1.0.0"', b"9" * 5000],
    ids=["a word", "a word behind 1", "not UTF-8", "not ASCII", "quoted", "endless"],
)
@pytest.mark.parametrize("kind", [b"application/openmetrics-text", b"text/plain"])
def test_metrics_in_a_version_that_is_none_come_as_plain_text(
    alone: Daemon, kind: bytes, version: bytes
) -> None:
    head, body = asked(alone, "/metrics", b"Accept: " + kind + b"; version=" + version)
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    assert b"\nroutesync_" in body
    assert "control_call_failed" not in alone.log()


@pytest.mark.parametrize(
    "last", [b"epoch-" + b"9" * 5000, b"epoch-\xff", b"7"], ids=["endless", "bytes", "no id"]
)
def test_a_last_event_that_is_none_is_refused(alone: Daemon, last: bytes) -> None:
    head, body = asked(alone, "/v1/events", b"Accept: text/event-stream\r\nLast-Event-ID: " + last)
    assert head.startswith(b"HTTP/1.0 400")
    assert b"Last-Event-ID is not the id of an event" in body


def test_metrics_come_in_the_format_that_is_asked_for(alone: Daemon) -> None:
    plain = alone.call("GET", "/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert b"\nroutesync_" in plain.body
    head, body = asked(alone, "/metrics", b"Accept: application/openmetrics-text; version=1.0.0")
    assert b"application/openmetrics-text" in head
    assert body.endswith(b"# EOF\n")


# -- over TCP ------------------------------------------------------------------------------------------------


def test_over_tcp_there_are_health_and_metrics_and_nothing_else(alone: Daemon) -> None:
    def ask(url: str) -> str:
        code = (
            "import urllib.request, urllib.error\n"
            f"try: print(urllib.request.urlopen('http://127.0.0.1:9469{url}').read().decode())\n"
            "except urllib.error.HTTPError as error: print(error.code, error.read().decode())"
        )
        assert alone.space is not None
        return alone.space.run(["python3", "-c", code])

    assert '"live"' in ask("/health/live")
    assert '"ready"' in ask("/health/ready")
    assert "routesync_" in ask("/metrics")
    assert "404" in ask("/v1/status")
    assert "use the control socket for the rest" in ask("/v1/status")


# -- who may what --------------------------------------------------------------------------------------------


def test_the_group_may_read_the_owner_and_root_may_change_and_strangers_nothing() -> None:
    with prepared(owner=OWNER) as daemon:
        daemon.start(user=OWNER)
        daemon.serves()
        found = daemon.socket.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, OWNER.uid, OWNER.gid)

        def ask(user: User, *arguments: str) -> tuple[int, str]:
            done = user.run(*arguments, "--socket", str(daemon.socket))
            assert "Traceback" not in done.stderr
            return done.returncode, done.stdout + done.stderr

        assert ask(MEMBER, "status")[0] == 0
        assert ask(MEMBER, "explain", "192.0.2.1")[0] in (0, 1)
        status, said = ask(MEMBER, "resync")
        assert status == NOT_ALLOWED
        assert f"only root and uid {OWNER.uid} (unknown), which the daemon runs as, may resync" in said
        assert f"you are uid {MEMBER.uid}" in said
        with MEMBER.crowd(daemon.socket, CONNECTIONS):
            assert ask(MEMBER, "status")[0] == 0
            assert ask(OWNER, "resync")[0] == 0
        assert daemon.run("resync").returncode == 0

        status, said = ask(STRANGER, "status")
        assert status == NOT_ALLOWED
        assert f"permission denied; only the group {OWNER.gid} may open it: use sudo, or" in said
        assert '"control_refused"' in daemon.log()


# -- the socket's own life -----------------------------------------------------------------------------------


def test_a_crashed_daemons_socket_is_taken_over_and_a_live_ones_is_not() -> None:
    with prepared() as daemon:
        daemon.start()
        daemon.serves()
        daemon.kill()
        assert daemon.socket.exists()
        assert daemon.run("status").returncode == NOT_RUNNING
        first = daemon.start()
        daemon.serves()
        inode = daemon.socket.stat().st_ino

        daemon.state = daemon.directory / "other"
        daemon.start()
        eventually_sync(
            lambda: "another routesync serves there" in daemon.log(), what="the second one's word"
        )
        assert daemon.socket.stat().st_ino == inode
        assert daemon.get("/v1/status")["pid"] == first.pid
        first.terminate()
        assert first.wait(15) == 0
        daemon.serves()  # the second one tries on
        eventually_sync(
            lambda: "control_serves_again" in daemon.log(), what="the second one's word that it heals"
        )
        assert daemon.log().count("another routesync serves there") == 1, "it is said once"
        assert daemon.stop() == 0
        assert not daemon.socket.exists()


def test_without_a_runtime_directory_the_daemon_goes_on_and_says_so() -> None:
    with prepared() as daemon:
        daemon.runtime.write_text("a file where a directory should be")
        process = daemon.start()
        eventually_sync(lambda: "control_not_served" in daemon.log(), what="the word")
        done = daemon.run("status")
        assert done.returncode == NOT_RUNNING
        assert "routesync does not run here: there is no" in done.stderr
        daemon.runtime.unlink()
        daemon.serves()
        assert daemon.get("/v1/status")["status"]["reasons"] == []
        daemon.socket.unlink()
        daemon.serves()
        assert process.poll() is None


def test_a_taken_port_degrades_and_is_tried_again() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with prepared(f'[control]\nlisten = "127.0.0.1:{port}"\n') as daemon:
            daemon.start()
            daemon.serves()
            (reason,) = daemon.get("/v1/status")["status"]["reasons"]
            assert f"127.0.0.1:{port}: Address already in use" in reason
            other.close()
            eventually_sync(lambda: daemon.get("/v1/status")["status"]["reasons"] == [], what="the port")


def test_status_shows_what_the_guard_would_do() -> None:
    rule = '[[policy.rules]]\nname = "hosts"\nmatch = { protocol = "dhcp", host = true, gateway = false }\n'
    text = f'mode = "guard"\n{rule}action = "drop"\nguard = true\n'
    with namespace("guard") as space, prepared(text, space=space) as daemon:
        routes(space)
        space.ip("route add 192.0.2.9/32 dev d0 proto 16")
        daemon.start()
        daemon.serves()
        eventually_sync(
            lambda: "guard    dry run: 1 route present, 1 would be removed" in daemon.run("status").stdout,
            what="the guard's line",
        )
