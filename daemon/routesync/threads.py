"""Threads for calls that may block for long and cannot be cancelled, such as getaddrinfo(3) when no server answers.

Each call has a thread of its own, so none waits for another, and nothing waits for one at exit. The threads of
asyncio's default executor are few, and it joins them when the loop ends.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run it in a thread of its own, which ends with the process at the latest."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # one who no longer waits cannot cancel it

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - for the one who waits
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=run, daemon=True).start()
    return future


class ThreadPerCall(ThreadPoolExecutor):
    """An executor that runs each call as `in_thread` does; an event loop takes no executor of another class.

    A look-up of a name that is under way is waited for again. It may take minutes, and who wants to connect asks for
    another every few seconds: with a thread for each the daemon would soon have as many as it may (TasksMax=).
    """

    def __init__(self) -> None:
        super().__init__()
        self._look_ups: dict[object, Future[Any]] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run it at once."""
        call = partial(fn, *args, **kwargs)
        if fn is not socket.getaddrinfo:
            return in_thread(call)
        look_up = self._look_ups.get(args)
        if look_up is None:
            look_up = self._look_ups[args] = in_thread(call)
            look_up.add_done_callback(lambda _: self._look_ups.pop(args))
        return look_up
