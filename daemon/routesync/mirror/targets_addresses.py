"""Split horizon: no target is sent a route whose next hop is a target.

A VIP that was learned from one loxilb and sent to another would make them each other's next hop. So the addresses of
all targets are known to all reconcilers, and when they change, every route is evaluated again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from routesync.route import Address
from routesync.url import url_address


class TargetsAddresses:
    """The addresses of all targets: those in their URLs, and those that their own tables show."""

    def __init__(self, urls: Iterable[str] = ()) -> None:
        self.addresses: frozenset[Address] = frozenset()
        self._seen: dict[str, frozenset[Address]] = {}
        self._listeners: dict[str, Callable[[], None]] = {}
        self.configure(urls)

    def configure(self, urls: Iterable[str]) -> None:
        """Take these URLs as those of all targets."""
        found = (url_address(url) for url in urls)
        self._configured = frozenset(address for address in found if address is not None)
        self._change("")

    def join(self, target: str, listener: Callable[[], None]) -> None:
        """Call this listener of a target when the addresses of others change."""
        self._listeners[target] = listener

    def leave(self, target: str) -> None:
        """Forget a target."""
        self._listeners.pop(target, None)
        if self._seen.pop(target, None):
            self._change(target)

    def see(self, target: str, addresses: frozenset[Address]) -> None:
        """A target's table showed these as its own addresses."""
        if self._seen.get(target, frozenset()) != addresses:
            self._seen[target] = addresses
            self._change(target)

    def _change(self, by: str) -> None:
        addresses = self._configured.union(*self._seen.values())
        if addresses == self.addresses:
            return
        self.addresses = addresses
        for target, listener in self._listeners.items():
            if target != by:
                listener()
