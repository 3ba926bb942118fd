"""Let schemathesis call a running daemon by its OpenAPI document: `make fuzz-api`.

The daemon mirrors the founding network into a stand-in, so that calls find something to act on. schemathesis speaks
TCP, and the control socket is a Unix socket: a relay leads from one to the other. The stream of events never ends, so
it is left out; `tests/unit/control/test_event_stream.py` has its parameters.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from support.daemon import Daemon
from support.world import world

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "control" / "openapi.json"
CHECKS: Final = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _relay(socket: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    inner, outer = await asyncio.open_unix_connection(socket)
    await asyncio.gather(_copy(reader, outer), _copy(inner, writer))


@contextmanager
def relay(socket: Path) -> Iterator[int]:
    """A TCP port of this host that leads to the Unix socket."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(partial(_relay, socket), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def _faults(daemon: Daemon) -> list[str]:
    """What must not be in its log, whatever it is asked."""
    return [
        line for line in daemon.log().splitlines() if "Traceback" in line or "control_call_failed" in line
    ]


def main(arguments: list[str]) -> int:
    """Run schemathesis with these arguments; return its exit status, or 1 where the daemon fares badly."""
    with tempfile.TemporaryDirectory(prefix="rs-") as directory, world(Path(directory)) as made:
        process = made.start()
        with relay(made.socket) as port:
            command = [str(Path(sys.executable).with_name("st")), "run", str(DOCUMENT), "--checks", CHECKS]
            command += ["--url", f"http://127.0.0.1:{port}", "--exclude-path", "/v1/events", *arguments]
            status = subprocess.run(command, check=False, cwd=directory).returncode
        faults = _faults(made)
        if process.poll() is not None:
            faults.append(f"the daemon has ended with {process.returncode}")
        print("\n".join(faults))
        return status or bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
