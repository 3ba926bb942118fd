"""loxilb's netlink ears: how its table comes to know what the kernel knows, and how slowly.

Events wait in queues, one for each kind, and a single worker takes a fixed number of each, then sleeps: 128 route
events per 500 ms in the original. When more route events wait than it can hold, it goes deaf to routes for good: what
waits is still taken in, what comes later never is (the original's subscription ends on ENOBUFS, and nothing opens it
again).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from standin import rtnl
from standin.options import StandinOptions
from standin.rtnl import Message
from standin.table import RouteTable

_LINKS_A_TURN: Final = 32
_ADDRESSES_A_TURN: Final = 64
_NEIGHBOURS_A_TURN: Final = 128
_RECEIVE_BUFFER: Final = 64 << 20
_READ_SIZE: Final = 1 << 18
_LO: Final = "lo"  # loxilb never listens to it, except for its addresses
_FILL_SLICE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Port:
    """An interface as loxilb lists it."""

    ifindex: int
    name: str
    mac: bytes


@dataclass(slots=True)
class Hearing:
    """What the ears have been through, for tests to look at."""

    ingested: int = 0  # route events, since the start
    peak_waiting: int = 0  # route events
    filled: bool = False  # the first reading of the kernel is done
    deaf: bool = False


class Ears:
    """Listens to the kernel of this process's network namespace and feeds the table at loxilb's pace."""

    def __init__(self, table: RouteTable, api_port: int, options: StandinOptions) -> None:
        self.hearing = Hearing()
        self.ports: dict[int, Port] = {}
        self._table = table
        self._api_port = api_port
        self._options = options
        self._kernel_links: dict[int, str] = {}
        self._links: deque[Message] = deque()
        self._addresses: deque[Message] = deque()
        self._neighbours: deque[Message] = deque()
        self._routes: deque[tuple[Message, str | None]] = deque()  # and the client of the API that caused it
        self._caller: str | None = None  # the client of the API whose change is heard now
        self._changes_waiting: Counter[str] = Counter()  # by client of the API
        self._subscription: socket.socket | None = None
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def waiting(self) -> int:
        """Route events heard and not yet taken in."""
        return len(self._routes)

    def hear_change(self, client: str) -> None:
        """Hear what the kernel says of a change that was just made for a client of the API."""
        self._caller = client
        self.hear()
        self._caller = None

    def changes_waiting(self, client: str) -> int:
        """Route events that a client of the API caused and that are not taken in yet."""
        return self._changes_waiting[client]

    def changes_last_second(self) -> int:
        """Route entries that were written during the last second."""
        horizon = time.monotonic() - 1
        while self._recent and self._recent[0][0] < horizon:
            self._recent.popleft()
        return sum(count for _, count in self._recent)

    async def listen(self) -> None:
        """Subscribe, take in what is there, then follow the events, until cancelled."""
        if self._options.nonlp:
            self.hearing.filled = True
            return
        loop = asyncio.get_running_loop()
        with rtnl.open_socket(rtnl.GROUPS, _RECEIVE_BUFFER) as subscription:
            subscription.settimeout(0)
            self._subscription = subscription
            loop.add_reader(subscription, self.hear)
            try:
                await asyncio.sleep(self._options.fill_delay_s)
                await self._fill()
                while True:
                    self._turn()
                    await asyncio.sleep(self._options.tick_s)
            finally:
                loop.remove_reader(subscription)
                self._subscription = None

    def hear(self) -> None:
        """Hear all that the kernel has said until now: `waiting` is exact after it."""
        while self._subscription is not None:
            try:
                self._sort(self._subscription.recv(_READ_SIZE))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.hearing.deaf = True

    def _sort(self, datagram: bytes) -> None:
        for message in rtnl.messages(datagram):
            match message.type:
                case rtnl.RTM_NEWROUTE | rtnl.RTM_DELROUTE:
                    self._hear_route(message)
                case rtnl.RTM_NEWLINK | rtnl.RTM_DELLINK:
                    self._note_kernel_link(message)
                    self._links.append(message)
                case rtnl.RTM_NEWADDR | rtnl.RTM_DELADDR:
                    self._addresses.append(message)
                case rtnl.RTM_NEWNEIGH | rtnl.RTM_DELNEIGH:
                    self._neighbours.append(message)
                case _:
                    pass

    def _hear_route(self, message: Message) -> None:
        if self.hearing.deaf:
            return
        if len(self._routes) >= self._options.queue_limit:
            self.hearing.deaf = True
            return
        client = self._caller if message.requester == self._api_port else None
        if client is not None:
            self._changes_waiting[client] += 1
        self._routes.append((message, client))
        self.hearing.peak_waiting = max(self.hearing.peak_waiting, len(self._routes))

    def _note_kernel_link(self, message: Message) -> None:
        """Know the kernel's links of this moment: loxilb asks it for the link of each event that it works on."""
        link = rtnl.parse_link(message.payload)
        if link is None:
            return
        if message.type == rtnl.RTM_NEWLINK:
            self._kernel_links[link.ifindex] = link.name
        else:
            self._kernel_links.pop(link.ifindex, None)

    async def _fill(self) -> None:
        for message in rtnl.dump(rtnl.RTM_GETLINK):
            self._note_kernel_link(message)
            self._take_link(message)
        for message in rtnl.dump(rtnl.RTM_GETADDR):
            self._take_address(message)
        for message in rtnl.dump(rtnl.RTM_GETNEIGH):
            self._take_neighbour(message)
        slice_size = max(1, int(self._options.fill_rate * _FILL_SLICE_S))
        for number, message in enumerate(rtnl.dump(rtnl.RTM_GETROUTE), start=1):
            route = rtnl.parse_route(message.payload)
            if route is not None and route.table == rtnl.RT_TABLE_MAIN:
                self._take_route(message)
            if number % slice_size == 0:
                self._recent.append((time.monotonic(), slice_size))
                await asyncio.sleep(_FILL_SLICE_S)
        self.hearing.filled = True

    def _turn(self) -> None:
        """Do the worker's one round: links, addresses, neighbours, routes, so many of each at most."""
        for queue, at_most, take in (
            (self._links, _LINKS_A_TURN, self._take_link),
            (self._addresses, _ADDRESSES_A_TURN, self._take_address),
            (self._neighbours, _NEIGHBOURS_A_TURN, self._take_neighbour),
        ):
            for _ in range(min(at_most, len(queue))):
                take(queue.popleft())
        routes = min(self._options.batch, len(self._routes))
        for _ in range(routes):
            message, client = self._routes.popleft()
            if client is not None:
                self._changes_waiting[client] -= 1
            self._take_route(message)
        self.hearing.ingested += routes
        if routes:
            self._recent.append((time.monotonic(), routes))

    def _listens_to(self, ifindex: int) -> bool:
        return self._kernel_links.get(ifindex, _LO) != _LO

    def _take_link(self, message: Message) -> None:
        link = rtnl.parse_link(message.payload)
        if link is None or link.name == _LO:
            return
        if message.type == rtnl.RTM_NEWLINK:
            self.ports[link.ifindex] = Port(link.ifindex, link.name, link.mac)
        elif self.ports.pop(link.ifindex, None) is not None:
            self._table.remove_link(link.ifindex)

    def _take_address(self, message: Message) -> None:
        news = rtnl.parse_address(message.payload)
        if news is None or news.ifindex not in self._kernel_links:
            return
        change = self._table.add_address if message.type == rtnl.RTM_NEWADDR else self._table.remove_address
        change(news.ifindex, news.address, news.length)

    def _take_neighbour(self, message: Message) -> None:
        news = rtnl.parse_neighbour(message.payload)
        if news is None or not self._listens_to(news.ifindex):
            return
        if message.type == rtnl.RTM_DELNEIGH:
            self._table.remove_neighbour(news.address, news.ifindex)
        elif news.resolved:
            self._table.add_neighbour(news.address, news.ifindex)

    def _take_route(self, message: Message) -> None:
        route = rtnl.parse_route(message.payload)
        if route is None or (self._options.release.ignores_other_tables and route.table < rtnl.RT_TABLE_MAIN):
            return
        if not all(self._listens_to(hop.ifindex) for hop in route.hops):
            return
        if message.type == rtnl.RTM_NEWROUTE:
            self._table.add_route(route.prefix, route.protocol, route.hops)
        else:
            self._table.remove_route(route.prefix)
