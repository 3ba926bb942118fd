"""The cache of the kernel's routes: events applied to it, and a dump compared with it.

What is known is kept apart from what is in doubt. `doubtful` keys are those of which only a dump can tell; `suspects`
are keys that the last dump lacked without a reason; `distrusted` puts everything in question (after a loss of events, a
change of links, other rules). A dump resolves all of it, except for addresses that events touched while it ran.

Two things change without an event, and `review` handles them when `review_at` comes: host routes that are held back
(`evaluate`), and IPv6 routes with a lifetime.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pyroute2.netlink import NLM_F_EXCL
from pyroute2.netlink.rtnl import RTM_NEWROUTE

from routesync.kernel.decode import BEGINNING_SIZE, RTMSG_SIZE, RouteDecoder, unresolved
from routesync.kernel.dump import EXPIRY_MARGIN_S, Dump
from routesync.kernel.errors import DecodeError
from routesync.kernel.evaluate import Evaluator, host_route_key
from routesync.kernel.links import LinkTables
from routesync.kernel.replica import Key, Replica, Slots, siblings_at
from routesync.kernel.reports import DropReports, KernelStats, Report
from routesync.kernel.update import (
    PLACEHOLDER,
    HopRemoved,
    Sibling,
    Siblings,
    Updated,
    inet6_del,
    inet6_new,
    inet_del,
    inet_new,
    is_mixed,
    tidy,
)
from routesync.route import (
    Attributes,
    LinkAddress,
    NextHop,
    Prefix,
    Route,
    Verdict,
    link_gateways,
    link_host,
)
from routesync.slices import SLICE_S

_WATCHED: Final = 1 << 12
_RT_TABLE_COMPAT: Final = 252
_RT_TABLE_MAIN: Final = 254
_INET6_ABSENCES: Final = 8
"""Under churn an IPv6 route is gone when so many dumps in a row lacked it; in quiet, as for IPv4, two."""
_INET6_DUMPS: Final = 4
"""After a loss, IPv6 is dumped so many times while it churns; what even these miss is left to the periodic resync."""

_NEVER: Final = float("inf")
_FULL_LENGTHS: Final = (32, 128)
_EXPIRED_RECHECK_S: Final = 10.0
_EXPIRED_RECHECK_MOST_S: Final = 320.0
_LIFETIME_RECHECK_S: Final = 1.0


class _Lifetimes:
    """When lifetimes of IPv6 routes call for another dump. Times are monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.next_expiry = _NEVER
        self._now = now
        self._prefixes: set[Prefix] = set()  # prefixes of routes that have one
        self._next_by_events = _NEVER  # of those that events announced since the dump began
        self._expired_rechecks = 0

    def announced(self, prefix: Prefix, lifetime_s: float) -> bool:
        """Note the lifetime of a route that an event announced; return whether it is over."""
        self._prefixes.add(prefix)
        if lifetime_s <= 0:
            return True
        at = self._now() + lifetime_s + EXPIRY_MARGIN_S
        self.next_expiry = min(self.next_expiry, at)
        self._next_by_events = min(self._next_by_events, at)
        return False

    def begin_dump(self) -> None:
        self._next_by_events = _NEVER

    def settle(self, dump: Dump) -> None:
        """Schedule the next dump that lifetimes call for.

        A route that has expired may be given another lifetime, without an event, until the kernel's garbage collector
        has removed it. And one that shows no lifetime any more may be within the last hundredth of a second of it.
        """
        recheck_s = _NEVER
        if dump.expired:
            recheck_s = min(_EXPIRED_RECHECK_S * 2**self._expired_rechecks, _EXPIRED_RECHECK_MOST_S)
            self._expired_rechecks += 1
        else:
            self._expired_rechecks = 0
        if any(map(dump.has, self._prefixes - dump.lifetimes)):
            recheck_s = min(recheck_s, _LIFETIME_RECHECK_S)
        self._prefixes = dump.lifetimes
        self.next_expiry = min(dump.next_expiry, self._next_by_events, self._now() + recheck_s)


