"""The socket: datagrams in, dump requests out.

One socket serves both events and dumps. The kernel then queues the answers to a dump among the events, in the order in
which they became true, which a second socket would lose; and a socket that systemd handed over may live in a namespace
in which we could not open another.

Concurrency: everything happens in the event loop's thread. Reading stops after a slice of time, so that nobody else in
the loop waits longer than that; what is not read waits in the kernel's bounded buffer, never in an unbounded queue
here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from routesync.kernel.errors import DecodeError, KernelError
from routesync.kernel.netlink import (
    EMPTY_ERRORS,
    HEADER,
    HEADER_SIZE,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_MIN_TYPE,
    READ_SIZE,
    DumpRequest,
    error_number,
    lost_messages,
)

SLICE_S: Final = 0.005
STALL_S: Final = 30.0
"""A dump that gives nothing for so long is given up; the kernel answers at once, so this is for broken answers."""

OnEvent = Callable[[int, int, bytes, int, int], None]
"""Takes message type, flags, the datagram, and where the message's body starts and ends."""

Take = Callable[[bytes, int], int]
"""Takes a datagram and the position of a message of a dump; returns the position of the first message not taken."""

_AGAIN: Final = (errno.EBUSY, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN)


class Wire:
    """Reads the socket in the loop; one dump at a time, others wait for their turn."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_event: OnEvent,
        on_overrun: Callable[[], None],
        on_bad: Callable[[DecodeError], None],
        after: Callable[[], None],
    ) -> None:
        """Take over a bound and subscribed socket.

        Args:
            sock: the socket; it stays its owner's to close.
            on_event: called for each message that is no answer to a dump.
            on_overrun: called when the kernel says that it could not queue events.
            on_bad: called for datagrams that cannot be taken apart.
            after: called after each slice of reading.
        """
        self._sock = sock
        self._port: int = sock.getsockname()[0]
        self._on_event = on_event
        self._on_overrun = on_overrun
        self._on_bad = on_bad
        self._after = after
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        # A socket that was handed over may still carry answers to its former owner.
        self._sequence = time.monotonic_ns() & 0x7FFFFFFF
        self._take: Take | None = None
        self._answered: asyncio.Future[int] | None = None
        self._whole = True
        self._heard = 0.0
        self._turn = asyncio.Lock()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Begin to read."""
        self._sock.settimeout(0)
        asyncio.get_running_loop().add_reader(self._sock, self._advance)

    def stop(self) -> None:
        """Stop reading."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self.failed.cancel()

    @property
    def lost(self) -> int:
        """Messages lost so far, told by ENOBUFS or not."""
        return lost_messages(self._sock)

    async def catch_up(self) -> None:
        """Return when everything was read that was queued when this was called.

        Raises:
            KernelError: the socket fails.
        """
        while not self._advance():  # noqa: ASYNC110 - it is the work; others have their turn between slices
            await asyncio.sleep(0)
        if self.failed.done() and not self.failed.cancelled() and (error := self.failed.exception()):
            raise KernelError(str(error)) from error

    async def dump(self, request: DumpRequest, take: Take) -> bool:
        """Ask for a dump and feed its messages to `take` until it is done.

        Returns:
            Whether the kernel says that it is whole and consistent.

        Raises:
            KernelError: the kernel refuses it for good.
        """
        async with self._turn:
            return await self._dump(request, take)

    async def _dump(self, request: DumpRequest, take: Take) -> bool:
        loop = asyncio.get_running_loop()
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        self._take = take
        self._answered = loop.create_future()
        self._whole = True
        self._heard = loop.time()
        try:
            self._sock.send(request.encode(self._sequence))
            while True:
                done, _ = await asyncio.wait({self._answered}, timeout=STALL_S)
                if done:
                    break
                if loop.time() - self._heard > STALL_S:
                    return False
            code = self._answered.result()
        finally:
            self._take = self._answered = None
        if code == 0 or code in EMPTY_ERRORS:
            return self._whole
        if code in _AGAIN:
            return False
        raise KernelError(f"the kernel refuses to list {request}: {os.strerror(code)}")

    def _advance(self) -> bool:
        """Read for a slice of time; tell whether nothing is left to read."""
        try:
            drained = self._read_slice()
            self._after()
        except Exception as error:  # noqa: BLE001 - handed to whoever runs us; a loop callback has no caller
            asyncio.get_running_loop().remove_reader(self._sock)
            if not self.failed.done():
                self.failed.set_exception(error)
            return True
        return drained

    def _read_slice(self) -> bool:
        until = time.monotonic() + SLICE_S
        receive, buffer, view = self._sock.recv_into, self._buffer, self._view
        while True:
            try:
                size = receive(buffer, 0, socket.MSG_TRUNC)
            except BlockingIOError:
                return True
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(f"netlink socket: {error.strerror}") from error
                self._whole = False
                self._on_overrun()
                continue
            try:
                self._datagram(view[:size].tobytes(), size)
            except DecodeError as error:
                self._whole = False
                self._on_bad(error)
            if time.monotonic() > until:
                return False

    def _datagram(self, data: bytes, size: int) -> None:
        position, end = 0, len(data)
        if size > end:  # MSG_TRUNC gives the real size, even where there was no room for it
            raise DecodeError(f"datagram of {size} bytes, longer than {end}")
        while position + HEADER_SIZE <= end:
            length, kind, flags, sequence, port = HEADER.unpack_from(data, position)
            if length < HEADER_SIZE or position + length > end:
                raise DecodeError(f"message of length {length} leads out of its datagram")
            if port == self._port:
                if sequence == self._sequence and self._answered is not None and not self._answered.done():
                    if flags & NLM_F_DUMP_INTR:
                        self._whole = False
                    if kind >= NLMSG_MIN_TYPE and self._take is not None:
                        self._heard = asyncio.get_running_loop().time()
                        position = self._take(data, position)
                        continue
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        self._answered.set_result(error_number(data, position))
            elif kind >= NLMSG_MIN_TYPE:
                self._on_event(kind, flags, data, position + HEADER_SIZE, position + length)
            position += length + 3 & ~3
