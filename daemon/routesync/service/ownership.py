"""Which routes are ours, changed by hand while the daemon runs: what `withdraw` and `forget` ask for.

Both are for targets that the daemon does not mirror into, such as one that was taken out of the configuration: of those
that it does, it would make the routes again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from routesync.config.models import TargetSettings
from routesync.control.subject import Emptied
from routesync.events.models import EventSink
from routesync.kernel import Links
from routesync.mirror.ledger import Ledger
from routesync.service.emptying import empty


class Ownership:
    """The ledger's targets that nobody mirrors into.

    Args:
        ledger: says what is ours.
        sink: takes the events.
        links: this host's network interfaces.
        mirrored: names of the targets that are mirrored into.
        changed: called when something was changed.
    """

    def __init__(
        self,
        ledger: Ledger,
        sink: EventSink,
        *,
        links: Callable[[], Links],
        mirrored: Callable[[], Collection[str]],
        changed: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._links = links
        self._mirrored = mirrored
        self._changed = changed
        self._at_work: set[str] = set()

    def owned(self) -> Mapping[str, int]:
        """How many routes are ours, by target."""
        return self._ledger.targets()

    async def forget(self, target: str) -> int:
        """Give up all claims on a target; its routes stay. Tell how many these were."""
        owned = self._ledger.owned(target)
        for prefix in owned:
            self._ledger.note(target, prefix, None)
        if (committed := self._ledger.committed()) is not None:
            await committed
        self._changed()
        return len(owned)

    async def withdraw(self, settings: TargetSettings) -> Emptied:
        """Take all of our routes out of a target."""
        if settings.name in self._at_work:
            return Emptied(0, len(self._ledger.owned(settings.name)), "they are being withdrawn already")
        self._at_work.add(settings.name)
        try:
            return await empty(
                settings,
                self._ledger,
                self._sink,
                links=self._links,
                go_on=lambda: "it is configured again" if settings.name in self._mirrored() else None,
            )
        finally:
            self._at_work.discard(settings.name)
            self._changed()
