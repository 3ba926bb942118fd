"""The acts of the founding story: what happens, what must come of it, and what is shown meanwhile.

Every step waits on what it should bring about, and on nothing else; a step that brings nothing about ends the story
with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp

from demo.processes import Processes, routesync_command
from demo.show import Inventory, Message, PlanOutput, Screen
from demo.topology import MIRRORED_TABLE, FoundingTopology
from standin.process import COMMAND as STANDIN

CONFIGURATION: Final = Path(__file__).with_name("routesync.toml")
HOST_PREFIX: Final = "192.168.10.1/32"
STEP_WITHIN_S: Final = 30.0

_ROOT_TOPIC: Final = "routesync/v1"
_NODE_TOPIC: Final = f"{_ROOT_TOPIC}/node-1"
# As itself, but without its five seconds of start-up.
_STANDIN_OPTIONS: Final = ("--api-delay=0", "--fill-delay=0.5")
_BROKER: Final = """\
listener 1883 127.0.0.1
allow_anonymous true
persistence false
user root
log_dest stderr
log_type all
"""


class StoryError(Exception):
    """The story did not go as it should; the message says where."""


class Story:
    """One playing of the story, on a scene that is built and taken down by the caller."""

    def __init__(
        self, screen: Screen, directory: Path, topology: FoundingTopology, processes: Processes
    ) -> None:
        self._screen = screen
        self._directory = directory
        self._topology = topology
        self._processes = processes
        self._messages: list[Message] = []
        self._listening: asyncio.Task[None] | None = None

    async def play(self, *, keep: bool) -> bool:
        """Tell all of it, and say whether it ended well.

        Args:
            keep: leave everything running at the end, until a signal comes.

        Raises:
            StoryError: a step did not bring about what it should.
            ProcessError: a program failed or ended.
        """
        await self._set_the_scene()
        await self._mirror()
        await self._renew_the_lease()
        await self._move_a_pod_network()
        await self._flap_a_link()
        ended_well = await self._look_at_the_end()
        if keep:
            await self._keep()
        ended_well = await self._stop_the_daemon() and ended_well
        if not ended_well:
            self._screen.fail(f"The daemon said: {self._processes.said('routesync')}")
        return ended_well

    async def _keep(self) -> None:
        node, loxilb = self._topology.node, self._topology.loxilb
        self._screen.act("Everything is left running; Ctrl-C takes it away")
        for command in (
            f"ip -n {node} route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
            f"ip -n {loxilb} route",
            f"ip netns exec {node} mosquitto_sub -v -t '{_ROOT_TOPIC}/#'",
            f"ip netns exec {node} {' '.join(routesync_command('plan', '--config', str(CONFIGURATION)))}",
            f"{' '.join(routesync_command('status', '--socket', str(self._directory / 'run' / 'control.sock')))}",
            f"curl --unix-socket {self._socket} http://loxilb/netlox/v1/config/route/all",
            f"tail -f {self._processes.log('routesync')}",
        ):
            self._screen.say(f"[cyan]{command}[/]")
        await asyncio.Event().wait()

    @property
    def _socket(self) -> Path:
        return self._directory / "loxilb.socket"

    async def _set_the_scene(self) -> None:
        self._screen.act(
            "A Kubernetes node and, on the same segment, a loxilb",
            "The node's routes, and what the rules say of each. The DHCP host route is the one that stopped a cluster.",
        )
        plan = await self._processes.output(
            "plan", self._topology.node, routesync_command(*_plan_arguments(self._directory))
        )
        self._screen.verdicts(PlanOutput.model_validate_json(plan))

    async def _mirror(self) -> None:
        self._screen.act("The daemon starts: the table is mirrored into loxilb")
        await self._start_the_broker()
        await self._processes.start(
            "loxilb",
            self._topology.loxilb,
            [*STANDIN, f"--listen-unix={self._socket}", *_STANDIN_OPTIONS],
        )
        await self._until(self._socket.exists, "loxilb's API")
        await self._processes.start(
            "routesync",
            self._topology.node,
            routesync_command("run", "--config", str(CONFIGURATION)),
            environment={
                "STATE_DIRECTORY": str(self._directory / "state"),
                "RUNTIME_DIRECTORY": str(self._directory / "run"),
            },
        )
        await self._until(lambda: self._loxilb_has(MIRRORED_TABLE), "the routes in loxilb's kernel")
        await self._until(
            lambda: self._heard_of("event/sync/completed"), "the event of the completed comparison"
        )

    async def _start_the_broker(self) -> None:
        node = self._topology.node
        configuration = self._directory / "mosquitto.conf"
        configuration.write_text(_BROKER)
        await self._processes.start("mosquitto", node, ["mosquitto", "-c", str(configuration)])
        log = self._processes.log("mosquitto")
        await self._until(lambda: " running" in log.read_text(), "the broker")
        lines = await self._processes.stream(
            "subscriber",
            node,
            ["mosquitto_sub", "-V", "5", "-q", "1", "-F", "%t %p", "-t", f"{_NODE_TOPIC}/event/#"],
        )
        self._listening = asyncio.get_running_loop().create_task(self._listen(lines))
        await self._until(lambda: "Sending SUBACK" in log.read_text(), "the subscription")

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            message = Message.parse(line.decode().rstrip("\n"), _NODE_TOPIC)
            self._messages.append(message)
            self._screen.message(message)

    async def _renew_the_lease(self) -> None:
        self._screen.act(
            "The DHCP lease is renewed: the host route goes and comes back",
            f"{HOST_PREFIX} must never reach loxilb; subscribers on MQTT see that it was dropped.",
        )
        dropped = self._heard("event/route/dropped", prefix=HOST_PREFIX)
        self._topology.renew_lease()
        await self._until(dropped, "the event of the dropped host route")

    async def _move_a_pod_network(self) -> None:
        self._screen.act("A node is replaced: pod network 10.244.3.0/24 goes, 10.244.4.0/24 comes")
        withdrawn = self._heard("event/route/withdrawn", prefix="10.244.3.0/24")
        accepted = self._heard("event/route/accepted", prefix="10.244.4.0/24")
        self._topology.move_pod_network(3, 4)
        await self._until(lambda: withdrawn() and accepted(), "the move, in events")
        await self._until(lambda: self._loxilb_has(_after_the_move()), "the move, in loxilb's kernel")

    async def _flap_a_link(self) -> None:
        self._screen.act(
            "flannel.1 flaps: the kernel takes its three routes away and announces none of it",
        )
        prefixes = [f"10.244.{number}.0/24" for number in (1, 2, 4)]
        withdrawn = [self._heard("event/route/withdrawn", prefix=prefix) for prefix in prefixes]
        self._topology.link_down("flannel.1")
        await self._until(lambda: all(heard() for heard in withdrawn), "the withdrawals, in events")
        self._screen.say("flannel.1 is back, and flannel puts its routes back")
        accepted = [self._heard("event/route/accepted", prefix=prefix) for prefix in prefixes]
        self._topology.link_up("flannel.1")
        await self._until(lambda: all(heard() for heard in accepted), "the routes' return, in events")

    async def _look_at_the_end(self) -> bool:
        self._screen.act("The end: loxilb's own table")
        expected = _after_the_move()
        with contextlib.suppress(StoryError):  # what is wrong is shown below
            await self._until(lambda: self._loxilb_has(expected), "the routes in loxilb's kernel")
        rows = (await self._inventory()).routeAttr
        self._screen.inventory(rows)
        shown = {f"{row.destinationIPNet} via {row.gateway}" for row in rows if row.protocol == "static"}
        kernel = self._topology.table(self._topology.loxilb)
        self._screen.act("Is the end right?")
        return all(
            [
                self._screen.check(
                    "loxilb's kernel has exactly the default route and the four pod networks",
                    holds=self._loxilb_has(expected),
                ),
                self._screen.check(
                    "its own table shows the same",
                    holds=shown == {line.replace("default", "0.0.0.0/0") for line in expected},
                ),
                self._screen.check(
                    "the DHCP host route never got there",
                    holds=not any(line.startswith("192.168.10.1 ") for line in kernel)
                    and not self._heard_of("event/route/accepted", prefix=HOST_PREFIX),
                ),
                self._screen.check(
                    "no route was refused or in conflict",
                    holds=not self._heard_of("event/route/refused")
                    and not self._heard_of("event/route/conflicting"),
                ),
            ]
        )

    async def _stop_the_daemon(self) -> bool:
        status = await self._processes.stop("routesync")
        return self._screen.check(
            "the daemon stopped in order, and left the routes where they were",
            holds=status == 0 and self._loxilb_has(_after_the_move()),
        )

    async def _inventory(self) -> Inventory:
        # By its socket: loxilb's network is another namespace's. Read once, when it has taken everything in: a GET
        # that meets ingestion can kill the original.
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._socket))) as session:

            async def settled() -> bool:
                async with session.get("http://loxilb/standin/state") as answer:
                    state = await answer.json()
                    return bool(state["waiting"] == 0)

            await self._until_async(settled, "loxilb to take everything in")
            async with session.get("http://loxilb/netlox/v1/config/route/all") as answer:
                return Inventory.model_validate_json(await answer.read())

    def _loxilb_has(self, expected: tuple[str, ...]) -> bool:
        return sorted(self._topology.gateway_routes()) == sorted(expected)

    def _heard_of(self, topic: str, *, since: int = 0, **data: str) -> bool:
        """Whether such a message has come, since so many others had."""
        return any(
            message.topic == topic and data.items() <= message.data.items()
            for message in self._messages[since:]
        )

    def _heard(self, topic: str, **data: str) -> Callable[[], bool]:
        """A condition: such a message came since now."""
        already = len(self._messages)
        return lambda: self._heard_of(topic, since=already, **data)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async def ask() -> bool:
            return condition()

        await self._until_async(ask, what)

    async def _until_async(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + STEP_WITHIN_S
        while not await condition():
            self._processes.check()
            if self._listening is not None and self._listening.done():
                self._listening.result()
            if asyncio.get_running_loop().time() > deadline:
                said = self._processes.said("routesync")
                raise StoryError(
                    f"{what}: did not come within {STEP_WITHIN_S:.0f} s; the daemon said: {said}"
                )
            await asyncio.sleep(0.05)


def _plan_arguments(directory: Path) -> list[str]:
    state = directory / "state"
    return ["plan", "--config", str(CONFIGURATION), "--state", str(state), "--no-contact", "--json"]


def _after_the_move() -> tuple[str, ...]:
    return tuple(line.replace("10.244.3.0", "10.244.4.0") for line in MIRRORED_TABLE)
