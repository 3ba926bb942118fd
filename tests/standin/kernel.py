"""What loxilb's route API does to the kernel: two requests, sent exactly as it sends them."""

from __future__ import annotations

from typing import Final

from standin import rtnl
from standin.addresses import Address, Prefix

_RTN_UNSPEC: Final = 0
_RTN_UNICAST: Final = 1


class KernelRoutes:
    """Adds and deletes routes in the main table of this process's network namespace.

    The kernel handles a route request within the send itself, so asking and reading the answer never wait: about
    150 µs each, and no need for a thread.
    """

    def __init__(self) -> None:
        self._socket = rtnl.open_socket(0, 1 << 16)

    @property
    def port(self) -> int:
        """The netlink port of its socket, by which its own changes are known among all that the kernel announces."""
        port: int = self._socket.getsockname()[0]
        return port

    def add(self, prefix: Prefix, gateway: Address | None, *, protocol: int) -> int:
        """Add a route without a metric, if its key is free (NLM_F_CREATE | NLM_F_EXCL). Returns 0 or an errno."""
        flags = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
        return self._ask(
            rtnl.route_request(
                rtnl.RTM_NEWROUTE, flags, prefix, gateway, protocol=protocol, route_type=_RTN_UNICAST
            )
        )

    def delete(self, prefix: Prefix) -> int:
        """Delete the first route of the prefix, whosever it is. Returns 0 or an errno.

        Protocol and type are left at zero and match anything; scope zero is RT_SCOPE_UNIVERSE and, for IPv4, matches
        nothing else: a route of scope link stays (ESRCH; net/ipv4/fib_trie.c, fib_table_delete).
        """
        return self._ask(
            rtnl.route_request(rtnl.RTM_DELROUTE, 0, prefix, None, protocol=0, route_type=_RTN_UNSPEC)
        )

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _ask(self, request: bytes) -> int:
        self._socket.send(request)
        return rtnl.acknowledge(self._socket.recv(1 << 16))
