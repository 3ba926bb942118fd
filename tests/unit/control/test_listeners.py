"""The control socket: ours alone while we live, and free again whatever became of its last owner."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from routesync.config.parsers import Listen
from routesync.control import runtime_directory
from routesync.control.server import MODE, ListenError, TcpListener, UnixListener


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:  # a socket's path is short
        yield Path(directory) / "run"


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_it_is_for_owner_and_group_whatever_the_umask(runtime: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = UnixListener(runtime)
    finally:
        os.umask(before)
    assert stat.S_IMODE(listener.path.stat().st_mode) == MODE == 0o660
    assert stat.S_IMODE(runtime.stat().st_mode) & 0o007 == 0
    assert answers(listener.path)
    listener.close()
    assert not listener.path.exists()


def test_the_socket_of_a_crashed_daemon_is_replaced(runtime: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from routesync.control.server import UnixListener;"
        "listener = UnixListener(Path(sys.argv[1])); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(runtime)], check=False).returncode == 9
    assert (runtime / "control.sock").is_socket()
    assert not answers(runtime / "control.sock")
    listener = UnixListener(runtime)
    assert answers(listener.path)
    listener.close()


def test_a_live_one_is_not_stolen(runtime: Path) -> None:
    first = UnixListener(runtime)
    with pytest.raises(
        ListenError, match=r"control\.sock: another routesync serves there; set RUNTIME_DIRECTORY"
    ):
        UnixListener(runtime)
    assert first.exists
    assert answers(first.path)
    first.close()
    UnixListener(runtime).close()


def test_what_is_no_socket_is_left_alone(runtime: Path) -> None:
    runtime.mkdir()
    (runtime / "control.sock").write_text("precious")
    with pytest.raises(ListenError, match="exists and is not a socket; remove it"):
        UnixListener(runtime)
    assert (runtime / "control.sock").read_text() == "precious"
    (runtime / "control.sock").unlink()
    UnixListener(runtime).close()


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(runtime: Path) -> None:
    with pytest.raises(ListenError, match=r"nowhere/run: No such file or directory; create it for user id"):
        UnixListener(runtime / "nowhere" / "run")
    runtime.write_text("a file where a directory should be")
    with pytest.raises(ListenError, match="set RUNTIME_DIRECTORY"):
        UnixListener(runtime)


def test_a_lock_that_cannot_be_opened_is_named_with_the_remedy(runtime: Path) -> None:
    runtime.mkdir()
    (runtime / "control.lock").symlink_to("elsewhere")
    with pytest.raises(
        ListenError,
        match=r"control\.lock: Too many levels .*; if no routesync runs there as another user, remove it",
    ):
        UnixListener(runtime)
    (runtime / "control.lock").unlink()
    UnixListener(runtime).close()


@pytest.mark.root
def test_so_is_one_that_another_user_left() -> None:
    code = (
        "import os, sys; from pathlib import Path; from routesync.control.server import UnixListener;"
        "os.setresuid(61237, 61237, 61237); UnixListener(Path(sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        UnixListener(Path(directory)).close()
        os.chown(directory, 61237, -1)
        done = subprocess.run(
            [sys.executable, "-c", code, directory], capture_output=True, text=True, check=False
        )
    assert "control.lock: Permission denied; if no routesync runs" in done.stderr


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    with pytest.raises(ListenError, match="longer than a socket's path can be"):
        UnixListener(deep)
    assert not deep.exists()


def test_a_socket_that_was_taken_away_is_noticed_and_its_successor_is_left(runtime: Path) -> None:
    listener = UnixListener(runtime)
    listener.path.unlink()
    assert not listener.exists
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(listener.path))
        assert not listener.exists
        listener.close()
        assert listener.path.exists()


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ListenError, match=rf"\[control\] listen 127\.0\.0\.1:{port}: Address already in use"
        ):
            TcpListener(Listen("127.0.0.1", port))
    with pytest.raises(ListenError, match=r"192\.0\.2\.77:9469: Cannot assign"):
        TcpListener(Listen("192.0.2.77", 9469))


def test_the_directory_is_systemds_else_the_usual_one() -> None:
    assert runtime_directory({}) == Path("/run/routesync")
    assert runtime_directory({"RUNTIME_DIRECTORY": "/run/a:/run/b"}) == Path("/run/a")
