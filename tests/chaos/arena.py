"""Where chaos happens: two nodes with a daemon each, a loxilb that both mirror into, a broker, and followers.

    node ── ens3 ─┐                    ┌─ eth0 ── loxilb (a stand-in that dies of any misuse)
      └ cni0      ├─ br0 192.168.10.1 ─┤
    peer ── ens3 ─┘  broker, gate,     followers

The first node has a routing daemon (`Routing`) and is looked at every second; the second one is a writer beside it.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from chaos.gate import Gate
from chaos.gate import gate as running_gate
from chaos.record import catches
from support.broker import Broker
from support.broker import broker as running_broker
from support.daemon import Daemon, ended
from support.disks import small_disk
from support.kill_arena import CONFLICTING, EQUAL, FOREIGN, GATEWAYS, POOL, Row, table
from support.netns import Namespace, namespace, segment
from support.standin import StandinProcess, doomed_standin
from support.waiting import eventually_sync

TESTS: Final = Path(__file__).parents[1]
FOLLOWER: Final = TESTS.parent / "examples" / "table_follower.py"
BROKER: Final = "192.168.10.1"
PEER_POOL: Final = [f"10.150.{number}.0/24" for number in range(20)] + [
    f"fd50:{number}::/48" for number in range(1, 6)
]
PODS: Final = [f"10.98.{number}.0/24" for number in range(20)] + [
    f"fd98:{number}::/48" for number in range(1, 6)
]
GROUPED: Final = [f"10.97.{number}.0/24" for number in range(10)]
BURST: Final = [f"10.{block}.{number}.0/24" for block in (101, 102) for number in range(150)]
PINNED: Final = [f"10.{number}.0.0/16" for number in range(50, 56)]
"""Always desired, so that another writer may take them: a withdrawal would race with that writer, and may lose."""
LEFT: Final = [f"10.95.{number}.0/24" for number in range(4)] + [
    f"fd95:{number}::/48" for number in range(1, 5)
]
"""Desired until another writer has had one for so long that the daemon has to know, and then no more."""
SHUT: Final = "10.40.0.0/13"
"""Inside this the rules drop everything in some configurations."""
BLOCKED: Final = (CONFLICTING, EQUAL)
_CONFIG: Final = """
[node]
name = "{name}"

[kernel]
receive_buffer = 65536

[policy]
default_action = "drop"

[[policy.rules]]
name = "down"
match = {{ flags = "linkdown" }}
action = "drop"

[[policy.rules]]
name = "shut"
match = {{ prefix = {{ within = "{shut}" }} }}
action = "drop"

[[policy.rules]]
name = "pods"
match = {{ protocol = "bird", interface = "cni0" }}
action = "keep"
next_hop = "self"

[[policy.rules]]
name = "mirrored"
match = {{ protocol = "bird" }}
action = "keep"

[[targets]]
name = "lb"
url = "http://192.168.10.20:11111"
writers = {writers}
startup_hold_s = 1
rate = {rate}
burst = {burst}
inventory_interval_s = {inventory_interval_s}
{witness}

[mqtt]
host = "192.168.10.1"
port = 1884
timeout_s = 3
keepalive_s = 5
heartbeat_s = 5
will_delay_s = 1

[events]
outbox_events = 5000
outbox_bytes = 4194304

