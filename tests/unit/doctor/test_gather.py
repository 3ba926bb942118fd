"""What doctor reads off a host: files as their programs write them, real locks, real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Thread

import pytest

from routesync.config.models import TargetSettings
from routesync.config.sources import digest_of
from routesync.control.client import NotRunning
from routesync.control.models import ActiveConfig
from routesync.doctor.daemon import (
    ask_daemon,
    credentials_of,
    find_daemon,
    missing_credentials,
    process_status,
    read_state,
    service_settings,
    systemd_version,
)
from routesync.doctor.dhcp import who_wrote
from routesync.doctor.facts import DaemonFacts, User
from routesync.doctor.gather import ask_target, read_config, read_dhcp, runs_with, shares_namespace
from routesync.events.node_status import TargetStatus
from routesync.mirror.ledger import Ledger, Row
from routesync.route import Prefix, parse_address
from support.doctor_facts import ENS3, answer, route
from support.waiting import eventually_sync

# As systemd-networkd 252 wrote them, with dnsmasq as the server.
LINK = """\
# This is private data. Do not parse.
ADMIN_STATE=configured
OPER_STATE=routable
NETWORK_FILE=/run/systemd/network/10-lan.network
DNS=192.168.10.1
NTP=
DHCP_LEASE=/run/systemd/netif/leases/2
"""
LEASE = """\
# This is private data. Do not parse.
ADDRESS=192.168.10.182
NETMASK=255.255.255.0
ROUTER=192.168.10.1
SERVER_ADDRESS=192.168.10.1
T1=1800
DNS=192.168.10.1 9.9.9.9
CLIENTID=ff1a4aca0400020000ab110033bdebf95e192c
"""


STOPPED = DaemonFacts(running=False)
RUNNING = DaemonFacts(running=True)


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_lease_of_networkd_is_read(tmp_path: Path) -> None:
    write(tmp_path, "run/systemd/netif/links/1", "ADMIN_STATE=unmanaged\n")
    write(tmp_path, f"run/systemd/netif/links/{ENS3}", LINK)
    write(tmp_path, f"run/systemd/netif/leases/{ENS3}", LEASE)
    dhcp = read_dhcp(tmp_path)
    assert dhcp.networkd.keys() == {ENS3}
    assert dhcp.networkd[ENS3].lease["DNS"] == {"192.168.10.1", "9.9.9.9"}
    writer = who_wrote(route("192.168.10.1/32"), dhcp)
    assert (writer.client, writer.certain) == ("systemd-networkd", True)


def test_a_link_of_network_manager_is_known(tmp_path: Path) -> None:
    write(tmp_path, f"run/NetworkManager/devices/{ENS3}", "[device]\nmanaged=true\nconnection-uuid=1-2\n")
    write(tmp_path, "run/NetworkManager/devices/3", "[device]\nmanaged=unmanaged\n")
    write(tmp_path, "run/NetworkManager/devices/4", "no ini at all")
    assert read_dhcp(tmp_path).network_manager == {ENS3}


def test_a_host_without_any_of_it_is_no_trouble(tmp_path: Path) -> None:
    dhcp = read_dhcp(tmp_path)
    assert (dhcp.networkd, dhcp.network_manager) == ({}, frozenset())
    assert systemd_version(tmp_path) is None


def test_the_daemon_is_found_by_its_lock_and_no_lock_is_taken(tmp_path: Path) -> None:
    assert find_daemon(tmp_path).running is False
    with Ledger(tmp_path):
        found = find_daemon(tmp_path)
        assert (found.running, found.pid) == (True, os.getpid())
        assert found.capabilities == int(process_status("self")["CapEff"], 16)
        assert found.user is not None
        assert (found.user.uid, found.stopped) == (os.geteuid(), False)
    assert find_daemon(tmp_path).running is False
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


class _Status(BaseHTTPRequestHandler):
    """Answers as the daemon of this process."""

    def do_GET(self) -> None:
        assert self.path == "/v1/status"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            answer("target lb: refused").model_copy(update={"pid": os.getpid()}).model_dump_json().encode()
        )

    def address_string(self) -> str:
        return "a Unix socket has none"


@contextmanager
def control_socket(directory: Path) -> Iterator[None]:
    with UnixStreamServer(str(directory / "control.sock"), _Status) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_the_daemon_is_asked_if_it_is_the_one_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    unanswered = ask_daemon(DaemonFacts(running=True, pid=os.getpid()))
    assert isinstance(unanswered.error, NotRunning)
    with control_socket(tmp_path):
        asked = ask_daemon(DaemonFacts(running=True, pid=os.getpid()))
        assert asked.answer is not None
        assert asked.answer.status.reasons == ("target lb: refused",)
        another = ask_daemon(DaemonFacts(running=True, pid=1))
        assert another.answer is None
        assert "another daemon" in str(another.error)
        hidden = ask_daemon(DaemonFacts(running=None))
        assert hidden.running
        elsewhere = ask_daemon(STOPPED)
        assert (elsewhere.running, elsewhere.answer) == (False, None)
        assert "name its state directory" in str(elsewhere.error)
    assert ask_daemon(STOPPED) == STOPPED


async def test_a_target_that_the_daemon_does_not_reach_is_not_asked() -> None:
    target = TargetSettings.model_validate({"name": "lb", "url": "http://192.0.2.1:11111"})
    known = TargetStatus(name="lb", url=target.url, state="unreachable", error="no route to host")
    facts = await ask_target(target, answer(targets=(known,)), contact=True)
    assert facts.error == "no route to host"


def test_whether_a_daemon_runs_on_a_directory_that_cannot_be_seen_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert find_daemon(tmp_path / "file" / "state").running is None


def test_a_damaged_ledger_that_was_put_aside_is_found(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"x" * 5000)
    Ledger(tmp_path).end()
    state = read_state(tmp_path, STOPPED)
    assert state.ledger.error is None
    assert [state.ledger_aside] == [*tmp_path.glob("ledger.sqlite.damaged-*")]


def test_a_ledger_that_vanished_is_a_failure(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.note("lb", Prefix.parse("10.1.0.0/16"), Row(parse_address("192.0.2.1")))
    (tmp_path / "ledger.sqlite").unlink()
    assert "it had routes" in str(read_state(tmp_path, STOPPED).ledger.error)


def test_a_ledger_is_read_beside_its_daemon(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.note("lb", Prefix.parse("10.1.0.0/16"), Row(parse_address("192.0.2.1")))
        eventually_sync(lambda: read_state(tmp_path, RUNNING).owned == {"lb": 1}, what="the commit")
        state = read_state(tmp_path, RUNNING)
        assert state.ledger.error is None
        assert state.owned == {"lb": 1}


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"SQLite format 3\0" + b"x" * 5000])
def test_a_damaged_ledger_is_distinguished_from_a_new_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    state = read_state(tmp_path, STOPPED)
    assert state.ledger.exists
    assert (state.ledger.error is None) == (content == b"")


@pytest.mark.parametrize("daemon", [STOPPED, RUNNING])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, daemon: DaemonFacts) -> None:
    os.mkfifo(tmp_path / "ledger.sqlite")
    os.mkfifo(tmp_path / "outbox.sqlite")
    state = read_state(tmp_path, daemon)
    assert state.ledger.error == "cannot be read: not a regular file"
    assert state.outbox.error == "cannot be read: not a regular file"


def test_no_state_directory_is_no_trouble(tmp_path: Path) -> None:
    state = read_state(tmp_path / "none", STOPPED)
    assert not state.exists
    assert state.owned == {}


@pytest.mark.parametrize("text", ["", "mode = 1"])
def test_a_variable_that_is_wrong_is_a_finding(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped configuration, which is taken then, is not read with it."""
    monkeypatch.setenv("ROUTESYNC_MODE", "nonsense")
    assert read_config(tmp_path / "none").state == "absent"
    file = tmp_path / "routesync.toml"
    file.write_text(text)
    found = read_config(file)
    assert found.state == "invalid"
    assert "environment variable ROUTESYNC_MODE: key mode: expected" in found.problems[0]


