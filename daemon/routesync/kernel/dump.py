"""One dump of the tables, evaluated by the rules, to be compared with what is held.

The answers to a dump come through the same socket as the events, and the kernel queues both in the order in which they
became true. So what was queued before the first answer is older than the dump, and what an event says after that may or
may not be in it: addresses that were *touched* between are left as the events have them. Unless the cause of the dump
puts everything held in question; then another dump follows.

IPv6 routes whose lifetime is over are absent, though the kernel lists them until its garbage collector comes: it does
not use them any more (fib6_check_expired()). A multipath route carries the lifetime of its first hop alone, so it is
absent only when it is not listed.

What a dump lacks is gone only if its links explain it (a link is down or gone, a nexthop object, a source address) or a
second dump lacks it too: a dump under churn misses routes that nobody touched, IPv6 ones often (fib6_dump_table() skips
a *count* of nodes after the tree changed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from pyroute2.netlink.rtnl import RTM_NEWROUTE

from routesync.kernel.decode import RouteDecoder, message_start, unresolved
from routesync.kernel.errors import DecodeError
from routesync.kernel.evaluate import Evaluator
from routesync.kernel.netlink import HEADER, HEADER_SIZE, DumpRequest
from routesync.kernel.replica import Key, Replica, Slot, Slots, Subkey, siblings_at, with_slot
from routesync.kernel.update import PLACEHOLDER, Sibling, identity, tidy
from routesync.route import (
    Attributes,
    Evaluated,
    LinkAddress,
    NextHop,
    Prefix,
    Verdict,
    link_gateways,
    link_host,
)

_AF_INET: Final = 2
_FULL_LENGTHS: Final = (32, 128)
EXPIRY_MARGIN_S: Final = 0.05
"""The kernel counts lifetimes in hundredths of a second, and writes none in the last and the first of them."""
_OPEN: Final = Verdict(keep=True, rule="to be evaluated at the end of the dump")
_MARKS: Final = 1 << 14


class Dump:
    """Collects what the tables hold.

    Of a table of a million routes nearly all are as they are held. Such a prefix is not collected: what is held of it
    is replaced by an equal object that this dump alone uses, a mark. So a dump takes hardly any memory.
    """

    def __init__(
        self, evaluator: Evaluator, decoder: RouteDecoder, replica: Replica, now: Callable[[], float]
    ) -> None:
        self.slots: dict[Prefix, Slots] = {}
        """What was dumped and not marked."""
        self.routes = 0
        self.dropped: Counter[str] = Counter()
        self.reported: dict[Key, Evaluated] = {}
        self.bad: list[DecodeError] = []
        self.unresolved = False
        self.gateways: set[LinkAddress] = set()
        """Of the routes that it showed, and that events announced meanwhile."""
        self.hosts: set[LinkAddress] = set()
        """The addresses that host routes on a link lead to, where the rules distinguish those."""
        self.lifetimes: set[Prefix] = set()
        """Prefixes of routes with a lifetime, running or over: they change without events."""
        self.expired = False
        """Whether there is a route whose lifetime is over."""
        self.next_expiry = float("inf")
        """When the next lifetime ends, in monotonic seconds."""
        self.open_hosts: set[Prefix] = set()
        """Prefixes of which `evaluate_hosts` has to evaluate routes."""
        self.touched: set[bytes] = set()
        """Addresses that events were about while it ran."""
        self.twins: set[Key] = set()
        """IPv6 keys of which two equal routes were shown: a replacement can make one equal its sibling."""
        self.certain: set[Key] = set()
        """Of those, the keys that an event described completely."""
        self._evaluator = evaluator
        self._decoder = decoder
        self._replica = replica
        self._now = now
        self._marks: dict[int, Slots] = {}  # by id() of the one route: slots that this dump alone uses
        self._mark_ids: set[int] = set()
        self._seen_hops: dict[int, tuple[NextHop, ...]] = {}  # by id()
        self._last_dropped: tuple[bytes, int] | None = None
        self._last_kept: tuple[bytes, int] | None = None

    def feed(self, request: DumpRequest, data: bytes, position: int) -> int:
        """Take the routes of one datagram of a dump, from a position on.

        Returns:
            The position of the first message that is no route: the end of the datagram, or NLMSG_DONE.

        Raises:
            DecodeError: the datagram's structure is broken; its rest is lost.
        """
        evaluate_header = self._evaluator.header
        header_at = HEADER.unpack_from
        replica = self._replica
        table = request.table
        size = 4 if request.family == _AF_INET else 16
        beginning = message_start(request.family, table)
        length_of_data = len(data)
        while position + HEADER_SIZE <= length_of_data:
            length, kind, _, _, _ = header_at(data, position)
            if length < HEADER_SIZE or position + length > length_of_data:
                raise DecodeError(f"message of length {length} exceeds its datagram")
            if kind != RTM_NEWROUTE:
                break
            self.routes += 1
            verdict = evaluate_header(data[position + 16 : position + 28], table)
            if verdict is not None and not verdict.keep and data[position + 28 : position + 40] == beginning:
                prefix = (data[position + 40 : position + 40 + size], data[position + 17])
                if not replica.holds(prefix) and prefix != self._last_kept:
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
        subkey = self._evaluator.subkey(attributes)
        if subkey is None:
            return
        hops = attributes.hops
        if id(hops) not in self._seen_hops and not (
            prefix.length and by_header is not None and not by_header.keep
        ):
            if len(hops) < 2:  # those are shared by many routes
                self._seen_hops[id(hops)] = hops
            self.gateways.update(link_gateways((attributes,)))
        if attributes.nexthop_id and unresolved(attributes):
            self.unresolved = True
            self._add(prefix, subkey, PLACEHOLDER)
            return
        sibling: Sibling
        if prefix.length in _FULL_LENGTHS and (host := self._evaluator.host(prefix, attributes)) is not None:
            sibling, verdict = Evaluated(attributes, _OPEN), _OPEN
            self.hosts.add(host)
            self.open_hosts.add(prefix)
        else:
            sibling, verdict = self._evaluator.route(prefix, attributes, by_header)
        if sibling is not PLACEHOLDER:
            lifetime_s = self._decoder.lifetime_s
            if lifetime_s is not None and self._is_over(prefix, attributes, lifetime_s):
                self._add(prefix, subkey, PLACEHOLDER)
                return
            if prefix == self._last_dropped or not self._take_alone(prefix, subkey, sibling):
                if prefix == self._last_dropped and not siblings_at(self._slots_of(prefix), subkey):
                    self._add(prefix, subkey, PLACEHOLDER)
                self._add(prefix, subkey, sibling)
            self._last_kept = prefix
            return
        self._count_drop(prefix, subkey, attributes, verdict)
        self._last_dropped = prefix
        if self._replica.holds(prefix) or prefix == self._last_kept:
            self._add(prefix, subkey, PLACEHOLDER)

    def _take_alone(self, prefix: Prefix, subkey: Subkey, evaluated: Evaluated) -> bool:
        """Take the first route of a prefix; return whether it is the first."""
        if prefix in self.slots:
            return False
        held = self._replica.slots(prefix)
        if held:
            if id(held) in self._mark_ids:
                return False
            mark = self._marks.get(id(evaluated))
            if mark is None and len(self._marks) < _MARKS:
                mark = self._marks[id(evaluated)] = ((subkey, (evaluated,)),)
                self._mark_ids.add(id(mark))
            if mark == held:
                self._replica.mark(prefix, mark)
                return True
        self.slots[prefix] = self._replica.alone(subkey, evaluated)
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

    def _add(self, prefix: Prefix, subkey: Subkey, sibling: Sibling) -> None:
        slots = self._slots_of(prefix)
        siblings = siblings_at(slots, subkey)
        if (
            siblings and sibling is not PLACEHOLDER and len(prefix.packed) == 16
        ):  # an IPv6 dump under churn can show one twice
            shown = identity(sibling.attributes)
            if any(other is not PLACEHOLDER and identity(other.attributes) == shown for other in siblings):
                self.twins.add((prefix, subkey))
                return
        self.slots[prefix] = with_slot(slots, subkey, (*siblings, sibling))

    def _is_over(self, prefix: Prefix, attributes: Attributes, lifetime_s: float) -> bool:
        """Note a lifetime; return whether the route counts as absent by it."""
        if len(attributes.hops) > 1:
            return False
        self.lifetimes.add(prefix)
        if lifetime_s > 0:
            self.next_expiry = min(self.next_expiry, self._now() + lifetime_s + EXPIRY_MARGIN_S)
            return False
        self.expired = True
        return True

    def evaluate_hosts(self, prefix: Prefix, *, first: bool) -> None:
        """Evaluate the host routes of a prefix; to be called after the dump, when all gateways are known.

        Args:
            prefix: one of `open_hosts`.
            first: whether nothing was dumped before: what is shown may be as old as the node, so nothing is held back.
        """
        slots: list[Slot] = []
        for subkey, siblings in self.slots[prefix]:
            evaluated: list[Sibling] = []
            for sibling in siblings:
                if sibling is PLACEHOLDER or sibling.verdict is not _OPEN:
                    evaluated.append(sibling)
                    continue
                attributes = sibling.attributes
                new = not first and not self._holds_host(prefix, attributes)
                it, verdict = self._evaluator.host_route(prefix, attributes, new=new)
                evaluated.append(it)
                if not verdict.keep:
                    self._count_drop(prefix, subkey, attributes, verdict)
            slots.append((subkey, tuple(evaluated)))
        self.slots[prefix] = tuple(slots)

    def _holds_host(self, prefix: Prefix, attributes: Attributes) -> bool:
        host = link_host(attributes.at(prefix))
        return any(
            sibling is not PLACEHOLDER and link_host(sibling.attributes.at(prefix)) == host
            for _, siblings in self._replica.slots(prefix)
            for sibling in siblings
        )

    def _count_drop(self, prefix: Prefix, subkey: Subkey, attributes: Attributes, verdict: Verdict) -> None:
        self.dropped[verdict.rule] += 1
        if verdict.followed:
            self.reported[prefix, subkey] = Evaluated(attributes, verdict)

    @property
    def inet6_churns(self) -> bool:
        """Whether it could miss IPv6 routes that nobody touched, for others came and went meanwhile."""
        return any(len(address) == 16 for address in self.touched)

    def saw(self, prefix: Prefix, subkey: Subkey) -> bool:
        """Whether any route of the key was dumped, kept or not."""
        return bool(siblings_at(self._slots_of(prefix), subkey))

    def has(self, prefix: Prefix) -> bool:
        """Whether any route of the prefix was in the dump."""
        return bool(self._slots_of(prefix))

    def tidied(self, prefix: Prefix) -> Slots:
        """What is to be held of a prefix after this dump."""
        slots = self._slots_of(prefix)
        if len(slots) == 1 and len(slots[0][1]) == 1:  # nearly always
            return slots if slots[0][1][0] is not PLACEHOLDER else ()
        return tuple((subkey, kept) for subkey, siblings in slots if (kept := tidy(siblings)))
