"""One change at a target: the request, what its answer means for the entry and the ledger, and the words for it."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Final

import structlog

from routesync.loxilb import errors
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.wire import Inventory, InventoryRow
from routesync.mirror.announce import Announcer
from routesync.mirror.book import STATIC, Entry, Phase, describe_row, is_ours
from routesync.mirror.ledger import Ledger, Row
from routesync.mirror.pace import Ingestion, TokenBucket
from routesync.mirror.status import Counters
from routesync.mirror.tripwire import Tripwire
from routesync.mirror.wanted import Blocked, Wanted
from routesync.route import Address, Prefix

log = structlog.get_logger(__name__)

RETRY_FIRST_S: Final = 1.0
"""Until a refused route is tried again for the first time."""
CONFLICT_FAILURES: Final = 6
"""A conflict is looked at again as seldom as after this many failures: nobody but its owner can end it."""


class Outcome(Enum):
    """What came of a change."""

    SETTLED = auto()  # the entry says how
    DOUBTFUL = auto()  # only a reading can tell
    RESTORED = auto()  # it had been lost there, and is there again
    PROVEN = auto()  # it stands
    UNPROVEN = auto()  # its gateway is unreachable there: whether it stands, no POST can tell


class Changes:
    """Carries changes out at one target. The caller holds one token for each call of `make`."""

    def __init__(
        self,
        target: str,
        *,
        client: LoxilbClient,
        ledger: Ledger,
        say: Announcer,
        ingestion: Ingestion,
        bucket: TokenBucket,
        counters: Counters,
        tripwire: Tripwire,
    ) -> None:
        self._target = target
        self._client = client
        self._ledger = ledger
        self._say = say
        self._ingestion = ingestion
        self._bucket = bucket
        self.protocols = STATIC
        """What a route of ours is shown as by this target's version."""
        self._counters = counters
        self._tripwire = tripwire
        self._missing: set[Prefix] = set()  # lost there by itself, and not made again yet

    async def make(self, prefix: Prefix, entry: Entry, inventory: Inventory) -> Outcome:
        """Carry out what the entry needs; for a DELETE the caller has proof that it takes ours.

        Raises:
            NotSent, OutcomeUnknown, AccessDenied: nothing, or nothing certain, happened; the entry says which.
        """
        previous = None
        if entry.must_delete:
            previous = entry.ours
            replacing = entry.wanted is not None
            if not await self._delete(prefix, entry) or not replacing:
                return Outcome.SETTLED
            entry.gap_since = self._now()
            await self._another_token()
        wanted = entry.wanted
        if wanted is None:  # the wish changed meanwhile
            entry.gap_since = None
            self._bucket.give_back(self._now())
            if previous is not None:
                self._say.withdrawn(prefix, previous, why_unwanted(entry))
            return Outcome.SETTLED
        return await self._post(prefix, entry, wanted, inventory, previous)

    async def check(self, prefix: Prefix, entry: Entry) -> Outcome:
        """Post what stands there already: 409 proves that its kernel has it, 200 that it had lost it.

        Raises:
            NotSent, OutcomeUnknown, AccessDenied: as `make`.
        """
        wanted = entry.wanted
        if wanted is None:
            self._bucket.give_back(self._now())
            return Outcome.SETTLED
        try:
            await self._add(prefix, entry, wanted.gateway)
        except errors.AccessDenied:
            raise
        except errors.Rejected as error:
            # 409: it stands; any other words prove nothing, for it may stand all the same
            self._bucket.give_back(self._now())
            unreachable = isinstance(error, errors.NextHopUnreachable)
            return Outcome.UNPROVEN if unreachable else Outcome.PROVEN
        except (errors.OutcomeUnknown, asyncio.CancelledError):
            self._ingestion.note(self._now())  # it may have been made anew
            raise
        if entry.ours is None:  # an equal one that was not ours: it is now
            self._ledger.note(self._target, prefix, Row(wanted.gateway))
        self._touched(entry)
        self._counters.posted += 1
        self._counters.lost += 1
        self._counters.repaired += 1
        entry.ours, entry.phase, entry.asked_at = wanted.gateway, Phase.ACCEPTED, None
        self._say.lost(prefix, "a repeated POST was taken: its kernel had lost the route, and has it again")
        self._say.accepted(prefix, wanted, None)
        return Outcome.RESTORED

    async def _another_token(self) -> None:
        while (wait := self._bucket.take(self._now())) > 0:  # noqa: ASYNC110 (the clock is what we wait for)
            await asyncio.sleep(wait)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _post(
        self, prefix: Prefix, entry: Entry, wanted: Wanted, inventory: Inventory, previous: Address | None
    ) -> Outcome:
        claimed = entry.claim is not None
        asked_at = entry.asked_at  # that of the wish which is carried out; another may come meanwhile
        row = inventory.rows.get(prefix)
        doubtful = not claimed and row is not None and is_ours(row, wanted.gateway, self.protocols)
        if (
            not doubtful
        ):  # an equal route of another writer was there: after a crash the route is rather theirs
            self._ledger.note(self._target, prefix, Row(wanted.gateway))
        try:
            await self._add(prefix, entry, wanted.gateway)
        except (errors.NotSent, errors.AccessDenied):
            if not claimed:
                self._ledger.note(self._target, prefix, None)
            self._say.gone(prefix, "replacement-failed")  # the former one, which is deleted
            raise
        except errors.Rejected as error:
            self._bucket.give_back(self._now())
            if (
                claimed
            ):  # it may stand all the same: an unreachable gateway is refused before that is looked at
                return Outcome.DOUBTFUL
            self._ledger.note(self._target, prefix, None)
            # Unexplained: there already, or refused; its table tells
            if isinstance(error, errors.AlreadyExists) or (
                isinstance(error, errors.Unexplained) and row is not None
            ):
                self._stands_already(prefix, entry, wanted, row)
            else:
                self._refused(prefix, entry, wanted, error)
            return Outcome.SETTLED
        except (errors.OutcomeUnknown, asyncio.CancelledError):
            if not doubtful:
                entry.claim, entry.ours = wanted.gateway, None
            self._touched(entry)
            raise
        if doubtful:  # it had gone meanwhile, so this one is ours
            self._ledger.note(self._target, prefix, Row(wanted.gateway))
        self._touched(entry)
        self._counters.posted += 1
        self._say.measures.reached("accepted", asked_at, entry.changed_at)
        if prefix in self._missing:
            self._missing.discard(prefix)
            self._counters.repaired += 1
        entry.ours, entry.claim, entry.failures, entry.error = wanted.gateway, None, 0, ""
        entry.phase = Phase.ACCEPTED
        gap_ms = None
        if entry.gap_since is not None:
            gap_ms = round((entry.changed_at - entry.gap_since) * 1e3, 3)
            log.info("gateway_replaced", target=self._target, prefix=str(prefix), gap_ms=gap_ms)
            entry.gap_since = None
        self._say.accepted(prefix, wanted, previous, gap_ms)
        return Outcome.SETTLED

    async def _add(self, prefix: Prefix, entry: Entry, gateway: Address) -> None:
        if (committed := self._ledger.committed()) is not None:
            await committed
        wire = self._tripwire.set(prefix, gateway, entry.candidate)
        try:
            await self._client.add(prefix, gateway)
        except (errors.Rejected, errors.NotSent):
            self._tripwire.refused(prefix, wire)
            raise
        except (errors.OutcomeUnknown, asyncio.CancelledError):
            self._tripwire.answered(prefix, wire)
            raise
        self._tripwire.answered(prefix, wire)

    async def take_back(self, prefix: Prefix, entry: Entry) -> None:
        """Delete a route of ours that should never have gone there; the caller has proof that it stands alone.

        Raises:
            LoxilbError: it may stand there still.
        """
        gateway = entry.ours
        await self._client.delete(prefix)
        self._counters.deleted += 1
        self._touched(entry)
        self._ledger.note(self._target, prefix, None)
        entry.ours = entry.claim = None
        if gateway is not None:
            self._say.withdrawn(prefix, gateway, "shared-namespace")

    async def _delete(self, prefix: Prefix, entry: Entry) -> bool:
        """Delete what is ours there; tell whether it is gone."""
        gateway, asked_at = entry.ours, entry.asked_at
        assert gateway is not None  # noqa: S101 (proof names it)
        try:
            await self._client.delete(prefix)
        except errors.NoSuchRoute:
            self._bucket.give_back(self._now())
            if entry.wanted is None and not await self._lay_ghost(prefix, entry, gateway):
                return False
        except (errors.OutcomeUnknown, asyncio.CancelledError):
            entry.claim, entry.ours = gateway, None
            self._touched(entry)
            raise
        except (errors.NotSent, errors.AccessDenied):
            raise
        except errors.Rejected as error:  # gone already, or not: the next reading tells
            self._touched(entry)
            entry.failures += 1
            entry.error = error.words
            return False
        self._counters.deleted += 1
        self._touched(entry)
        self._ledger.note(self._target, prefix, None)
        entry.ours = entry.claim = None
        entry.failures, entry.error = 0, ""
        if entry.wanted is None:
            self._say.measures.reached("withdrawn", asked_at, entry.changed_at)
            self._say.withdrawn(prefix, gateway, why_unwanted(entry))
        return True

    async def _lay_ghost(self, prefix: Prefix, entry: Entry, gateway: Address) -> bool:
        """Its table shows a route that its kernel has lost: make the route once more, and delete it again.

        Tells whether that went well. While the gateway is off-link there, it cannot: tried again later.
        """
        await self._another_token()
        try:
            await self._add(prefix, entry, gateway)
        except errors.Rejected as error:
            self._bucket.give_back(self._now())
            entry.failures += 1
            entry.error = f"a ghost in its table, which cannot be removed now: {error.words}"
            return False
        self._touched(entry)
        await self._another_token()
        await self._client.delete(prefix)
        self._counters.ghosts += 1
        log.info("ghost_removed", target=self._target, prefix=str(prefix))
        return True

    def _touched(self, entry: Entry) -> None:
        now = self._now()
        entry.changed_at = now
        self._ingestion.note(now)

    def _refused(self, prefix: Prefix, entry: Entry, wanted: Wanted, error: errors.Rejected) -> None:
        entry.failures += 1
        entry.error = error.words
        if entry.phase is not Phase.REFUSED:  # said once, not at every retry
            self._say.refused(prefix, wanted, error, RETRY_FIRST_S)
        entry.phase = Phase.REFUSED

    def _stands_already(self, prefix: Prefix, entry: Entry, wanted: Wanted, row: InventoryRow | None) -> None:
        if row is not None and is_ours(row, wanted.gateway, self.protocols):
            entry.phase, entry.failures, entry.error = Phase.PRESENT, 0, ""
            return
        detail = describe_row(row) if row else "a route stands in its kernel that its table does not show"
        self._conflict(prefix, entry, detail)

    def _conflict(self, prefix: Prefix, entry: Entry, detail: str) -> None:
        entry.failures = max(entry.failures + 1, CONFLICT_FAILURES)
        entry.error = detail
        if entry.phase is not Phase.CONFLICTING and entry.wanted is not None:
            self._counters.conflicts += 1
            self._say.conflicting(prefix, entry.wanted, detail)
        entry.phase = Phase.CONFLICTING

    def give_up(self, prefix: Prefix) -> None:
        """Nothing proves that what may stand there is ours, so it is not."""
        self._ledger.note(self._target, prefix, None)

    def let_go(self, prefix: Prefix) -> None:
        """Nothing is left to say of the prefix."""
        self._missing.discard(prefix)

    # -- what a reading says ----------------------------------------------------------------------------------------

    def note_lost(self, prefix: Prefix, entry: Entry, gateway: Address) -> None:
        """The target no longer has our route: it is made again if it is still wanted."""
        self._ledger.note(self._target, prefix, None)
        if entry.wanted is None:
            self._missing.discard(prefix)
            self._say.withdrawn(prefix, gateway, why_unwanted(entry))
        elif self._say.standing(prefix) is not None:
            self._counters.lost += 1
            self._missing.add(prefix)
            self._say.lost(prefix, "its table does not show the route any more")
        entry.failures, entry.error = 0, ""

    def note_foreign(self, prefix: Prefix, entry: Entry, gateway: Address, detail: str) -> None:
        """Somebody else's route stands in the place of ours, which is thus no longer ours to remove."""
        self._ledger.note(self._target, prefix, None)
        if entry.wanted is None:
            self._say.withdrawn(prefix, gateway, "replaced-by-other")
        else:
            self._conflict(prefix, entry, detail)


def why_unwanted(entry: Entry) -> str:
    """The reason code of a withdrawal."""
    return entry.judgement.reason.value if isinstance(entry.judgement, Blocked) else "no-route"
