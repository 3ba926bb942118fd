"""Events applied to the replica, and a reading compared with it.

What is known is kept apart from what is in doubt. `doubtful` keys are those of which only a dump can tell; `suspects`
are keys that the last reading lacked without a reason; `distrusted` puts everything in question (after a loss of
events, a change of links, other rules). A reading resolves all of it, except for addresses that events touched while
it ran.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from routesync.kernel.decode import RTMSG_SIZE, RouteDecoder, unresolved
from routesync.kernel.errors import DecodeError
from routesync.kernel.judge import Judge
from routesync.kernel.netlink import NLM_F_EXCL, RTM_NEWROUTE
from routesync.kernel.reading import Key, Reading, message_build
from routesync.kernel.replica import Replica, Slots, siblings_at
from routesync.kernel.reports import DropEnded, Dropped, KernelReport, KernelStats
from routesync.kernel.surroundings import Surroundings
from routesync.kernel.update import (
    PLACEHOLDER,
    HopRemoved,
    Identity,
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
from routesync.route import Prefix, Route, Verdict

_REPORTED: Final = 1 << 16
"""So many reported drops are remembered; drops beyond are counted, not reported."""

_WATCHED: Final = 1 << 12
_RT_TABLE_COMPAT: Final = 252
_SLICE_S: Final = 0.005
_INET6_ABSENCES: Final = 8
"""Under churn an IPv6 route is gone when so many readings in a row lacked it; in quiet, as for IPv4, two."""
_INET6_READINGS: Final = 4
"""After a loss, IPv6 is read so many times again while it churns; what even these miss is the audit's to find."""


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
    ) -> None:
        """Make an empty one.

        Args:
            tables: the tables read, preferred ones first.
            judge: the rules.
            surroundings: links, addresses and nexthop objects; kept up to date by somebody else.
            stats: where to count.
            report: called with reports.
            order: called with a cause when only a reading can tell.
            made: called with a route that an event says was made where no other had its key.
        """
        self.replica = Replica()
        self.decoder = RouteDecoder(surroundings.resolve)
        self._judge = judge
        self._surroundings = surroundings
        self._stats = stats
        self._report = report
        self._order = order
        self._made = made
        self._headers = {table if table < 256 else _RT_TABLE_COMPAT for table in tables}
        self._builds = {
            message_build(family, table): (table, size)
            for table in tables
            for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16))
        }
        self._distrusted = True
        self._doubtful: set[Key] = set()
        self._suspects: dict[Key, int] = {}  # readings in a row that lacked it
        self._touched: set[bytes] | None = None  # while a reading runs: addresses that events spoke of
        self._certain: set[Key] = set()  # of those, the keys of which an event told all
        self._mixed: set[Key] = set()  # IPv6 keys of which dumps may hide something, held or not
        self._mixed_prefixes: set[Prefix] = set()
        self._inet6_readings = 0
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
            return
        self._stats.events += 1
        if self._touched is None and self._passes_by(kind, data, start):
            return
        route = self.decoder.decode(data, start, end)
        if route is None:
            return
        rest = self._judge.rest(route)
        if rest is None:
            return
        key = (route.prefix, rest)
        if self._touched is not None:
            self._touched.add(route.prefix.packed)
        self._suspects.pop(key, None)
        held = siblings_at(self.replica.slots(route.prefix), rest)
        outcome = (
            self._announced(key, held, route, flags)
            if kind == RTM_NEWROUTE
            else self._withdrawn(key, held, route)
        )
        self.replica.put(*key, outcome.siblings)
        if not outcome.certain or self._hides(key, outcome.siblings):
            self._certain.discard(key)
            self._doubtful.add(key)
            self._order("doubt")

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
        if prefix in self.replica or prefix in self._reported or prefix in self._mixed_prefixes:
            return False
        if kind != RTM_NEWROUTE and size == 4:
            return True
        rule = self._judge.header(data[start : start + RTMSG_SIZE], table)
        if rule is None:
            return False
        if kind == RTM_NEWROUTE:
            self._stats.dropped[rule] += 1
        return True

    def _announced(self, key: Key, held: Siblings, route: Route, flags: int) -> Updated:
        certain = not unresolved(route)
        if certain:
            sibling, verdict = self._judge.route(route)
            if sibling is PLACEHOLDER:
                self._stats.dropped[verdict.rule] += 1
                self._dropped(key, route, verdict, renewed=True)
            else:
                self._forget_reported(key)
        else:
            sibling = PLACEHOLDER
        if flags & NLM_F_EXCL:
            if self._touched is not None:
                self._certain.add(key)
            if self._made is not None:
                self._made(route)
        updated = (inet_new if len(route.prefix.packed) == 4 else inet6_new)(held, route, sibling, flags)
        return Updated(updated.siblings, updated.certain and certain)

    def _withdrawn(self, key: Key, held: Siblings, route: Route) -> Updated:
        self._forget_reported(key)
        if len(route.prefix.packed) == 4:
            return inet_del(held, route)
        updated = inet6_del(held, route)
        if isinstance(updated, HopRemoved):
            sibling, _ = self._judge.route(updated.remaining)
            left = (*held[: updated.place], sibling, *held[updated.place + 1 :])
            return Updated(tidy(left), certain=False)
        return updated

    def _dropped(self, key: Key, route: Route, verdict: Verdict, *, renewed: bool) -> None:
        """Report a drop, where its rule follows its drops, and it is news."""
        if not verdict.followed:
            return
        known = self._reported.get(key[0], {})
        itself = (identity(route), verdict)
        if known.get(key) == itself and not renewed:
            return
        if key not in known:
            if self._reported_count >= _REPORTED:
                return
            self._reported_count += 1
        self._reported.setdefault(key[0], known)[key] = itself
        self._report(Dropped(route, verdict))

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
        return Reading(self._judge, self.decoder, self.replica)

    def abandon_reading(self) -> None:
        """The reading is void."""
        self._touched = None

    async def compare(self, reading: Reading) -> list[Prefix]:
        """Make the replica equal to a whole reading, as far as that is to be believed; return what had to change.

        It yields to the loop now and then; events that come meanwhile touch their addresses as during the reading.
        """
        touched = self._touched
        assert touched is not None  # noqa: S101 - begin_reading() came before
        distrusted, self._distrusted = self._distrusted, False
        doubtful, self._doubtful = self._doubtful, set()
        suspects, self._suspects = self._suspects, {}
        corrected: list[Prefix] = []
        open_keys: set[Key] = set()
        until = time.monotonic() + _SLICE_S
        replica = self.replica
        now = time.monotonic
        for prefix in [*replica, *(prefix for prefix in reading.slots if prefix not in replica)]:
            if now() > until:
                await asyncio.sleep(0)
                until = now() + _SLICE_S
            before, after = replica.slots(prefix), reading.tidied(prefix)
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
        churned = any(len(address) == 16 for address in touched)
        self._touched = None
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
        return corrected

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
        routes = [sibling.route for sibling in held if sibling is not PLACEHOLDER]
        return all(
            self._surroundings.explains_absence(route.hops, route.prefsrc, route.nexthop_id)
            for route in routes
        )

    def _settle_reported(self, reading: Reading) -> None:
        for key, (route, verdict) in reading.reported.items():
            self._dropped(key, route, verdict, renewed=False)
        gone = [key for known in self._reported.values() for key in known if key not in reading.reported]
        for key in gone:
            self._forget_reported(key)
