"""Events applied to the replica, and a dump compared with it.

What is known is kept apart from what is in doubt. `doubtful` keys are those of which only a dump can tell; `suspects`
are keys that the last dump lacked without a reason; `distrusted` puts everything in question (after a loss of events, a
change of links, other rules). A dump resolves all of it, except for addresses that events touched while it ran.

Two things change without an event, and `review` sees to them when `review_at` comes: host routes that are held back
(`gateways`), and IPv6 routes with a lifetime.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Final

from routesync.kernel.decode import RTMSG_SIZE, RouteDecoder, unresolved
from routesync.kernel.errors import DecodeError
from routesync.kernel.gateways import HELD_BACK_PROTOCOLS, LinkGateways
from routesync.kernel.judge import Judge
from routesync.kernel.netlink import NLM_F_EXCL, RTM_NEWROUTE
from routesync.kernel.reading import EXPIRY_MARGIN_S, Key, Reading, message_build
from routesync.kernel.replica import Replica, Slots, siblings_at
from routesync.kernel.reports import DropEnded, Dropped, KernelReport, KernelStats
from routesync.kernel.surroundings import Surroundings
from routesync.kernel.update import (
    PLACEHOLDER,
    HopRemoved,
    Identity,
    Sibling,
    Siblings,
    Updated,
    identity,
    inet6_del,
    inet6_new,
    inet_del,
    inet_new,
    is_mixed,
    tidy,
)
from routesync.route import (
    Attributes,
    Judged,
    LinkAddress,
    NextHop,
    Prefix,
    Route,
    Verdict,
    link_gateways,
    link_host,
)

_REPORTED: Final = 1 << 16
"""So many reported drops are remembered; drops beyond are counted, not reported."""

_WATCHED: Final = 1 << 12
_RT_TABLE_COMPAT: Final = 252
_SLICE_S: Final = 0.005
_INET6_ABSENCES: Final = 8
"""Under churn an IPv6 route is gone when so many readings in a row lacked it; in quiet, as for IPv4, two."""
_INET6_READINGS: Final = 4
"""After a loss, IPv6 is read so many times again while it churns; what even these miss is the audit's to find."""


_NEVER: Final = float("inf")
_FULL_LENGTHS: Final = (32, 128)
_RT_TABLE_MAIN: Final = 254
_EXPIRED_RECHECK_S: Final = 10.0
_EXPIRED_RECHECK_MOST_S: Final = 320.0
_LIFETIME_RECHECK_S: Final = 1.0


def _telling(route: Attributes) -> Hashable:
    """What tells host routes to one address of one link apart."""
    return (route.table, route.tos, route.metric, identity(route))


