"""One full reading of the tables, and how it is compared with what is held.

The answers to a dump come through the same socket as the events, and the kernel queues both in the order in which they
became true. So what was queued before the first answer is older than the reading, and what an event says after that may
or may not be in it: addresses that were *touched* between are left as the events have them. Unless the cause of the
reading puts everything held in question; then they are read again.

IPv6 routes whose lifetime is over are absent, though the kernel lists them until its garbage collector comes: it does
not use them any more (fib6_check_expired()). A multipath route carries the lifetime of its first hop alone, so it is
absent only when it is not listed.

What a reading lacks is gone only if the surroundings explain it (its link is down or gone, its nexthop object, its
source address) or a second reading lacks it too: a dump under churn misses routes that nobody touched, IPv6 ones often
(fib6_dump_table() skips a *count* of nodes after the tree changed).
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Final

from routesync.kernel.decode import RouteDecoder, unresolved
from routesync.kernel.errors import DecodeError
from routesync.kernel.judge import Judge
from routesync.kernel.netlink import HEADER, HEADER_SIZE, RTM_NEWROUTE, DumpRequest
from routesync.kernel.replica import Replica, Rest, Slot, Slots, siblings_at, with_slot
from routesync.kernel.update import PLACEHOLDER, Sibling, identity, tidy
from routesync.route import Attributes, Judged, LinkAddress, NextHop, Prefix, Verdict

Key = tuple[Prefix, Rest]

_AF_INET: Final = 2
_FULL_LENGTHS: Final = (32, 128)
EXPIRY_MARGIN_S: Final = 0.05
"""The kernel counts lifetimes in hundredths of a second, and writes none in the last and the first of them."""
_OPEN: Final = Verdict(keep=True, rule="to be judged at the end of the dump")
_ATTRIBUTE: Final = struct.Struct("=HH")


def message_build(family: int, table: int) -> bytes:
    """How the attributes of a route message begin: RTA_TABLE whole, and the header of RTA_DST.

    That is the order of fib_dump_info() and rt6_fill_node(). It allows to read the prefix without decoding the message;
    a message of another build takes the long way.
    """
    size = 4 if family == _AF_INET else 16
    return _ATTRIBUTE.pack(8, 15) + table.to_bytes(4, sys.byteorder) + _ATTRIBUTE.pack(size + 4, 1)


_MARKS: Final = 1 << 14


class Reading:
    """Collects what the tables hold.

    Of a table of a million routes nearly all are as they are held. Such a prefix is not collected: what is held of it
    is replaced by an equal object that this dump alone uses, a mark. So a dump takes hardly any memory.
    """

    def __init__(
        self, judge: Judge, decoder: RouteDecoder, replica: Replica, now: Callable[[], float]
    ) -> None:
        self.slots: dict[Prefix, Slots] = {}
        """What was read and not marked."""
        self.routes = 0
        self.dropped: Counter[str] = Counter()
        self.reported: dict[Key, Judged] = {}
        self.bad: list[DecodeError] = []
        self.unresolved = False
        self.gateways: set[LinkAddress] = set()
        self.hosts: set[LinkAddress] = set()
        """The addresses that host routes on a link lead to, where the rules distinguish those."""
        self.lifetimes: set[Prefix] = set()
        """Prefixes of routes with a lifetime, running or over: they change without events."""
        self.expired = False
        """Whether there is a route whose lifetime is over."""
        self.next_expiry = float("inf")
        """When the next lifetime ends, in monotonic seconds."""
        self.open_hosts: set[Prefix] = set()
        """Prefixes of which `judge_hosts` has to judge routes."""
        self._judge = judge
        self._decoder = decoder
        self._replica = replica
        self._now = now
        self._marks: dict[int, Slots] = {}  # by id() of the one route: slots that this dump alone uses
        self._mark_ids: set[int] = set()
        self._seen_hops: dict[int, tuple[NextHop, ...]] = {}  # by id()
        self._last_dropped: tuple[bytes, int] | None = None
        self._last_kept: tuple[bytes, int] | None = None

    def feed(self, request: DumpRequest, data: bytes, position: int) -> int:
        """Take in the routes of one datagram of a dump, from a position on.

        Returns:
            The position of the first message that is no route: the end of the datagram, or NLMSG_DONE.

        Raises:
            DecodeError: the datagram's structure is broken; its rest is lost.
        """
        judge_header = self._judge.header
        header_at = HEADER.unpack_from
        replica = self._replica
        table = request.table
        size = 4 if request.family == _AF_INET else 16
        build = message_build(request.family, table)
        length_of_data = len(data)
        while position + HEADER_SIZE <= length_of_data:
            length, kind, _, _, _ = header_at(data, position)
            if length < HEADER_SIZE or position + length > length_of_data:
                raise DecodeError(f"message of length {length} leads out of its datagram")
            if kind != RTM_NEWROUTE:
                break
            self.routes += 1
            verdict = judge_header(data[position + 16 : position + 28], table)
            if verdict is not None and not verdict.keep and data[position + 28 : position + 40] == build:
                prefix = (data[position + 40 : position + 40 + size], data[position + 17])
                if prefix not in replica and prefix != self._last_kept:
                    self.dropped[verdict.rule] += 1
                    self._last_dropped = prefix
                    position += length + 3 & ~3
                    continue
            try:
                self._take(data, position + HEADER_SIZE, position + length, verdict)
            except DecodeError as error:
                self.bad.append(error)
            position += length + 3 & ~3
        return position

    def _take(self, data: bytes, start: int, end: int, by_header: Verdict | None) -> None:
        parts = self._decoder.parts(data, start, end)
        if parts is None:
            return
        prefix, attributes = parts
        rest = self._judge.rest(attributes)
        if rest is None:
            return
        hops = attributes.hops
        if id(hops) not in self._seen_hops and not (
            prefix.length and by_header is not None and not by_header.keep
        ):
            if len(hops) < 2:  # those are shared by many routes
                self._seen_hops[id(hops)] = hops
            for hop in hops:
                if hop.gateway is not None:
                    self.gateways.add((hop.ifindex, hop.gateway))
        if attributes.nexthop_id and unresolved(attributes):
            self.unresolved = True
            self._add(prefix, rest, PLACEHOLDER)
            return
        sibling: Sibling
        if prefix.length in _FULL_LENGTHS and (host := self._judge.host(prefix, attributes)) is not None:
            sibling, verdict = Judged(attributes, _OPEN), _OPEN
            self.hosts.add(host)
            self.open_hosts.add(prefix)
        else:
            sibling, verdict = self._judge.route(prefix, attributes, by_header)
        if sibling is not PLACEHOLDER:
            lifetime_s = self._decoder.lifetime_s
            if lifetime_s is not None and self._is_over(prefix, attributes, lifetime_s):
                self._add(prefix, rest, PLACEHOLDER)
                return
            if prefix == self._last_dropped or not self._take_alone(prefix, rest, sibling):
                if prefix == self._last_dropped and not siblings_at(self._slots_of(prefix), rest):
                    self._add(prefix, rest, PLACEHOLDER)
                self._add(prefix, rest, sibling)
            self._last_kept = prefix
            return
        self._count_drop(prefix, rest, attributes, verdict)
        self._last_dropped = prefix
        if prefix in self._replica or prefix == self._last_kept:
            self._add(prefix, rest, PLACEHOLDER)

    def _take_alone(self, prefix: Prefix, rest: Rest, judged: Judged) -> bool:
        """Take in the first route of a prefix; tell whether it is the first."""
        if prefix in self.slots:
            return False
        held = self._replica.slots(prefix)
        if held:
            if id(held) in self._mark_ids:
                return False
            mark = self._marks.get(id(judged))
            if mark is None and len(self._marks) < _MARKS:
                mark = self._marks[id(judged)] = ((rest, (judged,)),)
                self._mark_ids.add(id(mark))
            if mark == held:
                self._replica.mark(prefix, mark)
                return True
        self.slots[prefix] = self._replica.alone(rest, judged)
        return True

    def is_marked(self, slots: Slots) -> bool:
        """Whether the dump has shown just this, and no event has changed it since."""
        return id(slots) in self._mark_ids

    def unmark(self, prefix: Prefix) -> None:
        """What is held of a prefix is about to change: keep what the dump has shown."""
        held = self._replica.slots(prefix)
        if id(held) in self._mark_ids:
            self.slots.setdefault(prefix, held)

    def _slots_of(self, prefix: Prefix) -> Slots:
        """What the dump has shown of a prefix."""
        slots = self.slots.get(prefix)
        if slots is None:
            held = self._replica.slots(prefix)
            slots = held if id(held) in self._mark_ids else ()
        return slots

    def _add(self, prefix: Prefix, rest: Rest, sibling: Sibling) -> None:
        slots = self._slots_of(prefix)
        siblings = siblings_at(slots, rest)
        if (
            siblings and sibling is not PLACEHOLDER and len(prefix.packed) == 16
        ):  # an IPv6 dump under churn can show one twice
            shown = identity(sibling.attributes)
            if any(other is not PLACEHOLDER and identity(other.attributes) == shown for other in siblings):
                return
        self.slots[prefix] = with_slot(slots, rest, (*siblings, sibling))

    def _is_over(self, prefix: Prefix, attributes: Attributes, lifetime_s: float) -> bool:
        """Note a lifetime; tell whether the route counts as absent by it."""
        if len(attributes.hops) > 1:
            return False
        self.lifetimes.add(prefix)
        if lifetime_s > 0:
            self.next_expiry = min(self.next_expiry, self._now() + lifetime_s + EXPIRY_MARGIN_S)
            return False
        self.expired = True
        return True

    def judge_hosts(
        self, prefix: Prefix, judge: Callable[[Prefix, Attributes], tuple[Sibling, Verdict]]
    ) -> None:
        """Judge the host routes of a prefix; to be called after the dump, when all gateways are known."""
        slots: list[Slot] = []
        for rest, siblings in self.slots[prefix]:
            judged: list[Sibling] = []
            for sibling in siblings:
                if sibling is PLACEHOLDER or sibling.verdict is not _OPEN:
                    judged.append(sibling)
                    continue
                it, verdict = judge(prefix, sibling.attributes)
                judged.append(it)
                if not verdict.keep:
                    self._count_drop(prefix, rest, sibling.attributes, verdict)
            slots.append((rest, tuple(judged)))
        self.slots[prefix] = tuple(slots)

    def _count_drop(self, prefix: Prefix, rest: Rest, attributes: Attributes, verdict: Verdict) -> None:
        self.dropped[verdict.rule] += 1
        if verdict.followed:
            self.reported[prefix, rest] = Judged(attributes, verdict)

    def saw(self, prefix: Prefix, rest: Rest) -> bool:
        """Whether any route of the key was in the reading, kept or not."""
        return bool(siblings_at(self._slots_of(prefix), rest))

    def has(self, prefix: Prefix) -> bool:
        """Whether any route of the prefix was in the reading."""
        return bool(self._slots_of(prefix))

    def tidied(self, prefix: Prefix) -> Slots:
        """What is to be held of a prefix after this reading."""
        slots = self._slots_of(prefix)
        if len(slots) == 1 and len(slots[0][1]) == 1:  # nearly always
            return slots if slots[0][1][0] is not PLACEHOLDER else ()
        return tuple((rest, kept) for rest, siblings in slots if (kept := tidy(siblings)))
