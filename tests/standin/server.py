"""Puts the stand-in together and runs it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import suppress

from aiohttp import web

from standin.api import Api
from standin.ears import Ears
from standin.kernel import KernelRoutes
from standin.listeners import open_sites
from standin.options import StandinOptions
from standin.table import RouteTable


def run_standin(options: StandinOptions) -> int:
    """Run a stand-in in this process's network namespace until SIGTERM or SIGINT. Returns the exit status."""
    try:
        asyncio.run(_serve(options))
    except OSError as error:
        sys.stderr.write(f"standin: {error}\n")
        return 1
    return 0


async def _serve(options: StandinOptions) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), options.api_delay_s)
        return
    capacity = {socket.AF_INET: options.capacity, socket.AF_INET6: options.capacity6}
    table = RouteTable(options.release, marks=options.marks, capacity=capacity)
    kernel = KernelRoutes()
    ears = Ears(table, kernel.port, options)
    runner = web.AppRunner(
        Api(options, kernel, table, ears).application(),
        access_log=None,
        keepalive_timeout=options.idle_s,
        shutdown_timeout=0.1,
        lingering_time=0.1,  # after an answer to a request that is not whole yet
    )
    await runner.setup()
    try:
        await open_sites(runner, options)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(ears.listen())
            await stop.wait()
            hearing.cancel()
    finally:
        await runner.cleanup()
        kernel.close()
