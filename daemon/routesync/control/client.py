"""The client that the commands use: one call at a time; every error says what to do."""

from __future__ import annotations

import errno
import grp
import http.client
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from routesync.control import SOCKET_NAME, runtime_directory
from routesync.control.models import Problem

PATIENCE_S: Final = 60.0
"""A daemon that does not respond for so long hangs; its slowest response reads a table of a million routes."""
ANSWER_WITHIN_S: Final = 2.0
"""A daemon that does not give its status for so long hangs or is stopped: its longest step takes a tenth of that."""

A = TypeVar("A", bound=BaseModel)


class ControlError(Exception):
    """A call failed; the message says why and what to do.

    ::

        ControlError
        +-- NotRunning    no daemon serves the socket
        +-- NotAllowed    permission to open the socket, or to make the call, is missing
        +-- Failed        the daemon rejected the call (`problem`)
        +-- NotUnderstood no response, or one that is not valid
    """


class NotRunning(ControlError):  # noqa: N818 - a state, no error of the program
    """No daemon serves the socket at this path."""

    def __init__(self, path: Path, words: str) -> None:
        self.path = path
        super().__init__(words)


class NotAllowed(ControlError):  # noqa: N818 - a state, no error of the program
    """Permission to open the socket, or to make the call, is missing."""


class Failed(ControlError):  # noqa: N818 - a state, no error of the program
    """The daemon rejected the call."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


class NotUnderstood(ControlError):  # noqa: N818 - a state, no error of the program
    """No response, or one that is not valid."""


def default_socket() -> Path:
    """The control socket of this host's daemon."""
    return runtime_directory() / SOCKET_NAME


def url_of(path: str, parameters: Iterable[tuple[str, object]] = ()) -> str:
    """A call with its parameters; those that are None are left out."""
    query = urlencode([(name, str(value)) for name, value in parameters if value is not None])
    return f"{path}?{query}" if query else path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("routesync", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Calls the daemon at a socket."""

    def __init__(self, path: Path | None = None, *, timeout_s: float | None = PATIENCE_S) -> None:
        self.path = path or default_socket()
        self._timeout_s = timeout_s

    def ask(self, model: type[A], method: str, url: str, body: BaseModel | None = None) -> A:
        """Make a call, and return its response.

        Raises:
            ControlError: the call failed.
        """
        return self.read(self.raw(method, url, body), model)

    def raw(self, method: str, url: str, body: BaseModel | None = None) -> bytes:
        """Make a call, and return the body of its response.

        Raises:
            ControlError: the call failed.
        """
        connection = _UnixConnection(self.path, self._timeout_s)
        try:
            connection.request(method, url, None if body is None else body.model_dump_json().encode())
            answer = connection.getresponse()
            content = answer.read()
        except OSError as error:
            raise explain_os_error(error, self.path) from None
        except http.client.HTTPException as error:
            reason = str(error) or type(error).__name__
            raise NotUnderstood(
                f"{self.path}: the response broke off: {reason}; see the daemon's log"
            ) from None
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise problem_of(answer.status, content, self.path)
        return content

    def read(self, content: bytes, model: type[A]) -> A:
        """Read the body of a response.

        Raises:
            NotUnderstood: it is not of this model.
        """
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise NotUnderstood(
                f"{self.path}: unexpected response ({where}); if the daemon is of another version, restart it"
            ) from None


def problem_of(status: int, content: bytes, path: Path) -> ControlError:
    """The error that a response with a problem means."""
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        return NotUnderstood(f"{path}: HTTP status {status}; is that routesync's socket?")
    if problem.status == http.HTTPStatus.FORBIDDEN:
        return NotAllowed(problem.detail)
    return Failed(problem)


def explain_os_error(error: OSError, path: Path) -> ControlError:
    """The error that a failure of the connection means."""
    if isinstance(error, TimeoutError | BlockingIOError):  # EAGAIN: its queue of connections is full
        return NotUnderstood(f"{path}: no response in time; the daemon hangs, or is stopped: see its log")
    start = "start it (systemctl start routesync), or name its socket with --socket"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotRunning(path, f"routesync does not run here: there is no {path}; {start}")
    if error.errno == errno.ECONNREFUSED:
        return NotRunning(path, f"routesync does not run here: no process listens at {path}; {start}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotAllowed(f"{path}: permission denied; {_remedy(path)}")
    return NotUnderstood(f"{path}: {error.strerror or error}")


def _remedy(path: Path) -> str:
    """How to get permission to open the socket, as far as this user can see."""
    for it in (path, path.parent):
        try:
            gid = it.stat().st_gid
        except OSError:
            continue
        try:
            group = grp.getgrgid(gid).gr_name
        except KeyError:
            group = str(gid)
        if group == "root":
            return "only root may open it: use sudo"
        return f"only the group {group} may open it: use sudo, or `sudo usermod -aG {group} $USER` and log in again"
    return "use sudo"
