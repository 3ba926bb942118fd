"""The demo ends well, and whenever and however it ends, nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import eventually_sync

TESTS = Path(__file__).parents[1]

# Words that the demo has said by then, from the first namespace to the last look.
MOMENTS = (
    "",
    "A Kubernetes node",
    "The daemon starts",
    "mqtt",
    "lease is renewed",
    "flaps",
    "loxilb's own table",
)


class Demo:
    """A demo in a session of its own, by which all its processes are known."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self._temporary = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": str(TESTS),
                "TMPDIR": str(directory),
                "PYTHONUNBUFFERED": "1",
                **environment,
            },
        )
        self.output = ""

    def until_said(self, words: str) -> None:
        assert self.process.stdout is not None
        while words not in self.output:
            line = self.process.stdout.readline()
            assert line, f"the demo ended without saying {words!r}: {self.output}"
            self.output += line

    def end(self) -> int:
        out, _ = self.process.communicate(timeout=60)
        self.output += out
        return self.process.returncode

    def processes(self) -> list[str]:
        """What runs in the demo's session, besides itself."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = stat.read_text().rpartition(")")
                fields = rest.split()
                command = (
                    f"{name}) {fields[0]} "
                    + stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
            session, state = int(fields[3]), fields[0]
            if session == self.process.pid and int(stat.parent.name) != self.process.pid and state != "Z":
                found.append(command)
        return found

    def namespaces(self) -> list[str]:
        """The namespaces that it made: their names carry its process id."""
        return [path.name for path in Path("/run/netns").glob(f"rs-*-{self.process.pid}-*")]

    def await_gone(self) -> None:
        """See that nothing is left; the kernel may take a moment for the processes that were ended."""
        eventually_sync(lambda: not self.leftovers(), what="the end of all that it made")

    def leftovers(self) -> list[str]:
        return [*self.processes(), *self.namespaces(), *map(str, self._temporary.iterdir())]


@pytest.fixture
def temporary() -> Iterator[Path]:
    # Not tmp_path: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        yield Path(directory)


def test_the_story_ends_well(temporary: Path) -> None:
    demo = Demo(temporary)
    assert demo.end() == 0, demo.output
    assert "FAIL" not in demo.output
    demo.await_gone()


@pytest.mark.parametrize(
    ("moment", "number"),
    [  # one handler serves both signals
        *((moment, signal.SIGINT) for moment in MOMENTS),
        *((moment, signal.SIGTERM) for moment in ("", "The daemon starts")),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing(temporary: Path, moment: str, number: signal.Signals) -> None:
    demo = Demo(temporary)
    if moment:
        demo.until_said(moment)
    else:
        eventually_sync(lambda: bool(demo.namespaces()), what="the first namespace")
    # To all of its session, as a terminal does for Ctrl-C.
    os.killpg(demo.process.pid, number)
    assert demo.end() == 128 + number, demo.output
    assert "Traceback" not in demo.output
    demo.await_gone()


def test_a_second_signal_does_not_disturb_the_tidying_up(temporary: Path) -> None:
    demo = Demo(temporary)
    demo.until_said("lease is renewed")
    for _ in range(5):
        os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.end() == 128 + signal.SIGINT, demo.output
    demo.await_gone()


def test_kept_it_stays_until_a_signal(temporary: Path) -> None:
    demo = Demo(temporary, KEEP="1")
    demo.until_said("Ctrl-C takes it away")
    demo.until_said("tail -f")
    assert len(demo.namespaces()) == 3
    assert [command for command in demo.processes() if "routesync run" in command]
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.end() == 128 + signal.SIGINT
    demo.await_gone()


def test_killed_it_takes_its_processes_along(temporary: Path) -> None:
    demo = Demo(temporary)
    demo.until_said("lease is renewed")
    assert demo.processes()
    demo.process.kill()
    demo.end()
    try:
        eventually_sync(lambda: demo.processes() == [], what="the end of the demo's processes")
    finally:
        for name in demo.namespaces():
            subprocess.run(["ip", "netns", "del", name], check=True)
