"""Descriptors from systemd: taken by name and kind, by the process that they are meant for."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SERVICE = """
import json, os, socket, sys
meant_for, *wanted = json.loads(sys.argv[1])
kinds = {
    "route": (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
    "generic": (socket.AF_NETLINK, socket.SOCK_RAW, 16),
    "tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
}
# As systemd does it: from descriptor 3 on, and inherited.
kept = {}  # by systemd
for number, (_, kind) in enumerate(wanted, 3):
    descriptor = os.open(os.devnull, os.O_RDONLY) if kind == "file" else socket.socket(*kinds[kind]).detach()
    assert descriptor == number
    os.set_inheritable(descriptor, True)
for number, (_, kind) in enumerate(wanted, 3):
    if kind == "route":
        kept[number] = socket.socket(fileno=os.dup(number))
        for group in (1, 7, 32, 35):
            kept[number].setsockopt(270, 1, group)  # NETLINK_ADD_MEMBERSHIP
os.environ["LISTEN_PID"] = str(os.getpid() if meant_for == "us" else 1)
os.environ["LISTEN_FDS"] = str(len(wanted))
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in wanted)

from routesync.service.systemd import take_activated_sockets
activated = take_activated_sockets()
found = {"kernel": activated.kernel, **{f"witness of {name}": sock for name, sock in activated.witnesses.items()}}
taken = {name: sock.fileno() for name, sock in found.items() if sock is not None}

def is_open(descriptor):
    try:
        return bool(os.fstat(descriptor))
    except OSError:
        return False

print(json.dumps({
    "taken": taken,
    "open": [number for number, _ in enumerate(wanted, 3) if is_open(number)],
    "inherited": [number for number in taken.values() if os.get_inheritable(number)],
    "subscribed": [number for number, sock in kept.items() if any(sock.getsockopt(270, 9, 16))],
    "variables": [name for name in os.environ if name.startswith("LISTEN_")],
}))
"""


def take(*handed: tuple[str, str], meant_for: str = "us") -> tuple[dict[str, Any], list[str]]:
    """What a process makes of descriptors of these names and kinds, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, json.dumps([meant_for, *handed])],
        capture_output=True,
        text=True,
        check=True,
    )
    *said, answer = done.stdout.splitlines()
    return json.loads(answer), said


def test_they_are_distinguished_by_name() -> None:
    answer, said = take(("witness-edge", "route"), ("kernel", "route"), ("witness-core-2", "route"))
    assert answer["taken"] == {"witness of edge": 3, "kernel": 4, "witness of core-2": 5}
    assert answer["inherited"] == []
    assert answer["subscribed"] == []
    assert answer["variables"] == []
    assert said == []


def test_one_without_a_name_of_its_own_is_the_kernels() -> None:
    answer, _ = take(("routesync.socket", "route"))
    assert answer["taken"] == {"kernel": 3}


def test_what_is_no_route_socket_is_closed_and_said() -> None:
    answer, said = take(("kernel", "tcp"), ("kernel", "generic"), ("kernel", "file"), ("kernel", "route"))
    assert answer["taken"] == {"kernel": 6}
    assert answer["open"] == [6]
    assert len(said) == 3


def test_a_second_one_and_one_of_another_name_are_refused() -> None:
    answer, said = take(("kernel", "route"), ("kernel", "route"), ("other", "route"))
    assert answer["taken"] == {"kernel": 3}
    assert answer["open"] == [3]
    assert answer["subscribed"] == []
    assert len(said) == 2


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    answer, said = take(("kernel", "route"), meant_for="init")
    assert answer["taken"] == {}
    assert answer["open"] == answer["subscribed"] == [3]
    assert said == []
