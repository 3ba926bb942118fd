"""Random programmes of real operations on a namespace's routes, and how to run, check and shrink them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

from routesync.kernel import KernelSource, Links, Rules, open_route_socket
from routesync.route import (
    Evaluated,
    Family,
    Prefix,
    Route,
    Verdict,
    leads_to_gateway,
    link_gateways,
)
from support.netns import Namespace, namespace
from support.route_oracle import in_lookup_order, read_oracle

TABLES: Final = (254, 1000, 77)

SETUP: Final = (
    "link add e0 type veth peer name p0",
    "link add e1 type veth peer name p1",
    "link add e2 type veth peer name p2",
    *(f"link set {name} up" for name in ("p0", "p1", "p2", "e0", "e1", "e2")),
    "addr add 192.0.2.1/24 dev e0",
    "addr add 198.51.100.1/24 dev e1",
    "addr add 2001:db8:e0::1/64 dev e0 nodad",
    "addr add 2001:db8:e1::1/64 dev e1 nodad",
)

PATIENCE_S: Final = 60
"""Dumps take at most a fifth of the time, and some doubts take several: on a busy machine that adds up."""
SHRINKING_PATIENCE_S: Final = 5

_KEEP: Final = Verdict(keep=True, rule="default")
_DROP: Final = Verdict(keep=False, rule="dropped")


def _verdict(*, drop: bool) -> Verdict:
    return _DROP if drop else _KEEP


def _bgp_header(*header: int) -> Verdict | None:
    return _DROP if header[4] == 186 else None


def _interface_e1(route: Route, links: Links) -> bool:
    names = [links[hop.ifindex].name for hop in route.hops if hop.ifindex in links]
    return bool(names) and all(name.startswith("e1") for name in names)


RULES: Final[Mapping[str, Rules]] = {
    "keep everything": Rules(lambda _route, _links: _KEEP),
    "drop bgp, by header": Rules(lambda route, _links: _verdict(drop=route.protocol == 186), _bgp_header),
    "drop bgp": Rules(lambda route, _links: _verdict(drop=route.protocol == 186)),
    "drop odd gateways": Rules(
        lambda route, _links: _verdict(drop=any(hop.gateway and hop.gateway[-1] & 1 for hop in route.hops))
    ),
    "drop what is down": Rules(
        lambda route, _links: _verdict(drop=bool(route.hops) and not any(hop.usable for hop in route.hops))
    ),
    "drop interface e1": Rules(lambda route, links: _verdict(drop=_interface_e1(route, links))),
    "drop link gateways": Rules(
        lambda _route, _links: _KEEP, evaluate_link_gateway=lambda _route, _links: _DROP
    ),
    "keep link gateways only": Rules(
        lambda _route, _links: _DROP, evaluate_link_gateway=lambda _route, _links: _KEEP
    ),
}


class Mode(Enum):
    """How a burst of operations meets the source."""

    FOLLOWED = "followed"  # the source runs meanwhile
    BLOCKED = "blocked"  # the source sees nothing until all is done
    IN_DUMP = "in dump"  # full dumps run meanwhile


class Step(NamedTuple):
    """Operations of ip(8) or sysctl(8), after which the replica has to be right."""

    mode: Mode
    lines: tuple[str, ...]


class Programme(NamedTuple):
    """All that makes a run."""

    rules: str
    small_buffer: bool
    ballast: int  # routes that only make dumps longer
    steps: tuple[Step, ...]

    @property
    def operations(self) -> int:
        """How many operations there are."""
        return sum(len(step.lines) for step in self.steps)


def make_programme(seed: int, operations: int) -> Programme:
    """A programme, the same for the same seed."""
    chance = random.Random(seed)
    steps = []
    left = operations
    while left > 0:
        size = min(left, chance.choice((1, 1, 2, 3, 5, 8, 15, 30, 60)))
        left -= size
        mode = chance.choices((Mode.FOLLOWED, Mode.BLOCKED, Mode.IN_DUMP), (6, 3, 2))[0]
        steps.append(Step(mode, tuple(_operation(chance) for _ in range(size))))
    return Programme(
        chance.choice(tuple(RULES)),
        small_buffer=chance.random() < 0.25,
        ballast=chance.choice((0, 0, 0, 2000)),
        steps=tuple(steps),
    )


def _operation(chance: random.Random) -> str:
    kinds: tuple[tuple[int, Callable[[random.Random], str]], ...] = (
        (30, _inet_route),
        (30, _inet6_route),
        (3, _link),
        (3, _address),
        (8, _nexthop),
        (1, _flush),
        (1, _sysctl),
    )
    return chance.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0](chance)


_VERBS: Final = ("add", "add", "append", "prepend", "replace", "replace", "del", "del")


def _inet_route(chance: random.Random) -> str:
    verb = chance.choice(_VERBS)
    prefix = chance.choice(
        ("10.9.0.0/24", "10.9.0.0/16", "10.9.1.0/24", "10.9.1.1/32", "10.9.2.0/24", "192.0.2.2/32", "default")
    )
    words = ["route", verb]
    if prefix == "192.0.2.2/32":  # the gateway of others
        words += [
            prefix,
            "dev",
            chance.choice(("e0", "e0", "e1")),
            *_options(chance, metrics=("", "metric 10")),
        ]
        return " ".join(words)
    kind = chance.choice(("",) * 8 + ("blackhole", "unreachable", "throw"))
    words += [kind, prefix] if kind else [prefix]
    words += _options(chance, metrics=("", "", "metric 10", "metric 20"))
    if chance.random() < 0.15:
        words.append("tos 0x10")
    gateways = ("192.0.2.2", "192.0.2.3", "198.51.100.2", "198.51.100.3")
    if not kind and not (verb == "del" and chance.random() < 0.4):
        words += _way(chance, gateways, "inet6 2001:db8:e0::7", (1, 2, 10, 11, 20, 21))
        if chance.random() < 0.1:
            words.append("src 192.0.2.1")
        if chance.random() < 0.08:
            words.append("mtu 1400")
    return " ".join(words)


def _inet6_route(chance: random.Random) -> str:
    verb = chance.choice(_VERBS)
    words = ["route", verb]
    kind = chance.choice(("",) * 9 + ("blackhole",))
    prefix = chance.choice(
        (
            *("2001:db8:9::/64", "2001:db8:9::/48", "2001:db8:9:1::/64", "2001:db8:9:1::1/128"),
            *("2001:db8:e0::2/128", "::/0"),
        )
    )
    if prefix == "2001:db8:e0::2/128":
        words += [
            prefix,
            "dev",
            chance.choice(("e0", "e0", "e1")),
            *_options(chance, metrics=("", "metric 10")),
        ]
        return " ".join(words)
    words += [kind, prefix] if kind else [prefix]
    if chance.random() < 0.1:
        words += ["from", chance.choice(("2001:db8:f::/48", "2001:db8:f:1::/64"))]
    if verb != "del" and chance.random() < 0.05:
        words += ["expires", "3"]  # always as long: a shorter one in its place would not be announced
    words += _options(chance, metrics=("", "", "metric 10", "metric 2000"))
    gateways = ("2001:db8:e0::2", "2001:db8:e0::3", "2001:db8:e1::2", "2001:db8:e1::3")
    if not kind and not (verb == "del" and chance.random() < 0.4):
        words += _way(chance, gateways, "", (3, 4, 9, 12, 22, 23))
    return " ".join(words)


def _options(chance: random.Random, *, metrics: Sequence[str]) -> list[str]:
    words = [chance.choice(metrics)]
    words.append(chance.choice(("", "", "proto static", "proto bgp", "proto bgp", "proto dhcp")))
    words.append(chance.choice(("", "", "", "", "table 1000", "table 77", "table 5")))
    return [word for word in words if word]


def _way(chance: random.Random, gateways: Sequence[str], other: str, nexthops: Sequence[int]) -> list[str]:
    dice = chance.random()
    if dice < 0.5:
        return ["via", chance.choice(gateways)]
    if dice < 0.72:
        hops = chance.sample(gateways, chance.choice((2, 2, 3)))
        return [f"nexthop via {hop}{chance.choice(('', ' weight 3'))}" for hop in hops]
    if dice < 0.82:
        return ["dev", chance.choice(("e0", "e1", "e2"))]
    if dice < 0.97 or not other:
        return ["nhid", str(chance.choice(nexthops))]
    return ["via", other, "dev e0"]


def _link(chance: random.Random) -> str:
    name = chance.choice(("e0", "e1", "e2"))
    peer = "p" + name[1]
    return chance.choice(
        (
            f"link set {name} down",
            f"link set {name} up",
            f"link set {name} up",
            f"link set {peer} down",
            f"link set {peer} up",
            f"link set {peer} up",
            "link set e2 name e1x",
            "link set e1x name e2",
            "link del e2",
            "link add e2 type veth peer name p2",
        )
    )


def _address(chance: random.Random) -> str:
    device, address = chance.choice(
        (
            ("e0", "192.0.2.1/24"),
            ("e0", "192.0.2.11/24"),
            ("e1", "198.51.100.1/24"),
            ("e0", "2001:db8:e0::1/64"),
            ("e1", "2001:db8:e1::1/64"),
            ("e2", "203.0.113.1/24"),
        )
    )
    verb = chance.choice(("add", "add", "add", "del"))
    return f"addr {verb} {address} dev {device}" + (" nodad" if ":" in address and verb == "add" else "")


def _nexthop(chance: random.Random) -> str:
    verb = chance.choice(("add", "add", "replace", "del"))
    inet = {1: "e0", 2: "e1"}
    inet6 = {3: "e0", 4: "e1"}
    number = chance.choice((1, 2, 3, 4, 9, 10, 11, 12, 20, 21, 22, 23))
    if verb == "del":
        return f"nexthop del id {number}"
    host = chance.choice((2, 3))
    if number in inet:
        net = "192.0.2" if inet[number] == "e0" else "198.51.100"
        return f"nexthop {verb} id {number} via {net}.{host} dev {inet[number]}"
    if number in inet6:
        return f"nexthop {verb} id {number} via 2001:db8:{inet6[number]}::{host} dev {inet6[number]}"
    if number == 9:
        return f"nexthop {verb} id 9 blackhole"
    groups = {
        10: ("1/2", "1,3/2", "1"),
        11: ("2", "2/1", "1/2,5"),
        12: ("3/4", "3", "3,2/4,7"),
        22: ("4", "4/3"),
        23: ("3/4",),
    }
    return f"nexthop {verb} id {number} group {chance.choice(groups.get(number, ('1', '2', '1/2')))}"


def _flush(chance: random.Random) -> str:
    return chance.choice(
        (
            "route flush proto bgp",
            "route flush proto bgp",
            "route flush table 1000",
            "route flush table 77",
        )
    )


def _sysctl(chance: random.Random) -> str:
    name = chance.choice(("net.ipv4.nexthop_compat_mode", "net.ipv6.route.skip_notify_on_dev_down"))
    return f"sysctl {name}={chance.choice((0, 1))}"


class MismatchError(AssertionError):
    """The replica was not what the kernel holds."""

    def __init__(self, step: int, differences: str) -> None:
        super().__init__(f"after step {step}: {differences}")
        self.step = step


async def run_programme(programme: Programme, *, patience_s: float = PATIENCE_S) -> None:
    """Run it in a namespace of its own.

    Raises:
        MismatchError: after some step the replica did not become what ip(8) reads.
    """
    rules = RULES[programme.rules]
    with namespace("fuzz") as node, contextlib.ExitStack() as stack:
        node.batch(list(SETUP))
        for family in ("all", "default"):
            node.sysctl(f"net.ipv6.conf.{family}.accept_dad", "0")
        if programme.ballast:
            half = programme.ballast // 2
            node.batch(
                [f"route add 172.16.{i >> 8}.{i & 255}/32 via 192.0.2.9 proto ospf" for i in range(half)]
            )
            node.batch(
                [f"route add 2001:db8:a:{i:x}::/64 via 2001:db8:e0::9 proto ospf" for i in range(half)]
            )
        sock = open_route_socket(node.name) if programme.small_buffer else None
        if sock is not None:
            stack.enter_context(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        source = KernelSource(
            tables=TABLES,
            rules=rules,
            receive_buffer=4096 if sock else 1 << 22,
            resync_interval_s=3600,
            netns=None if sock else node.name,
            sock=sock,
        )
        table: dict[Prefix, tuple[Evaluated, ...]] = {}
        async with _running(source, table):
            await source.synced.wait()
            for number, step in enumerate(programme.steps):
                await _perform(node, source, step)
                await _agree(node, source, rules, table, step=number, patience_s=patience_s)


@contextlib.asynccontextmanager
async def _running(source: KernelSource, table: dict[Prefix, tuple[Evaluated, ...]]) -> AsyncIterator[None]:
    async def consume() -> None:
        while True:
            for prefix, candidates in await source.changes():
                if candidates:
                    table[prefix] = candidates
                else:
                    del table[prefix]

    tasks = [asyncio.create_task(source.run()), asyncio.create_task(consume())]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _perform(node: Namespace, source: KernelSource, step: Step) -> None:
    async def batch(lines: Sequence[str]) -> None:
        text = "\n".join(lines) + "\n"
        if step.mode is Mode.BLOCKED:
            command = ["ip", "-n", node.name, "-force", "-batch", "-"]
            # Blocking on purpose: the source is to see nothing until all is done.
            subprocess.run(  # noqa: ASYNC221
                command, input=text, text=True, capture_output=True, check=False
            )
            return
        started = await asyncio.create_subprocess_exec(
            *("ip", "-n", node.name, "-force", "-batch", "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await started.communicate(text.encode())

    together: list[str] = []
    if step.mode is Mode.IN_DUMP:
        source.request_resync("start")  # at once, not after a pause
        await asyncio.sleep(0)
    for line in step.lines:
        if line.startswith("sysctl "):
            if together:
                await batch(together)
            together = []
            node.sysctl(*line.removeprefix("sysctl ").split("="))
        else:
            together.append(line)
    if together:
        await batch(together)


def _distinct(prefix: Prefix, routes: Iterable[Route]) -> tuple[Route, ...]:
    """IPv6 allows routes that are equal in everything, and dumps show some twice: one to us.

    IPv4 routes that share a key differ in something, perhaps in what a Route does not have (an MTU): those are two.
    """
    return tuple(dict.fromkeys(routes) if prefix.family is Family.INET6 else routes)


def _keeps(rules: Rules, source: KernelSource, route: Route, links: Links) -> bool:
    """What the rules say of a route. Gateways that others had may count for a while: here the source is asked."""
    if rules.evaluate_link_gateway is not None and source.link_gateway(route):
        return rules.evaluate_link_gateway(route, links).keep
    return rules.evaluate(route, links).keep


async def _agree(
    node: Namespace,
    source: KernelSource,
    rules: Rules,
    table: Mapping[Prefix, tuple[Evaluated, ...]],
    *,
    step: int,
    patience_s: float,
) -> None:
    deadline = time.monotonic() + patience_s
    pause = 0.005
    while True:
        await asyncio.sleep(pause)
        oracle = read_oracle(node, TABLES)
        links = source.links

        def kept_of(routes: Iterable[Route], links: Links = links) -> tuple[Route, ...]:
            return in_lookup_order(route for route in routes if _keeps(rules, source, route, links))

        wanted = {
            prefix: kept
            for prefix, routes in oracle.routes.items()
            if (kept := _distinct(prefix, kept_of(routes)))
        }
        every = [route for routes in oracle.routes.values() for route in routes]
        gateways = link_gateways(every)
        overlooked = [
            route
            for route in every
            if rules.evaluate_link_gateway is not None
            and leads_to_gateway(route, gateways)
            and not source.link_gateway(route)
        ]
        await asyncio.sleep(0)
        held = {
            prefix: tuple(one.attributes.at(prefix) for one in candidates)
            for prefix, candidates in table.items()
        }
        if (
            not overlooked
            and held == wanted
            and {index: link.name for index, link in links.items()} == oracle.link_names
        ):
            return
        if time.monotonic() > deadline:
            said = "\n".join(f"overlooked {route}" for route in overlooked)
            raise MismatchError(step, f"{said}\n{_difference(held, wanted)}")
        pause = min(pause * 2, 0.1)


def _difference(held: Mapping[Prefix, tuple[Route, ...]], wanted: Mapping[Prefix, tuple[Route, ...]]) -> str:
    lines = []
    for prefix in sorted(held.keys() | wanted.keys(), key=lambda prefix: prefix.sort_key):
        ours, kernels = held.get(prefix, ()), wanted.get(prefix, ())
        if ours != kernels:
            lines.append(f"{prefix}")
            lines += [f"    held   {route[1:]}" for route in ours]
            lines += [f"    kernel {route[1:]}" for route in kernels]
    return "\n".join(lines or ["the same routes, but other links"])


async def shrink(
    programme: Programme, failure: MismatchError, *, runs: int = 60
) -> tuple[Programme, MismatchError]:
    """Take out what the failure does not need."""
    programme = programme._replace(steps=programme.steps[: failure.step + 1])
    budget = runs
    size = max(1, programme.operations // 2)
    while budget > 0:
        start = 0
        while start < programme.operations and budget > 0:
            candidate = _without(programme, start, start + size)
            budget -= 1
            try:
                await run_programme(candidate, patience_s=SHRINKING_PATIENCE_S)
            except MismatchError as still:
                failure = still
                programme = candidate._replace(steps=candidate.steps[: still.step + 1])
            else:
                start += size
        if size == 1:
            break
        size = max(1, size // 2)
    return programme, failure


def _without(programme: Programme, start: int, end: int) -> Programme:
    """The programme less the operations of a range."""
    steps = []
    number = 0
    for step in programme.steps:
        lines = tuple(line for at, line in enumerate(step.lines, number) if not start <= at < end)
        number += len(step.lines)
        if lines:
            steps.append(Step(step.mode, lines))
    return programme._replace(steps=tuple(steps))