def test_our_own_process_shares_our_namespace() -> None:
    assert shares_namespace(os.getpid()) is True
    assert shares_namespace(2**22 + 1) is None


def test_an_invalid_file_leaves_the_shipped_rules(tmp_path: Path) -> None:
    file = tmp_path / "routesync.toml"
    assert read_config(file).state == "absent"
    file.write_text("[polcy]\n")
    wrong = read_config(file)
    assert wrong.state == "invalid"
    assert len(wrong.problems) == 1
    assert "dhcp-host-routes" in wrong.loaded.policy.rules


def test_a_process_that_a_signal_has_stopped_is_seen(tmp_path: Path) -> None:
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        eventually_sync(lambda: find_daemon(tmp_path).stopped, what="the stopped process")
        process.kill()


@pytest.mark.parametrize(
    ("mode", "user", "writable"),
    [
        (0o777, None, True),
        (0o777, User(4711, frozenset()), True),
        (0o755, User(4711, frozenset()), False),
        (0o775, User(4711, frozenset({os.getgid()})), True),
        (0o500, User(os.getuid(), frozenset()), os.getuid() == 0),
    ],
)
def test_what_the_user_of_the_daemon_may_write_counts(
    tmp_path: Path, mode: int, user: User | None, *, writable: bool
) -> None:
    (tmp_path / "ledger.sqlite").touch(mode=0o644)
    tmp_path.chmod(mode)
    try:
        state = read_state(tmp_path, STOPPED._replace(user=user))
        assert state.writable is writable
        assert state.ledger.writable is (user is None or user.uid in (os.getuid(), 0))
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def searchable() -> Iterator[Path]:
    """A directory that every user may look into; those of pytest are for one alone."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Do this as a user for whom the modes of files count."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


BROKER = '[mqtt]\nhost = "b"\nusername = "me"\n'
TLS = BROKER + "[mqtt.tls]\n"
TARGET = '[[targets]]\nname = "lb"\nurl = "https://192.0.2.1"\n'


@pytest.mark.parametrize(
    "text",
    [
        BROKER + 'password_file = "secret"\n',
        TARGET + 'token_file = "secret"\n',
        TLS + 'ca_file = "secret"\n',
        TLS + 'cert_file = "secret"\nkey_file = "secret"\n',
    ],
)
def test_a_file_that_the_configuration_names_and_this_user_may_not_read_is_no_fault_of_it(
    searchable: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    file, secret = searchable / "routesync.toml", searchable / "elsewhere"
    file.write_text(text)
    assert read_config(file).state == "invalid", "there is no such file"
    assert read_config(file, {"secret": secret}).state == "invalid", "nor one that systemd could hand over"
    hidden = read_config(file, {"secret": None})
    assert (hidden.state, hidden.known) == ("unreadable", False)
    assert "the credential 'secret' is not known: systemd hands it to the service" in hidden.problems[0]

    secret.write_text("x")
    secret.chmod(0o000)
    (searchable / "secret").symlink_to(secret)
    with as_nobody():
        denied = read_config(file, {"secret": secret})
        beside = read_config(file)
    for found in (denied, beside):
        assert found.state == "unreadable"
        assert "Permission denied" in found.problems[0]
    file.write_text(text.replace("host =", "hots =").replace("url =", "ulr ="))
    faulty = read_config(file, {"secret": None})
    assert faulty.state == "invalid"
    assert not any("credential" in problem for problem in faulty.problems), "what is known to be wrong"


def test_a_credential_of_the_service_is_read_from_its_source_while_the_service_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    file, source = tmp_path / "routesync.toml", tmp_path / "elsewhere"
    file.write_text(BROKER + 'password_file = "pw"\n')
    source.write_text("hunter2\n")
    found = read_config(file, {"pw": source})
    assert (found.state, found.loaded.secrets) == ("read", ("hunter2",))


def test_a_name_that_does_not_resolve_is_kept_with_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text('[[targets]]\nname = "pods"\nurl = "http://pods.example"\nall_addresses = true\n')

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = read_config(file)
    assert (found.state, found.loaded.settings.targets) == ("read", ())
    assert [(it.target, it.host) for it in found.unresolved] == [("pods", "pods.example")]


@pytest.mark.parametrize("name", ["routesync.toml", "k\udcf6.toml"])
def test_a_file_that_the_daemon_runs_with_is_valid_for_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('mode = "${MODE_OF_THE_DAEMON}"\n')
    assert read_config(file).state == "invalid", "doctor lacks the variable"
    shown = str(file).replace("\udcf6", r"\udcf6")
    active = ActiveConfig(path=shown, digest=digest_of([file.read_bytes()]))
    daemon = RUNNING._replace(answer=answer(active=active))
    assert runs_with(daemon, file)
    assert not runs_with(RUNNING, file)
    assert not runs_with(daemon, tmp_path / "other.toml")
    file.write_text('mode = "${MODE_OF_NOBODY}"\n')
    assert not runs_with(daemon, file)


def test_a_drop_in_that_may_not_be_read_is_no_fault(searchable: Path) -> None:
    file, drop_in = searchable / "routesync.toml", searchable / "routesync.toml.d/it.toml"
    file.write_text("")
    drop_in.parent.mkdir()
    drop_in.touch(mode=0o000)
    with as_nobody():
        assert read_config(file).state == "unreadable"
    drop_in.parent.chmod(0o000)
    try:
        with as_nobody():
            assert read_config(file).state == "unreadable"
    finally:
        drop_in.parent.chmod(0o700)


def test_the_credentials_of_a_unit_are_known_by_name() -> None:
    unit = """\
[Unit]
LoadCredential=no:/etc/no
[Service]
LoadCredential=gone:/etc/gone
LoadCredential=
LoadCredential=pw:/etc/routesync/pw
LoadCredential=store
LoadCredentialEncrypted=token:/etc/token.cred
SetCredential=ca:text
"""
    known = credentials_of(list(service_settings(unit)))
    assert known == {"pw": Path("/etc/routesync/pw"), "store": None, "token": None, "ca": None}
    assert list(
        missing_credentials([("LoadCredential", f"pw:{__file__}/x"), ("LoadCredential", "a:/no/a")])
    ) == [("a", Path("/no/a"))]


def test_a_configuration_that_may_not_be_read_is_no_fault_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text("")
    file.chmod(0o000)
    assert read_config(file).state == ("read" if os.getuid() == 0 else "unreadable")


def test_a_name_that_no_file_can_have_is_a_mistake_like_others(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    found = read_config(path)
    assert (found.state, found.problems) == ("invalid", (f"{path}: File name too long",))
