"""The network of the founding bug report, in namespaces: a Kubernetes node and a loxilb beside it.

::

    node                                  segment                       loxilb
    ens3 192.168.10.10/24 -------- br0 192.168.10.1/24 -------- eth0 192.168.10.20/24
    cni0, docker0, flannel.1         (the gateway)

The node's main table is the report's, line by line (`FOUNDING_TABLE`). Everything is made by ip(8), and what
happens to the node later is done as its real author does it: a DHCP client, flannel, a cable.

Not safe for concurrent use; every method blocks for some milliseconds.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from types import TracebackType
from typing import Final, Self

NODE_ADDRESS: Final = "192.168.10.10"
GATEWAY_ADDRESS: Final = "192.168.10.1"
LOXILB_ADDRESS: Final = "192.168.10.20"

_DEFAULT: Final = f"default via {GATEWAY_ADDRESS} dev ens3 proto dhcp src {NODE_ADDRESS} metric 100"
HOST_ROUTE: Final = f"{GATEWAY_ADDRESS} dev ens3 proto dhcp scope link src {NODE_ADDRESS} metric 100"
"""The host route that systemd-networkd installs for its DHCP server, and that started it all."""

FOUNDING_TABLE: Final = (
    _DEFAULT,
    "10.244.0.0/24 dev cni0 proto kernel scope link src 10.244.0.1",
    "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
    "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
    "172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1 linkdown",
    f"192.168.10.0/24 dev ens3 proto kernel scope link src {NODE_ADDRESS}",
    HOST_ROUTE,
)
"""What `ip route show` says in the node when the topology is complete."""

MIRRORED_TABLE: Final = (
    f"default via {GATEWAY_ADDRESS}",
    f"10.244.0.0/24 via {NODE_ADDRESS}",
    f"10.244.1.0/24 via {NODE_ADDRESS}",
    f"10.244.2.0/24 via {NODE_ADDRESS}",
    f"10.244.3.0/24 via {NODE_ADDRESS}",
)
"""The gateway routes that loxilb must hold in the end, as `FoundingTopology.gateway_routes` gives them."""

_CARRIER_DEADLINE_S: Final = 10.0


class TopologyError(Exception):
    """A step could not be taken; the message is the command and what it said."""


class FoundingTopology:
    """The three namespaces, for the length of a `with` block.

    Attributes:
        node: name of the namespace of the Kubernetes node, where routesync belongs.
        loxilb: name of the namespace of the external loxilb.
        segment: name of the namespace of the network between them; its bridge is the gateway, and answers.
    """

    def __init__(self) -> None:
        mark = f"{os.getpid()}-{secrets.token_hex(2)}"
        self.node = f"rs-node-{mark}"
        self.loxilb = f"rs-loxilb-{mark}"
        self.segment = f"rs-segment-{mark}"
        self._pods = {1, 2, 3}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the namespaces with all that is in them; what is not there is passed over.

        A namespace lives on without a name while a process runs in it: end those first.
        """
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, process_group=0)

    def renew_lease(self) -> None:
        """Delete the DHCP host route and add it again, as a DHCP client does when a lease is renewed."""
        self._batch(self.node, f"route del {HOST_ROUTE}", f"route add {HOST_ROUTE}")

    def move_pod_network(self, old: int, new: int) -> None:
        """Take away 10.244.`old`.0/24 and add 10.244.`new`.0/24, as flannel does when a node is replaced."""
        self._batch(self.node, f"route del {_pod_route(old)}", f"route add {_pod_route(new)}")
        self._pods = self._pods - {old} | {new}

    def link_down(self, link: str = "flannel.1") -> None:
        """Take a link down: its IPv4 routes go without any RTM_DELROUTE."""
        self._batch(self.node, f"link set {link} down")

    def link_up(self, link: str = "flannel.1") -> None:
        """Bring a link up again, and put back its routes as flannel or the DHCP client would."""
        routes = [line for line in self._routes() if f" dev {link} " in line]
        self._batch(self.node, f"link set {link} up", *(f"route replace {route}" for route in routes))

    def flap_link(self, link: str = "flannel.1") -> None:
        """Take a link down and bring it up again at once."""
        self.link_down(link)
        self.link_up(link)

    def table(self, namespace: str) -> list[str]:
        """The main IPv4 table of a namespace, as `ip route show` says it."""
        return [line.strip() for line in _run(["ip", "-n", namespace, "-4", "route", "show"]).splitlines()]

    def gateway_routes(self) -> list[str]:
        """The routes with a gateway in loxilb's kernel, as `PREFIX via GATEWAY`, in the kernel's order."""
        split = (line.split() for line in self.table(self.loxilb))
        return [" ".join(words[:3]) for words in split if words[1] == "via"]

    @property
    def _namespaces(self) -> tuple[str, str, str]:
        return (self.node, self.loxilb, self.segment)

    def _build(self) -> None:
        for name in self._namespaces:
            _run(["ip", "netns", "add", name])
            # The report knows no IPv6: without this every link would add its fe80::/64 to the picture.
            _run(["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
            _run(["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
        self._batch(
            self.segment,
            "link set lo up",
            "link add br0 type bridge",
            f"link add to-node type veth peer name ens3 netns {self.node}",
            f"link add to-loxilb type veth peer name eth0 netns {self.loxilb}",
            "link set to-node master br0 up",
            "link set to-loxilb master br0 up",
            f"address add {GATEWAY_ADDRESS}/24 dev br0",
            "link set br0 up",
        )
        self._batch(
            self.loxilb,
            "link set lo up",
            f"address add {LOXILB_ADDRESS}/24 dev eth0",
            "link set eth0 up",
        )
        self._batch(
            self.node,
            "link set lo up",
            f"address add {NODE_ADDRESS}/24 dev ens3",
            "link set ens3 up",
            # A bridge has carrier when a port of it has: the other end of this veth would be in a pod.
            "link add cni0 type bridge",
            "link add veth-pod type veth peer name pod",
            "link set veth-pod master cni0 up",
            "link set pod up",
            "address add 10.244.0.1/24 dev cni0",
            "link set cni0 up",
            # A bridge that never had a port counts as up. Docker's loses its carrier with its last container.
            "link add docker0 type bridge",
            "link add veth-gone type veth peer name gone",
            "link set veth-gone master docker0",
            "link del veth-gone",
            "address add 172.17.0.1/16 dev docker0",
            "link set docker0 up",
            f"link add flannel.1 type vxlan id 1 local {NODE_ADDRESS} dev ens3 dstport 8472 nolearning",
            "address add 10.244.0.0/32 dev flannel.1",
            "link set flannel.1 up",
            *(f"route add {route}" for route in self._routes()),
        )
        self._await_carriers()

    def _routes(self) -> list[str]:
        """The routes that are not the kernel's own, in an order in which they can be added."""
        return [HOST_ROUTE, _DEFAULT, *map(_pod_route, sorted(self._pods))]

    def _await_carriers(self) -> None:
        """Wait until every carrier is known; the kernel works that out a moment after a link is made."""
        deadline = time.monotonic() + _CARRIER_DEADLINE_S
        while (have := self.table(self.node)) != list(FOUNDING_TABLE):
            if time.monotonic() > deadline:
                differing = "; ".join(sorted(set(have) ^ set(FOUNDING_TABLE)))
                raise TopologyError(
                    f"the kernel does not make the founding table of it; it differs in: {differing}"
                )
            time.sleep(0.02)

    def _batch(self, namespace: str, *lines: str) -> None:
        _run(["ip", "-n", namespace, "-batch", "-"], "".join(f"{line}\n" for line in lines))


def _pod_route(number: int) -> str:
    return f"10.244.{number}.0/24 via 10.244.{number}.0 dev flannel.1 onlink"


def _run(command: list[str], stdin: str = "") -> str:
    # A process group of its own: Ctrl-C is for us, who then tidy up, not for an ip(8) half way through.
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, process_group=0)
    if done.returncode != 0:
        raise TopologyError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