[log]
level = "{level}"
"""


class Node(Daemon):
    """A node of the arena with its daemon. Times are monotonic seconds.

    Attributes:
        shut: whether the active rules drop what lies inside `SHUT`.
        witness: loxilb's namespace, if its kernel is read directly; for the next `configure`.
    """

    def __init__(self, name: str, directory: Path, space: Namespace) -> None:
        super().__init__(directory, space)
        directory.mkdir()
        self.name = name
        self.node = space
        self.shut = False
        self.witness: Namespace | None = None
        (directory / "clock").write_text("0")
        self.program = [sys.executable, "-m", "chaos.probe", str(directory)]
        self.extra_environment = {"PYTHONPATH": str(TESTS)}
        self.configure()

    def configure(
        self,
        *,
        shut: bool = False,
        rate: int = 240,
        burst: int = 64,
        inventory_interval_s: int = 10,
        level: str = "info",
        writers: int = 2,
    ) -> None:
        """Write its configuration; a start or a reload makes it active."""
        text = _CONFIG.format(
            name=self.name,
            shut=SHUT if shut else "198.51.100.0/24",
            rate=rate,
            burst=burst,
            inventory_interval_s=inventory_interval_s,
            level=level,
            writers=writers,
            witness=f'witness = {{ netns = "{self.witness.name}" }}' if self.witness is not None else "",
        )
        self.replace_config(text)
        self.shut = shut

    def replace_config(self, text: str) -> None:
        """Write its configuration in one step: a daemon that starts at this moment must not see half of it."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def set_clock(self, offset_s: float) -> None:
        """Set its wall clock off by so many seconds, if it takes signals now."""
        new = self.directory / "clock.new"
        new.write_text(str(offset_s))
        new.replace(self.directory / "clock")  # the daemon may read it at this moment
        if self.running and self.process is not None and catches(self.process.pid, signal.SIGUSR2):
            self.process.send_signal(signal.SIGUSR2)

    def tasks(self, within_s: float = 5) -> dict[str, int]:
        """Its tasks by the name of their coroutine; empty if it does not answer."""
        file = self.directory / "tasks"
        file.unlink(missing_ok=True)
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.set_clock(float((self.directory / "clock").read_text()))
            time.sleep(0.1)
            if file.exists():
                found: dict[str, int] = json.loads(file.read_text())
                return found
        return {}

    def kill(self) -> None:
        """SIGKILL; it must not have ended by itself before."""
        assert self.process is None or self.process.poll() is None, f"{self.name} ended by itself"
        super().kill()
        self.process = None

    def terminate(self) -> None:
        """Stop it in order; a moment after its start it does not know SIGTERM yet."""
        if self.process is not None and not catches(self.process.pid, signal.SIGTERM):
            self.kill()
        elif self.process is not None:
            assert self.stop() == 0, f"{self.name} did not stop in order"
            self.process = None


