"""The founding story, played with real parts: kernel namespaces, mosquitto, the loxilb stand-in, the daemon.

Whatever ends it, also a signal, the processes, namespaces and files are taken away again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from demo.acts import Story, StoryError
from demo.processes import ProcessError, Processes
from demo.show import Screen
from demo.topology import FoundingTopology, TopologyError

_TOOLS: Final = {
    "ip": "iproute2",
    "sysctl": "procps",
    "setpriv": "util-linux",
    "mosquitto": "mosquitto",
    "mosquitto_sub": "mosquitto-clients",
}
_SIGNAL_LAG_S: Final = 0.05


def run_demo() -> int:
    """Play the story; `KEEP=1` in the environment leaves the scene standing until Ctrl-C.

    Returns:
        Exit status: 0 if the end is right, 1 if not, 128 and the signal's number if one ended it.
    """
    screen = Screen()
    if (lack := _what_is_missing()) is not None:
        screen.fail(lack)
        return 1
    return asyncio.run(_interruptible(screen))


def _what_is_missing() -> str | None:
    if os.geteuid() != 0:
        return "The demo builds network namespaces and needs root: sudo make demo"
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    packages = [package for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None]
    return f"The demo needs more programs: apt-get install {' '.join(packages)}" if packages else None


async def _interruptible(screen: Screen) -> int:
    telling = asyncio.ensure_future(_tell(screen))
    with _on_signal(telling) as heard:
        try:
            return await telling
        except asyncio.CancelledError:
            return 128 + heard[0] if heard else 1
        except (StoryError, ProcessError, TopologyError) as error:
            # A signal to all of us can end a child before it has its own process group, and before we hear of it.
            await asyncio.sleep(_SIGNAL_LAG_S)
            if heard:
                return 128 + heard[0]
            screen.fail(str(error))
            return 1


@contextlib.contextmanager
def _on_signal(task: asyncio.Future[int]) -> Iterator[list[signal.Signals]]:
    """Have the first signal cancel the task; later ones do not disturb the tidying up."""
    heard: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def hear(number: signal.Signals) -> None:
        heard.append(number)
        if len(heard) == 1:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, hear, number)
    try:
        yield heard
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _tell(screen: Screen) -> int:
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="routesync-demo-")))
        topology = stack.enter_context(FoundingTopology())
        processes = await stack.enter_async_context(Processes(directory))
        story = Story(screen, directory, topology, processes)
        return 0 if await story.play(keep=os.environ.get("KEEP") == "1") else 1