class Fib:
    """The replica with its doubts."""

    def __init__(
        self,
        tables: Sequence[int],
        evaluator: Evaluator,
        links: LinkTables,
        *,
        stats: KernelStats,
        report: Report,
        request_dump: Callable[[str], None],
        on_route_created: Callable[[Route], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty one.

        Args:
            tables: the tables followed, preferred ones first.
            evaluator: the rules.
            links: links, addresses and nexthop objects; its owner keeps it up to date.
            stats: where to count.
            report: called with reports.
            request_dump: called with a cause when only a dump can tell.
            on_route_created: see `KernelSource`.
            now: the clock, in monotonic seconds.
        """
        self.replica = Replica()
        self.decoder = RouteDecoder(links.resolve)
        self.drops = DropReports(report)
        self._evaluator = evaluator
        self._gateways = evaluator.gateways
        self._links = links
        self._stats = stats
        self._request_dump = request_dump
        self._on_route_created = on_route_created
        self._now = now
        self._headers = {table if table < 256 else _RT_TABLE_COMPAT for table in tables}
        self._distrusted = True
        self._doubtful: set[Key] = set()
        self._suspects: dict[Key, int] = {}  # dumps in a row that lacked it
        self._dump: Dump | None = None  # while one runs
        self._watched: set[Key] = set()  # IPv6 keys of which dumps may hide something, held or not
        self._watched_prefixes: set[Prefix] = set()
        self._inet6_dumps = 0
        self._learned: dict[int, tuple[NextHop, ...]] = {}  # by id(): hops whose gateways are known already
        self._first_dump = True
        self._lifetimes = _Lifetimes(now)

    def distrust(self) -> None:
        """Put everything held in question."""
        self._distrusted = True

    # -- events --------------------------------------------------------------------------------------------------------

    def event(self, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        """Apply an RTM_NEWROUTE or RTM_DELROUTE.

        Raises:
            DecodeError: not a route message.
        """
        if end - start < RTMSG_SIZE:
            raise DecodeError(f"route message of {end - start} bytes")
        if data[start + 4] not in self._headers:
            if data[start + 4] == _RT_TABLE_MAIN:
                self._decode_created(kind, flags, data, start, end)
            return
        if self._dump is None and self._is_irrelevant(kind, data, start):
            self._stats.events += 1
            if self._on_route_created is not None:
                self._decode_created(kind, flags, data, start, end)
            return
        parts = self.decoder.parts(data, start, end)
        if parts is None:
            return
        prefix, attributes = parts
        subkey = self._evaluator.subkey(attributes)
        if subkey is None:
            return
        self._stats.events += 1  # not before: a table above 255 shows in the attributes alone
        key = (prefix, subkey)
        if self._dump is not None:
            self._dump.touched.add(prefix.packed)
            self._dump.unmark(prefix)
        if self._suspects:
            self._suspects.pop(key, None)
        held = siblings_at(self.replica.slots(prefix), subkey)
        if kind == RTM_NEWROUTE:
            by_header = self._evaluator.header(data[start : start + RTMSG_SIZE], attributes.table)
            if id(attributes.hops) not in self._learned:
                self._learn_gateways(prefix, attributes, by_header)
            outcome = self._announced(key, held, attributes, flags, by_header)
        else:
            outcome = self._withdrawn(key, held, attributes)
        self.replica.put(prefix, subkey, outcome.siblings)
        if not outcome.certain or self._hides(key, outcome.siblings):
            if self._dump is not None:
                self._dump.certain.discard(key)
            self._doubtful.add(key)
            self._request_dump("doubt")

    def _decode_created(self, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        """Report the creation of a route that is of no concern otherwise."""
        if self._on_route_created is not None and kind == RTM_NEWROUTE and flags & NLM_F_EXCL:
            route = self.decoder.decode(data, start, end)
            if route is not None:
                self._on_route_created(route)

    def _is_irrelevant(self, kind: int, data: bytes, start: int) -> bool:
        """Whether an event changes nothing here, by its header and its prefix, without decoding it."""
        at = start + BEGINNING_SIZE
        size, drop = self._evaluator.beginning(data[start:at])
        withdrawn = kind != RTM_NEWROUTE
        if drop is None and not (withdrawn and size == 4):
            return False
        prefix = (data[at : at + size], data[start + 1])
        if (
            self.replica.holds(prefix)
            or self.drops.has_reported(prefix)
            or prefix in self._watched_prefixes
            or prefix[0] in self._gateways.recognised_addresses
        ):
            return False
        if drop is not None and not withdrawn:
            self._stats.dropped[drop.rule] += 1
        return True

    def _learn_gateways(self, prefix: Prefix, attributes: Attributes, by_header: Verdict | None) -> None:
        """Note the gateways of a route that was announced.

        What the rules drop by its header alone is not decoded in a dump, and so counts for nothing here either, unless
        it is a default route.
        """
        if prefix.length and by_header is not None and not by_header.keep:
            return
        if len(self._learned) >= _WATCHED:
            self._learned.clear()
        hops = attributes.hops
        self._learned[id(hops)] = hops
        if self._dump is not None:
            self._dump.gateways.update(link_gateways((attributes,)))
        for gateway in self._gateways.learn(hops):
            self._evaluate_again(gateway)

    def _hides(self, key: Key, siblings: Siblings) -> bool:
        """Whether there may be more of this key than is held: then only a dump can tell what an event did to it.

        A dump may show less than there is (`is_mixed`), or two equal routes, which are held as one. Such keys are
        watched.

        What no event and no dump has ever shown, for it was hidden from the first, cannot be known: it shows in the
        next dump after what hides it has gone.
        """
        if key in self._watched:
            return True
        if len(siblings) < 2 or len(key[0].packed) == 4 or not is_mixed(siblings):
            return False
        self._watch_key(key)
        return True

    def _watch_key(self, key: Key) -> None:
        if len(self._watched) >= _WATCHED:
            self._watched.clear()
            self._watched_prefixes.clear()
        self._watched.add(key)
        self._watched_prefixes.add(key[0])

    def _announced(
        self, key: Key, held: Siblings, attributes: Attributes, flags: int, by_header: Verdict | None
    ) -> Updated:
        prefix = key[0]
        certain = not unresolved(attributes)
        sibling: Sibling = PLACEHOLDER
        if certain:
            host = self._evaluator.host(prefix, attributes) if prefix.length in _FULL_LENGTHS else None
            if host is None:
                sibling, verdict = self._evaluator.route(prefix, attributes, by_header)
            else:
                new = all(
                    other is PLACEHOLDER or link_host(other.attributes.at(prefix)) != host for other in held
                )
                sibling, verdict = self._evaluator.host_route(prefix, attributes, new=new)
            if not verdict.keep:
                self._stats.dropped[verdict.rule] += 1
                self.drops.dropped(key, attributes, verdict, announced=True)
            else:
                self.drops.ended(key)
                lifetime_s = self.decoder.lifetime_s
                if (
                    lifetime_s is not None
                    and len(attributes.hops) < 2
                    and self._lifetimes.announced(prefix, lifetime_s)
                ):
                    sibling = PLACEHOLDER
        if flags & NLM_F_EXCL:
            if self._dump is not None:
                self._dump.certain.add(key)
            if self._on_route_created is not None:
                self._on_route_created(attributes.at(prefix))
        updated = (inet_new if len(prefix.packed) == 4 else inet6_new)(held, attributes, sibling, flags)
        return updated if certain else Updated(updated.siblings, certain=False)

    def _withdrawn(self, key: Key, held: Siblings, attributes: Attributes) -> Updated:
        self.drops.ended(key)
        prefix = key[0]
        if prefix.length in _FULL_LENGTHS and (host := self._evaluator.host(prefix, attributes)) is not None:
            self._gateways.gone(host, host_route_key(attributes))
        if len(prefix.packed) == 4:
            return inet_del(held, attributes)
        updated = inet6_del(held, attributes)
        if isinstance(updated, HopRemoved):
            # What remains has a gateway: it is no host route on a link.
            sibling, _ = self._evaluator.route(prefix, updated.remaining)
            left = (*held[: updated.place], sibling, *held[updated.place + 1 :])
            return Updated(tidy(left), certain=False)
        return updated

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def review_at(self) -> float:
        """When `review` is due, in monotonic seconds; infinity while a dump runs, which does the same."""
        if self._dump is not None:
            return _NEVER
        return min(self._gateways.release_at, self._lifetimes.next_expiry)

    def review(self) -> None:
        """Do what time alone calls for: keep host routes that were held back, and request a dump when a lifetime ends.

        A route whose lifetime ends may have been given another one, without an event: only a dump can tell.
        """
        if self._dump is not None:
            return
        now = self._now()
        for host in self._gateways.release(now):
            self._evaluate_again(host)
        if self._lifetimes.next_expiry <= now:
            self._lifetimes.next_expiry = _NEVER
            self._request_dump("expired")

    def _evaluate_again(self, host: LinkAddress) -> None:
        """A gateway is new, or a host route was held back long enough: evaluate the host routes to this address."""
        prefix = Prefix(host[1], len(host[1]) * 8)
        if self._dump is not None:
            self._dump.unmark(prefix)
        for subkey, siblings in self.replica.slots(prefix):
            evaluated = list(siblings)
            for place, sibling in enumerate(siblings):
                if sibling is PLACEHOLDER or self._evaluator.host(prefix, sibling.attributes) != host:
                    continue
                evaluated[place], verdict = self._evaluator.host_route(prefix, sibling.attributes, new=False)
                if verdict.keep:
                    self.drops.ended((prefix, subkey))
                elif evaluated[place] != sibling:
                    self._stats.dropped[verdict.rule] += 1
                    self.drops.dropped((prefix, subkey), sibling.attributes, verdict, announced=True)
            if self.replica.put(prefix, subkey, tidy(tuple(evaluated))) and self._dump is not None:
                self._dump.touched.add(prefix.packed)

    # -- dumps ---------------------------------------------------------------------------------------------------------

    def begin_dump(self) -> Dump:
        """Begin to note what events touch; to be called before the dump is requested."""
        self._learned.clear()
        self._lifetimes.begin_dump()
        self._dump = Dump(self._evaluator, self.decoder, self.replica, self._now)
        return self._dump

    def abandon_dump(self) -> None:
        """The dump is void."""
        self._dump = None

    async def compare(self, dump: Dump) -> list[Prefix]:
        """Make the replica equal to a whole dump, as far as that is to be believed; return what had to change.

        It yields to the loop now and then; events that come meanwhile touch their addresses as during the dump.
        """
        distrusted, self._distrusted = self._distrusted, False
        doubtful, self._doubtful = self._doubtful, set()
        suspects, self._suspects = self._suspects, {}
        first, self._first_dump = self._first_dump, False
        new_gateways = self._gateways.rebuild(dump.gateways, dump.hosts, dump.touched)
        self._learned.clear()
        corrected: list[Prefix] = []
        open_keys: set[Key] = set()
        now = time.monotonic
        until = now() + SLICE_S
        replica = self.replica
        for prefix in self._to_compare(dump):
            if now() > until:
                await asyncio.sleep(0)
                until = now() + SLICE_S
            before = replica.slots(prefix)
            if before and dump.is_marked(before) and prefix not in dump.slots:
                continue
            if prefix in dump.open_hosts:
                dump.evaluate_hosts(prefix, first=first)
            after = dump.tidied(prefix)
            if (
                not before and prefix.packed not in dump.touched
            ):  # nothing held of it: no doubt what it has become
                if after:
                    if len(after) > 1 or len(after[0][1]) > 1:
                        self._watch(prefix, after)
                    replica.begin(prefix, after)
                    corrected.append(prefix)
                continue
            if before != after:
                self._watch(prefix, (*before, *after))
            if prefix.packed in dump.touched:
                keys = {(prefix, subkey) for subkey, _ in (*before, *after)} - dump.certain
                open_keys |= keys if distrusted else keys & doubtful
            elif before != after:
                subkeys = {subkey for subkey, _ in (*before, *after)}
                changed = [self._settle((prefix, subkey), dump, suspects) for subkey in subkeys]
                if any(changed):
                    corrected.append(prefix)
        open_keys |= {key for key in doubtful if key[0].packed in dump.touched and key not in dump.certain}
        self._finish(dump, open_keys, new_gateways, distrusted=distrusted)
        return corrected

    def _to_compare(self, dump: Dump) -> Iterator[Prefix]:
        """All that is held, then what was dumped beside; of what events touch meanwhile, some twice."""
        yield from list(self.replica)
        for prefix in list(dump.slots):
            if not self.replica.holds(prefix) or prefix.packed in dump.touched:
                yield prefix

    def _watch(self, prefix: Prefix, slots: Slots) -> None:
        """Watch what a dump shows to be mixed, be it before or after."""
        for subkey, siblings in slots:
            self._hides((prefix, subkey), siblings)

    def _settle(self, key: Key, dump: Dump, suspects: Mapping[Key, int]) -> bool:
        prefix, subkey = key
        held = siblings_at(self.replica.slots(prefix), subkey)
        if held and not dump.saw(prefix, subkey) and not self._is_explained(held):
            absences = suspects.get(key, 0) + 1
            churns = len(prefix.packed) == 16 and dump.inet6_churns
            if absences < (_INET6_ABSENCES if churns else 2):
                self._suspects[key] = absences
                return False
        return self.replica.put(prefix, subkey, siblings_at(dump.tidied(prefix), subkey))

    def _is_explained(self, held: Siblings) -> bool:
        every = [sibling.attributes for sibling in held if sibling is not PLACEHOLDER]
        return all(self._links.explains_absence(it.hops, it.prefsrc, it.nexthop_id) for it in every)

    def _finish(
        self, dump: Dump, open_keys: set[Key], new_gateways: list[LinkAddress], *, distrusted: bool
    ) -> None:
        """Everything was compared: note what is in doubt still, and request the next dump where one is needed."""
        self._dump = None
        for key in dump.twins:
            self._watch_key(key)
        self._doubtful |= open_keys
        if distrusted and dump.inet6_churns and self._inet6_dumps < _INET6_DUMPS:
            self._inet6_dumps += 1
            self._distrusted = True
        else:
            self._inet6_dumps = 0
        if self._doubtful or self._distrusted:
            self._request_dump("unsettled")
        if self._suspects:
            self._request_dump("unconfirmed")
        self.drops.settle(dump.reported)
        self._lifetimes.settle(dump)
        for gateway in new_gateways:  # for what events touched; the rest was evaluated with them
            self._evaluate_again(gateway)