def batch(space: Namespace, lines: list[str]) -> None:
    """Run ip(8) commands in one process; those that fail do nothing, as those of a routing daemon in trouble."""
    subprocess.run(
        ["ip", "-n", space.name, "-force", "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )


class Routing:
    """The routing daemon of a node: what it wants in the kernel, and how it puts it there.

    Attributes:
        wanted: by prefix and metric, the words behind `route replace PREFIX`.
        touched: when the kernel's routes of a prefix last changed, or may have, in monotonic seconds.
    """

    def __init__(self, space: Namespace, pool: list[str]) -> None:
        self._avoided: tuple[str, ...] = ()
        self._space = space
        self._pool = pool
        self.wanted: dict[tuple[str, int], str] = {}
        self.touched: dict[str, float] = {}
        self.hops = {1: GATEWAYS[4][0], 2: GATEWAYS[4][1]}

    def churn(self, chance: random.Random) -> None:
        """Change some routes at once: new ones, other gateways, other metrics, ones that go."""
        lines = []
        for prefix in chance.sample(self._pool, chance.randint(1, 6)):
            if prefix in (*PINNED, *self._avoided):
                continue
            metric = chance.choice((0, 0, 0, 100))
            if chance.random() < 0.4:
                lines += self._drop(prefix, metric)
            else:
                lines += self._put(prefix, metric, self._way(prefix, chance))
        batch(self._space, lines)

    def _way(self, prefix: str, chance: random.Random) -> str:
        if prefix in PODS:
            return "via fd00:99::2 dev cni0" if ":" in prefix else "via 10.99.0.2 dev cni0"
        if prefix in GROUPED:
            return f"nhid {chance.choice((1, 2, 10))}"
        return f"via {chance.choice(GATEWAYS[6 if ':' in prefix else 4])}"

    def _put(self, prefix: str, metric: int, way: str) -> list[str]:
        self.wanted[prefix, metric] = way
        self.touched[prefix] = time.monotonic()
        return [f"route replace {prefix} {way} proto bird" + (f" metric {metric}" if metric else "")]

    def _drop(self, prefix: str, metric: int) -> list[str]:
        if self.wanted.pop((prefix, metric), None) is None:
            return []
        self.touched[prefix] = time.monotonic()
        return [f"route del {prefix} proto bird metric {metric or (1024 if ':' in prefix else 0)}"]

    def pin(self) -> None:
        """Want what is desired without chance."""
        lines = []
        for prefix in (*PINNED, *LEFT):
            lines += self._put(prefix, 0, f"via {GATEWAYS[6 if ':' in prefix else 4][0]}")
        batch(self._space, lines)

    def drop(self, prefix: str) -> None:
        """Want this prefix no more."""
        batch(self._space, self._drop(prefix, 0))

    def avoid(self, *prefixes: str) -> None:
        """Want these prefixes no more, and no others that were avoided before are avoided now."""
        self._avoided = prefixes
        batch(
            self._space,
            [line for prefix in prefixes for metric in (0, 100) for line in self._drop(prefix, metric)],
        )

    def burst(self, chance: random.Random) -> None:
        """Add hundreds of routes at once, or remove them."""
        if (BURST[0], 0) in self.wanted:
            lines = [line for prefix in BURST for line in self._drop(prefix, 0)]
        else:
            way = f"via {chance.choice(GATEWAYS[4])}"
            lines = [line for prefix in BURST for line in self._put(prefix, 0, way)]
        batch(self._space, lines)

    def change_group(self, chance: random.Random) -> None:
        """Give a nexthop object another gateway, or remove the group with all that use it and make it again."""
        self.touch()
        if chance.random() < 0.5:
            number = chance.choice((1, 2))
            self.hops[number] = f"192.168.10.{chance.randint(1, 4)}"
            batch(self._space, [self._hop(number)])
        else:
            batch(self._space, ["nexthop del id 10"])

    def _hop(self, number: int) -> str:
        return f"nexthop replace id {number} via {self.hops[number]} dev ens3"

    def touch(self) -> None:
        """A link or a group changes: any route may."""
        self.touched.update(dict.fromkeys((prefix for prefix, _ in self.wanted), time.monotonic()))

    def refresh(self) -> None:
        """Put everything that is wanted where it was lost: after a link came back, or a group went."""
        lines = [self._hop(1), self._hop(2), "nexthop replace id 10 group 1/2"]
        for (prefix, metric), way in self.wanted.items():
            lines += self._put(prefix, metric, way)
        batch(self._space, lines)


class Writer:
    """Another writer in loxilb's kernel: its routes have an MTU, by which they are known.

    Attributes:
        routes: what it has there, beside what the arena began with: a line of ip-route(8) by what `Row` it makes.
    """

    def __init__(self, loxilb: Namespace) -> None:
        self._loxilb = loxilb
        self.routes: dict[Row, str] = {}
        for line in FOREIGN:
            loxilb.ip(line)
        self.original = table(loxilb)
        self._unheard: list[tuple[str, Row]] = []

    @property
    def rows(self) -> set[Row]:
        """All that has to be in loxilb's kernel and is not ours."""
        return self.original | set(self.routes)

    def put(self, prefix: str, gateway: str, *, metric: int, verb: str = "add") -> None:
        line = f"route {verb} {prefix} via {gateway} proto bird mtu 1400 metric {metric}"
        batch(self._loxilb, [line])  # it fails while the link is down, and `refresh` follows
        self.routes[Row(prefix, gateway, "bird", metric, 1400)] = line

    def drop(self, row: Row) -> None:
        line = self.routes.pop(row)
        if row not in table(self._loxilb):  # a link took it, and loxilb did not hear of it
            self._unheard.append((line, row))
        batch(self._loxilb, [self._removal(row)])

    @staticmethod
    def _removal(row: Row) -> str:
        return f"route del {row.prefix} via {row.gateway} proto bird metric {row.metric}"

    def refresh(self) -> None:
        """Put everything back that a link took along, and let loxilb hear of the removals it missed.

        Otherwise its table would show routes of this writer for ever that its kernel does not have.
        """
        lines = [*FOREIGN, *self.routes.values()]
        lines = [line.removeprefix("-6 ").replace("route add", "route replace") for line in lines]
        for line, row in self._unheard:
            lines += [line.replace("route replace", "route add"), self._removal(row)]
        self._unheard.clear()
        batch(self._loxilb, lines)


class Follower:
    """The reference subscriber of one node, a process of its own; it prints its copy each second."""

    def __init__(self, space: Namespace, directory: Path, node: str) -> None:
        self._errors = (directory / f"follower-{node}").open("wb")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", space.name, sys.executable, str(FOLLOWER), BROKER, node],
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.copy: dict[str, Any] = {"state": "unknown", "targets": {}}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.copy = json.loads(line)

    def routes(self) -> dict[str, str] | None:
        """The gateway of each route in its copy of the table; None while the copy is not whole."""
        target = self.copy["targets"].get("lb")
        if target is None or not target["whole"]:
            return None
        return {prefix: gateway for prefix, (gateway, _) in target["routes"].items()}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


class Arena:
    """All parts.

    Attributes:
        bridge: the namespace between them; it has the broker and the ends of all links.
        node: looked at every second.
        peer: a second writer by the same program.
        followers: by the name of the node.
    """

    def __init__(
        self,
        *,
        directory: Path,
        bridge: Namespace,
        node: Node,
        peer: Node,
        loxilb: Namespace,
        standin: StandinProcess,
        broker: Broker,
        gate: Gate,
        followers: dict[str, Follower],
    ) -> None:
        self.directory = directory
        self.bridge = bridge
        self.node = node
        self.peer = peer
        self.loxilb = loxilb
        self.standin = standin
        self.broker = broker
        self.gate = gate
        self.followers = followers
        self.routing = Routing(node.node, [*POOL, *PODS, *GROUPED])
        self.peer_routing = Routing(peer.node, PEER_POOL)
        self.writer = Writer(loxilb)

    def retained(self, *places: str) -> dict[str, Any]:
        """What the broker has at these places: each topic with its message."""
        topics = [word for place in places for word in ("-t", f"routesync/v1/{place}")]
        command = ["mosquitto_sub", "-h", BROKER, "-p", str(self.broker.port), *topics, "-v", "-W", "2"]
        said = subprocess.run(
            ["ip", "netns", "exec", self.bridge.name, *command, "--retained-only"],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = (line.partition(" ") for line in said.stdout.splitlines())
        return {topic: json.loads(message) for topic, _, message in lines}

    def start(self) -> None:
        """Start both daemons with some routes, and wait until they are ready."""
        self.routing.refresh()
        self.routing.pin()
        for node in (self.node, self.peer):
            node.launch()
        for node in (self.node, self.peer):
            eventually_sync(lambda node=node: bool(node.logged("ready")), what=f"readiness of {node.name}")  # type: ignore[misc]


@contextmanager
def arena(directory: Path) -> Iterator[Arena]:
    """Build it; take it down whatever happened."""
    with ExitStack() as stack:
        spaces = [stack.enter_context(namespace(label)) for label in ("node", "peer", "loxilb")]
        node_space, peer_space, loxilb = spaces
        links = ((node_space, "ens3", 10), (loxilb, "eth0", 20), (peer_space, "ens3", 30))
        bridge = stack.enter_context(segment(*links))
        for space in spaces:
            space.sysctl("net.ipv6.conf.all.keep_addr_on_down", "1")
        _add_pods(node_space, bridge)
        mosquitto = stack.enter_context(
            running_broker(
                namespace=bridge, address=BROKER, extra="max_queued_messages 0\nmax_inflight_messages 0"
            )
        )
        passage = stack.enter_context(running_gate(bridge, f"{BROKER}:1884", mosquitto.port, directory))
        node = Node("node", directory / "node", node_space)
        peer = Node("peer", directory / "peer", peer_space)
        stack.enter_context(small_disk(node.state, size="16m"))
        standin = stack.enter_context(doomed_standin(loxilb))
        followers = {it.name: Follower(bridge, directory, it.name) for it in (node, peer)}
        for follower in followers.values():
            stack.callback(follower.end)
        stack.enter_context(ended(peer))
        stack.enter_context(ended(node))
        yield Arena(
            directory=directory,
            bridge=bridge,
            node=node,
            peer=peer,
            loxilb=loxilb,
            standin=standin,
            broker=mosquitto,
            gate=passage,
            followers=followers,
        )


def _add_pods(node: Namespace, bridge: Namespace) -> None:
    """Give the node a second link, whose routes go to loxilb with the node as their next hop."""
    node.ip(f"link add cni0 type veth peer name pods netns {bridge.name}")
    node.ip("link set cni0 addrgenmode none")
    node.ip("addr add 10.99.0.1/24 dev cni0")
    node.ip("addr add fd00:99::1/64 dev cni0 nodad")
    node.ip("link set cni0 up")
    bridge.ip("link set pods up")