class Fib:
    """The replica with its doubts."""

    def __init__(
        self,
        tables: Sequence[int],
        judge: Judge,
        surroundings: Surroundings,
        *,
        stats: KernelStats,
        report: Callable[[KernelReport], None],
        order: Callable[[str], None],
        made: Callable[[Route], None] | None = None,
        gateways_changed: Callable[[], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty one.

        Args:
            tables: the tables read, preferred ones first.
            judge: the rules.
            surroundings: links, addresses and nexthop objects; kept up to date by somebody else.
            stats: where to count.
            report: called with reports.
            order: called with a cause when only a reading can tell.
            made: called with a route that an event says was made where no other had its key, before the rules are
                asked; for the main table also where it is not among the tables that are read.
            gateways_changed: called when the gateways of routes have changed.
            now: the clock, in monotonic seconds.
        """
        self.replica = Replica()
        self.decoder = RouteDecoder(surroundings.resolve)
        self._judge = judge
        self._surroundings = surroundings
        self._stats = stats
        self._report = report
        self._order = order
        self.made = made
        self._gateways_changed = gateways_changed
        self._now = now
        self.gateways = LinkGateways()
        self._headers = {table if table < 256 else _RT_TABLE_COMPAT for table in tables}
        self._builds = {
            message_build(family, table): (table, size)
            for table in tables
            for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16))
        }
        self._distrusted = True
        self._doubtful: set[Key] = set()
        self._suspects: dict[Key, int] = {}  # readings in a row that lacked it
        self._reading: Reading | None = None
        self._touched: set[bytes] | None = None  # while a reading runs: addresses that events spoke of
        self._certain: set[Key] = set()  # of those, the keys of which an event told all
        self._mixed: set[Key] = set()  # IPv6 keys of which dumps may hide something, held or not
        self._mixed_prefixes: set[Prefix] = set()
        self._inet6_readings = 0
        self._learned: dict[int, tuple[NextHop, ...]] = {}  # by id(): hops whose gateways are known already
        self._announced_gateways: set[LinkAddress] = set()  # while a dump runs
        self._first_dump = True
        self._lifetimes: set[Prefix] = set()  # prefixes of routes that have one
        self._next_expiry = self._next_expiry_by_events = _NEVER
        self._expired_rechecks = 0
        self._reported: dict[Prefix, dict[Key, tuple[Identity, Verdict]]] = {}
        self._reported_count = 0

    def distrust(self) -> None:
        """Put everything held in question."""
        self._distrusted = True

    def event(self, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        """Apply an RTM_NEWROUTE or RTM_DELROUTE.

        Raises:
            DecodeError: not a route message.
        """
        if end - start < RTMSG_SIZE:
            raise DecodeError(f"route message of {end - start} bytes")
        if data[start + 4] not in self._headers:
            if self.made is not None and data[start + 4] == _RT_TABLE_MAIN:
                self._announce_made(kind, flags, data, start, end)
            return
        self._stats.events += 1
        if self._touched is None and self._passes_by(kind, data, start):
            if self.made is not None:
                self._announce_made(kind, flags, data, start, end)
            return
        parts = self.decoder.parts(data, start, end)
        if parts is None:
            return
        prefix, attributes = parts
        rest = self._judge.rest(attributes)
        if rest is None:
            return
        key = (prefix, rest)
        if self._reading is not None and self._touched is not None:
            self._touched.add(prefix.packed)
            self._reading.unmark(prefix)
        if self._suspects:
            self._suspects.pop(key, None)
        held = siblings_at(self.replica.slots(prefix), rest)
        if kind == RTM_NEWROUTE:
            by_header = self._judge.header(data[start : start + RTMSG_SIZE], attributes.table)
            if id(attributes.hops) not in self._learned:
                self._learn_gateways(prefix, attributes, by_header)
            outcome = self._announced(key, held, attributes, flags, by_header)
        else:
            outcome = self._withdrawn(key, held, attributes)
        self.replica.put(prefix, rest, outcome.siblings)
        if not outcome.certain or self._hides(key, outcome.siblings):
            self._certain.discard(key)
            self._doubtful.add(key)
            self._order("doubt")

    def _announce_made(self, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        if kind == RTM_NEWROUTE and flags & NLM_F_EXCL and self.made is not None:
            route = self.decoder.decode(data, start, end)
            if route is not None:
                self.made(route)

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
        self._announced_gateways.update(link_gateways((attributes,)))
        if new := self.gateways.learn(hops):
            for gateway in new:
                self._judge_again(gateway)
            if self._gateways_changed is not None:
                self._gateways_changed()

    def _hides(self, key: Key, siblings: Siblings) -> bool:
        """Whether a dump may tell less of this key than there is; once it did, it is watched.

        What no event and no dump has ever shown, for it was hidden from the first, is beyond anybody: it comes to light
        with the next reading after what hides it has gone.
        """
        if key in self._mixed:
            return True
        if len(siblings) < 2 or len(key[0].packed) == 4 or not is_mixed(siblings):
            return False
        if len(self._mixed) >= _WATCHED:
            self._mixed.clear()
            self._mixed_prefixes.clear()
        self._mixed.add(key)
        self._mixed_prefixes.add(key[0])
        return True

    def _watch(self, prefix: Prefix, slots: Slots) -> None:
        """Watch what a reading tells to be mixed, be it before or after."""
        for rest, siblings in slots:
            self._hides((prefix, rest), siblings)

    def _passes_by(self, kind: int, data: bytes, start: int) -> bool:
        """Whether an event is of no concern, told by its header and its prefix without decoding it."""
        found = self._builds.get(data[start + RTMSG_SIZE : start + RTMSG_SIZE + 12])
        if found is None:
            return False
        table, size = found
        at = start + RTMSG_SIZE + 12
        prefix = (data[at : at + size], data[start + 1])
        if (
            prefix in self.replica
            or prefix in self._reported
            or prefix in self._mixed_prefixes
            or prefix[0] in self.gateways.recognised_addresses
        ):
            return False
        if kind != RTM_NEWROUTE and size == 4:
            return True
        verdict = self._judge.header(data[start : start + RTMSG_SIZE], table)
        if verdict is None or verdict.keep:
            return False
        if kind == RTM_NEWROUTE:
            self._stats.dropped[verdict.rule] += 1
        return True

    def _announced(
        self, key: Key, held: Siblings, attributes: Attributes, flags: int, by_header: Verdict | None
    ) -> Updated:
        prefix = key[0]
        certain = not unresolved(attributes)
        if certain:
            if prefix.length in _FULL_LENGTHS:
                sibling, verdict = self._judge_full_length(prefix, attributes, held, by_header)
            else:
                sibling, verdict = self._judge.route(prefix, attributes, by_header)
            if not verdict.keep:
                self._stats.dropped[verdict.rule] += 1
                self._dropped(key, attributes, verdict, renewed=True)
            else:
                if self._reported:
                    self._forget_reported(key)
                lifetime_s = self.decoder.lifetime_s
                if lifetime_s is not None and len(attributes.hops) < 2:
                    self._lifetimes.add(prefix)
                    if lifetime_s <= 0:
                        sibling = PLACEHOLDER
                    else:
                        self._expires_in(lifetime_s)
        else:
            sibling = PLACEHOLDER
        if flags & NLM_F_EXCL:
            if self._touched is not None:
                self._certain.add(key)
            if self.made is not None:
                self.made(attributes.at(prefix))
        updated = (inet_new if len(prefix.packed) == 4 else inet6_new)(held, attributes, sibling, flags)
        return updated if certain else Updated(updated.siblings, certain=False)

    def _judge_full_length(
        self, prefix: Prefix, attributes: Attributes, held: Siblings, by_header: Verdict | None
    ) -> tuple[Sibling, Verdict]:
        host = self._judge.host(prefix, attributes)
        if host is None:
            return self._judge.route(prefix, attributes, by_header)
        known = any(
            other is not PLACEHOLDER and link_host(other.attributes.at(prefix)) == host for other in held
        )
        return self._judge_host(prefix, attributes, new=not known)

    def _judge_host(self, prefix: Prefix, attributes: Attributes, *, new: bool) -> tuple[Sibling, Verdict]:
        """Judge a host route on a link by what is known of gateways now.

        Returns:
            What is to be held of it, also where the rules drop it and a gateway could change that; and the verdict.
        """
        host = link_host(attributes.at(prefix))
        assert host is not None  # noqa: S101 - nothing else gets here
        if self.gateways.recognise(host, _telling(attributes)):
            return self._judge.to_link_gateway(prefix, attributes)
        sibling, verdict = self._judge.route(prefix, attributes)
        if sibling is not PLACEHOLDER:
            if new and attributes.protocol in HELD_BACK_PROTOCOLS:
                self.gateways.hold_back(host, self._now())
            if self.gateways.is_held_back(host):
                sibling = Judged(attributes, Verdict(keep=False, rule=verdict.rule))
        elif self._judge.to_link_gateway(prefix, attributes)[1] != verdict:
            sibling = Judged(attributes, verdict)
        return sibling, verdict

    def _judge_again(self, host: LinkAddress) -> None:
        """A gateway is new, or a host route was held back long enough: judge the host routes to this address."""
        prefix = Prefix(host[1], len(host[1]) * 8)
        if self._reading is not None:
            self._reading.unmark(prefix)
        for rest, siblings in self.replica.slots(prefix):
            judged = list(siblings)
            for place, sibling in enumerate(siblings):
                if sibling is PLACEHOLDER or self._judge.host(prefix, sibling.attributes) != host:
                    continue
                judged[place], verdict = self._judge_host(prefix, sibling.attributes, new=False)
                if verdict.keep:
                    self._forget_reported((prefix, rest))
                elif judged[place] != sibling:
                    self._stats.dropped[verdict.rule] += 1
                    self._dropped((prefix, rest), sibling.attributes, verdict, renewed=True)
            if self.replica.put(prefix, rest, tidy(tuple(judged))) and self._touched is not None:
                self._touched.add(prefix.packed)

    def _expires_in(self, lifetime_s: float) -> None:
        at = self._now() + lifetime_s + EXPIRY_MARGIN_S
        self._next_expiry = min(self._next_expiry, at)
        self._next_expiry_by_events = min(self._next_expiry_by_events, at)

    @property
    def review_at(self) -> float:
        """When `review` is due, in monotonic seconds; infinity while a dump runs, which does the same."""
        if self._touched is not None:
            return _NEVER
        return min(self.gateways.release_at, self._next_expiry)

    def review(self) -> None:
        """Do what time alone calls for: keep host routes that were held back, and order a dump when a lifetime ends.

        A route whose lifetime ends may have been given another one, without an event: only a dump tells.
        """
        if self._touched is not None:
            return
        now = self._now()
        for host in self.gateways.release(now):
            self._judge_again(host)
        if self._next_expiry <= now:
            self._next_expiry = _NEVER
            self._order("expired")

    def _withdrawn(self, key: Key, held: Siblings, attributes: Attributes) -> Updated:
        self._forget_reported(key)
        prefix = key[0]
        if prefix.length in _FULL_LENGTHS and (host := self._judge.host(prefix, attributes)) is not None:
            self.gateways.gone(host, _telling(attributes))
        if len(prefix.packed) == 4:
            return inet_del(held, attributes)
        updated = inet6_del(held, attributes)
        if isinstance(updated, HopRemoved):
            sibling, _ = self._judge.route(
                prefix, updated.remaining
            )  # with a gateway: no host route on a link
            left = (*held[: updated.place], sibling, *held[updated.place + 1 :])
            return Updated(tidy(left), certain=False)
        return updated

    def _dropped(self, key: Key, attributes: Attributes, verdict: Verdict, *, renewed: bool) -> None:
        """Report a drop, where its rule follows its drops, and it is news."""
        if not verdict.followed:
            return
        known = self._reported.get(key[0], {})
        itself = (identity(attributes), verdict)
        if known.get(key) == itself and not renewed:
            return
        if key not in known:
            if self._reported_count >= _REPORTED:
                return
            self._reported_count += 1
        self._reported.setdefault(key[0], known)[key] = itself
        self._report(Dropped(attributes.at(key[0]), verdict))

    def _forget_reported(self, key: Key) -> None:
        known = self._reported.get(key[0])
        if known is not None and known.pop(key, None) is not None:
            self._reported_count -= 1
            if not known:
                del self._reported[key[0]]
            self._report(DropEnded(key[0]))

    def followed(self) -> Iterator[tuple[Prefix, Verdict]]:
        """The drops that were told and hold, each with its verdict."""
        for prefix, known in self._reported.items():
            for _, verdict in known.values():
                yield prefix, verdict

    def begin_reading(self) -> Reading:
        """Begin to note what events touch; to be called before the dump is asked for."""
        self._touched = set()
        self._certain = set()
        self._next_expiry_by_events = _NEVER
        self._announced_gateways.clear()
        self._learned.clear()
        self._reading = Reading(self._judge, self.decoder, self.replica, self._now)
        return self._reading

    def abandon_reading(self) -> None:
        """The reading is void."""
        self._reading = self._touched = None

    async def compare(self, reading: Reading) -> list[Prefix]:
        """Make the replica equal to a whole reading, as far as that is to be believed; return what had to change.

        It yields to the loop now and then; events that come meanwhile touch their addresses as during the reading.
        """
        touched = self._touched
        assert touched is not None  # noqa: S101 - begin_reading() came before
        distrusted, self._distrusted = self._distrusted, False
        doubtful, self._doubtful = self._doubtful, set()
        suspects, self._suspects = self._suspects, {}
        new_gateways = self._take_gateways(reading, touched)
        first, self._first_dump = self._first_dump, False

        def judge_host(prefix: Prefix, attributes: Attributes) -> tuple[Sibling, Verdict]:
            # What the first dump shows may be as old as the node.
            return self._judge_host(
                prefix, attributes, new=not first and not self._holds_host(prefix, attributes)
            )

        corrected: list[Prefix] = []
        open_keys: set[Key] = set()
        now = time.monotonic
        until = now() + _SLICE_S
        replica = self.replica
        for prefix in self._to_compare(reading, touched):
            if now() > until:
                await asyncio.sleep(0)
                until = now() + _SLICE_S
            before = replica.slots(prefix)
            if before and reading.is_marked(before) and prefix not in reading.slots:
                continue
            if prefix in reading.open_hosts:
                reading.judge_hosts(prefix, judge_host)
            after = reading.tidied(prefix)
            if not before and prefix.packed not in touched:  # nothing held of it: no doubt what it has become
                if after:
                    if len(after) > 1 or len(after[0][1]) > 1:
                        self._watch(prefix, after)
                    replica.begin(prefix, after)
                    corrected.append(prefix)
                continue
            if before != after:
                self._watch(prefix, (*before, *after))
            if prefix.packed in touched:
                keys = {(prefix, rest) for rest, _ in (*before, *after)} - self._certain
                open_keys |= keys if distrusted else keys & doubtful
            elif before != after:
                rests = {rest for rest, _ in (*before, *after)}
                changed = [self._settle((prefix, rest), reading, suspects) for rest in rests]
                if any(changed):
                    corrected.append(prefix)
        open_keys |= {key for key in doubtful if key[0].packed in touched and key not in self._certain}
        self._finish(reading, open_keys, new_gateways, distrusted=distrusted)
        return corrected

    def _to_compare(self, reading: Reading, touched: set[bytes]) -> Iterator[Prefix]:
        """All that is held, then what was read beside; of what events touch meanwhile, some twice."""
        yield from list(self.replica)
        for prefix in list(reading.slots):
            if prefix not in self.replica or prefix.packed in touched:
                yield prefix

    def _finish(
        self, reading: Reading, open_keys: set[Key], new_gateways: list[LinkAddress], *, distrusted: bool
    ) -> None:
        """Everything was compared: note what is in doubt still, and order the next dump where one is needed."""
        churned = any(len(address) == 16 for address in self._touched or ())
        self._reading = self._touched = None
        self._doubtful |= open_keys
        if distrusted and churned and self._inet6_readings < _INET6_READINGS:
            self._inet6_readings += 1
            self._distrusted = True
        else:
            self._inet6_readings = 0
        if self._doubtful or self._distrusted:
            self._order("unsettled")
        if self._suspects:
            self._order("unconfirmed")
        self._settle_reported(reading)
        self._settle_lifetimes(reading)
        for gateway in new_gateways:  # for what events touched; the rest was judged with them
            self._judge_again(gateway)

    def _take_gateways(self, reading: Reading, touched: set[bytes]) -> list[LinkAddress]:
        """Rebuild the gateways from a dump; return the new ones."""
        before = self.gateways.addresses
        shown = reading.gateways | self._announced_gateways
        new = self.gateways.rebuild(shown, reading.hosts, touched)
        self._learned.clear()
        if self._gateways_changed is not None and self.gateways.addresses != before:
            self._gateways_changed()
        return new

    def _holds_host(self, prefix: Prefix, attributes: Attributes) -> bool:
        host = link_host(attributes.at(prefix))
        return any(
            sibling is not PLACEHOLDER and link_host(sibling.attributes.at(prefix)) == host
            for _, siblings in self.replica.slots(prefix)
            for sibling in siblings
        )

    def _settle_lifetimes(self, reading: Reading) -> None:
        """Say when the next dump is due for the sake of lifetimes.

        A route that has expired may be given another lifetime, without an event, until the kernel's garbage collector
        has removed it. And one that shows no lifetime any more may be within the last hundredth of a second of it.
        """
        self._next_expiry = min(reading.next_expiry, self._next_expiry_by_events)
        recheck_s = _NEVER
        if reading.expired:
            recheck_s = min(_EXPIRED_RECHECK_S * 2**self._expired_rechecks, _EXPIRED_RECHECK_MOST_S)
            self._expired_rechecks += 1
        else:
            self._expired_rechecks = 0
        if any(map(reading.has, self._lifetimes - reading.lifetimes)):
            recheck_s = min(recheck_s, _LIFETIME_RECHECK_S)
        self._lifetimes = reading.lifetimes
        self._next_expiry = min(self._next_expiry, self._now() + recheck_s)

    def _settle(self, key: Key, reading: Reading, suspects: Mapping[Key, int]) -> bool:
        prefix, rest = key
        held = siblings_at(self.replica.slots(prefix), rest)
        if held and not reading.saw(prefix, rest) and not self._explained(held):
            lacked = suspects.get(key, 0) + 1
            if lacked < (_INET6_ABSENCES if self._churns(prefix) else 2):
                self._suspects[key] = lacked
                return False
        read = next((siblings for at, siblings in reading.tidied(prefix) if at == rest), ())
        return self.replica.put(prefix, rest, read)

    def _churns(self, prefix: Prefix) -> bool:
        """Whether dumps of this family could miss routes that nobody touched, for others came and went meanwhile."""
        return len(prefix.packed) == 16 and any(len(address) == 16 for address in self._touched or ())

    def _explained(self, held: Siblings) -> bool:
        every = [sibling.attributes for sibling in held if sibling is not PLACEHOLDER]
        return all(self._surroundings.explains_absence(it.hops, it.prefsrc, it.nexthop_id) for it in every)

    def _settle_reported(self, reading: Reading) -> None:
        for key, (attributes, verdict) in reading.reported.items():
            self._dropped(key, attributes, verdict, renewed=False)
        gone = [key for known in self._reported.values() for key in known if key not in reading.reported]
        for key in gone:
            self._forget_reported(key)
