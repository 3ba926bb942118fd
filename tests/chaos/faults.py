"""What goes wrong in chaos. Each fault is a context manager: it begins with its block, and ends with it.

Faults of one group exclude each other, all others happen at once.
"""

from __future__ import annotations

import http.client
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, NamedTuple

from chaos.arena import LEFT, PINNED, Arena, Node, batch
from chaos.gate import CLOSE, DENIED, QUOTA, UNSPECIFIED, Refusal
from chaos.record import catches, is_stopped
from chaos.truth import Since, Witness
from standin.faults import Fault
from support.disks import fill
from support.kill_arena import EQUAL, Row
from support.netns import Namespace
from support.waiting import eventually_sync

HEALED_S: Final = 8.0
"""So long after a disk was in trouble, a kill may cost what was noted meanwhile, as the daemon says it would."""


class Scene(NamedTuple):
    """What a fault acts on."""

    arena: Arena
    truth: Witness
    chance: random.Random
    losses: list[float]  # when routes of ours were taken from loxilb, since the daemon's start
    disk_trouble: list[float]  # when there was trouble last
    stays: list[Row]  # another writer's routes that stay until the next quiet is over


class Kind(NamedTuple):
    """A fault that may happen."""

    name: str
    groups: frozenset[str]
    begin: Callable[[Scene], AbstractContextManager[None]]
    least_s: float  # it lasts at least
    most_s: float  # and at most so long
    slow: bool  # what comes after it takes long to be well again: not in a short run


KINDS: list[Kind] = []
Body = Callable[[Scene], Iterator[None]]


def fault(*groups: str, most_s: float, least_s: float = 0, slow: bool = False) -> Callable[[Body], Body]:
    """Add a fault to those that may happen."""

    def add(body: Body) -> Body:
        KINDS.append(Kind(body.__name__, frozenset(groups), contextmanager(body), least_s, most_s, slow))
        return body

    return add


# -- loxilb -----------------------------------------------------------------------------------------------------------

WRONG_ANSWERS: Final = (
    Fault("reset", method="POST", share=0.3),
    Fault("reset", method="POST", share=0.3, carried_out=True),
    Fault("reset", method="DELETE", share=0.5, carried_out=True),
    Fault("half", method="POST", share=0.3, carried_out=True),
    Fault("half", method="GET", share=0.5),
    Fault("slow", share=0.3, delay_s=0.4),
    Fault("answer", method="POST", share=0.3, status=500, body="{}"),
    Fault("answer", method="POST", share=0.3, carried_out=True, status=500, body="{}"),
    Fault("answer", method="POST", share=0.3, status=200, body="<html>"),
    Fault("answer", method="DELETE", share=0.5, status=500, body="{}"),
    Fault("answer", method="GET", path="route/all", share=0.5, status=200, body="{"),
    Fault("answer", method="GET", path="port/all", share=0.5, status=200, body="[1]"),
    Fault("hang", share=0.1),
)


def _start_loxilb(scene: Scene) -> None:
    scene.arena.standin.launch()
    scene.truth.since.loxilb_gone = None


def _kill_loxilb(scene: Scene) -> None:
    scene.truth.since.loxilb_well, scene.truth.since.loxilb_gone = None, time.monotonic()
    scene.arena.standin.kill()


@fault("loxilb", most_s=4)
def loxilb_killed(scene: Scene) -> Iterator[None]:
    _kill_loxilb(scene)
    yield
    _start_loxilb(scene)


@fault("loxilb", most_s=3)
def loxilb_recreated(scene: Scene) -> Iterator[None]:
    """As by a container runtime: all that was posted is gone."""
    _kill_loxilb(scene)
    _flush(scene)
    yield
    _start_loxilb(scene)


@fault("loxilb", most_s=6)
def loxilb_answers_wrongly(scene: Scene) -> Iterator[None]:
    scene.truth.since.loxilb_well = None
    _inject(scene, *scene.chance.sample(WRONG_ANSWERS, 2))
    yield
    _inject(scene)


@fault("loxilb", most_s=5)
def loxilb_hangs(scene: Scene) -> Iterator[None]:
    scene.truth.since.loxilb_well = None
    _inject(scene, Fault("hang", carried_out=scene.chance.random() < 0.5))
    yield
    _inject(scene)


def _inject(scene: Scene, *faults: Fault) -> None:
    with suppress(OSError):  # it is just starting: it takes no orders yet, and has no faults
        scene.arena.standin.inject(*faults)


def _flush(scene: Scene) -> None:
    """Remove what both daemons have in loxilb's kernel, and nothing else."""
    loxilb = scene.arena.loxilb
    seen = [line for family in "46" for line in loxilb.ip(f"-{family} route show proto static").splitlines()]
    batch(loxilb, [f"route del {line.split(' dev ')[0]}" for line in seen if " mtu " not in line])
    scene.truth.disturb()


@fault("loxilb", most_s=0)
def loxilb_flushed(scene: Scene) -> Iterator[None]:
    """Another program deletes all that is ours."""
    _flush(scene)
    scene.losses.append(time.monotonic())
    yield


@fault("loxilb", most_s=1.5)
def loxilb_loses_its_link(scene: Scene) -> Iterator[None]:
    """Its kernel loses the IPv4 routes by that link without a word.

    Of another writer the one that looks as ours would, too. What was posted in its place, and not answered, would count
    as ours when theirs is back: docs/loxilb.md, "Known limitations". So nothing is to be posted there.
    """
    scene.truth.since.loxilb_well = None
    scene.arena.routing.avoid(EQUAL)
    scene.arena.loxilb.ip("link set eth0 down")
    scene.truth.disturb()
    scene.losses.append(time.monotonic())
    yield
    scene.arena.loxilb.ip("link set eth0 up")
    scene.arena.writer.refresh()
    scene.arena.routing.avoid()


# -- another writer ---------------------------------------------------------------------------------------------------


def _writer(scene: Scene, prefix: str, metric: int, verb: str) -> Iterator[None]:
    writer, gateway = scene.arena.writer, scene.chance.choice(("192.168.10.1", "192.168.10.2"))
    scene.truth.disturb(prefix)
    writer.put(prefix, gateway, metric=metric, verb=verb)
    yield
    scene.truth.disturb(prefix)
    writer.drop(Row(prefix, gateway, "bird", metric, 1400))


@fault("writer", most_s=15)
def writer_adds_its_own(scene: Scene) -> Iterator[None]:
    yield from _writer(scene, f"10.210.{scene.chance.randint(0, 99)}.0/24", 0, "add")


@fault("writer", most_s=15)
def writer_adds_a_second_route(scene: Scene) -> Iterator[None]:
    yield from _writer(scene, scene.chance.choice(PINNED), 100, "add")


@fault("writer", most_s=15)
def writer_takes_ours(scene: Scene) -> Iterator[None]:
    yield from _writer(scene, scene.chance.choice(PINNED), 0, "replace")


@fault("writer", least_s=8, most_s=12, slow=True)
def writer_keeps_what_was_ours(scene: Scene) -> Iterator[None]:
    """It takes a prefix of ours; when the daemon has to know that, the prefix is withdrawn: theirs has to stay.

    A DELETE is proved by a table that is at most five seconds old; so for as long it may still take theirs.
    """
    free = [prefix for prefix in LEFT if (prefix, 0) in scene.arena.routing.wanted]
    if not free:
        yield
        return
    prefix = scene.chance.choice(free)
    gateway, metric = ("fd00:10::2", 1024) if ":" in prefix else ("192.168.10.2", 0)
    scene.truth.disturb(prefix)
    scene.arena.writer.put(prefix, gateway, metric=metric, verb="replace")
    scene.stays.append(Row(prefix, gateway, "bird", metric, 1400))
    yield
    scene.arena.routing.drop(prefix)


# -- links of the node ------------------------------------------------------------------------------------------------


def _down(scene: Scene, space: Namespace, link: str) -> Iterator[None]:
    space.ip(f"link set {link} down")
    scene.arena.routing.touch()
    yield
    space.ip(f"link set {link} up")
    scene.arena.routing.refresh()


@fault("link", most_s=1.5)
def node_loses_its_uplink(scene: Scene) -> Iterator[None]:
    scene.truth.since.loxilb_well = scene.truth.since.broker_well = None
    yield from _down(scene, scene.arena.node.node, "ens3")


@fault("link", most_s=3)
def node_loses_its_carrier(scene: Scene) -> Iterator[None]:
    scene.truth.since.loxilb_well = scene.truth.since.broker_well = None
    yield from _down(scene, scene.arena.bridge, "port0")


@fault("pods", most_s=1.5)
def pods_lose_their_link(scene: Scene) -> Iterator[None]:
    yield from _down(scene, scene.arena.node.node, "cni0")


@fault("pods", most_s=2)
def pods_lose_their_carrier(scene: Scene) -> Iterator[None]:
    yield from _down(scene, scene.arena.bridge, "pods")


@fault("kernel", most_s=0)
def nexthops_change(scene: Scene) -> Iterator[None]:
    scene.arena.routing.change_group(scene.chance)
    yield
    scene.arena.routing.refresh()


@fault("kernel", most_s=3)
def burst_of_routes(scene: Scene) -> Iterator[None]:
    scene.arena.routing.burst(scene.chance)
    yield
    if scene.chance.random() < 0.7:
        scene.arena.routing.burst(scene.chance)


# -- the broker -------------------------------------------------------------------------------------------------------


@fault("broker", most_s=5)
def broker_killed(scene: Scene) -> Iterator[None]:
    scene.truth.since.broker_well, scene.truth.since.broker_gone = None, time.monotonic()
    scene.arena.broker.kill()
    yield
    scene.arena.broker.start()
    scene.truth.since.broker_gone = None


@fault("broker", most_s=5)
def broker_hangs(scene: Scene) -> Iterator[None]:
    scene.truth.since.broker_well = None
    scene.arena.broker.freeze()
    yield
    scene.arena.broker.thaw()


def _refuse(scene: Scene, refusal: Refusal) -> Iterator[None]:
    scene.truth.since.broker_well = None
    scene.arena.gate.refuse(refusal)
    yield
    scene.arena.gate.refuse(Refusal())


@fault("broker", most_s=4)
def broker_has_a_quota(scene: Scene) -> Iterator[None]:
    yield from _refuse(scene, Refusal(QUOTA, share=scene.chance.choice((0.3, 1))))


@fault("broker", most_s=4, slow=True)
def broker_denies_topics(scene: Scene) -> Iterator[None]:
    topic = scene.chance.choice(("event/route", "event/alarm", "event/target", "table/", "status"))
    yield from _refuse(scene, Refusal(scene.chance.choice((DENIED, UNSPECIFIED)), share=1, topic=topic))


@fault("broker", most_s=4)
def broker_closes_connections(scene: Scene) -> Iterator[None]:
    yield from _refuse(scene, Refusal(CLOSE, share=0.05))


# -- the daemon, its disk, its clock ----------------------------------------------------------------------------------


def restart(scene: Scene) -> None:
    """Start the node's daemon, which does not run."""
    scene.losses.clear()
    scene.truth.changed_at = time.monotonic()
    scene.truth.since = Since()  # it has to find out again what is well
    scene.arena.node.launch()


@fault("daemon", most_s=4)
def daemon_killed(scene: Scene) -> Iterator[None]:
    if time.monotonic() < scene.disk_trouble[-1] + HEALED_S:
        yield
        return
    scene.arena.node.kill()
    yield
    restart(scene)


@fault("daemon", most_s=3)
def daemon_stopped(scene: Scene) -> Iterator[None]:
    scene.arena.node.terminate()
    yield
    restart(scene)


@fault("daemon", most_s=3)
def daemon_frozen(scene: Scene) -> Iterator[None]:
    """As the whole machine when it sleeps, but for the monotonic clock."""
    process = scene.arena.node.process
    assert process is not None
    if not catches(process.pid, signal.SIGHUP):  # it starts; others wait for that
        yield
        return
    process.send_signal(signal.SIGSTOP)
    yield
    process.send_signal(signal.SIGCONT)
    scene.truth.changed_at = time.monotonic()


@fault("daemon", most_s=5)
def disk_full(scene: Scene) -> Iterator[None]:
    ballast = fill(scene.arena.node.state)
    scene.disk_trouble.append(time.monotonic())
    yield
    ballast.unlink()
    scene.disk_trouble.append(time.monotonic())


@fault("daemon", most_s=5)
def disk_read_only_at_start(scene: Scene) -> Iterator[None]:
    """A disk cannot become read-only while files on it are open for writing, so the daemon is started on it."""
    scene.arena.node.terminate()
    _remount(scene.arena.node, "ro")
    scene.disk_trouble.append(time.monotonic())
    restart(scene)
    yield
    _remount(scene.arena.node, "rw")
    scene.disk_trouble.append(time.monotonic())


def _remount(node: Node, how: str) -> None:
    """Also where the daemon runs: `ip netns exec` gives it mounts of its own, each with this flag."""
    command = ["mount", "-o", f"remount,{how}", str(node.state)]
    subprocess.run(command, check=True)
    if node.running and node.process is not None:
        subprocess.run(["nsenter", f"--target={node.process.pid}", "--mount", *command], check=True)


@fault("clock", most_s=5)
def clock_jumps(scene: Scene) -> Iterator[None]:
    hour, year = 3600, 365 * 86400
    scene.arena.node.set_clock(scene.chance.choice((10 * year, -20 * year, hour, -hour, 30)))
    yield
    scene.arena.node.set_clock(0)


# -- operators --------------------------------------------------------------------------------------------------------


def _signal(scene: Scene) -> None:
    scene.truth.changed_at = time.monotonic()
    process = scene.arena.node.process
    if scene.arena.node.running and process is not None:
        # one that starts may have read the file of before
        eventually_sync(lambda: catches(process.pid, signal.SIGHUP), what="a daemon that can be reloaded")
        process.send_signal(signal.SIGHUP)


@fault("operator", most_s=6)
def other_configuration(scene: Scene) -> Iterator[None]:
    chance = scene.chance
    scene.arena.node.configure(
        shut=chance.random() < 0.5,
        rate=chance.choice((100, 240)),
        burst=chance.choice((8, 64)),
        inventory_interval_s=chance.choice((10, 30)),
        level=chance.choice(("info", "debug")),
    )
    _signal(scene)
    yield
    scene.arena.node.configure()
    _signal(scene)


@fault("operator", "daemon", most_s=2)
def bad_configuration(scene: Scene) -> Iterator[None]:
    process = scene.arena.node.process
    if process is None or not catches(
        process.pid, signal.SIGHUP
    ):  # it starts, and would end with such a file
        yield
        return
    good = scene.arena.node.config.read_text()
    scene.arena.node.replace_config(good.replace('action = "keep"', 'action = "dorp"'))
    _signal(scene)
    yield
    scene.arena.node.replace_config(good)
    _signal(scene)


@fault("operator", most_s=4)
def target_paused(scene: Scene) -> Iterator[None]:
    _command(scene, "pause")
    yield
    _command(scene, "resume")


@fault("operator", most_s=0)
def resync_asked_for(scene: Scene) -> Iterator[None]:
    _command(scene, "resync")
    yield


def _command(scene: Scene, verb: str) -> None:
    """Ask the daemon, if it answers now: it may be starting, or frozen."""
    process = scene.arena.node.process
    if process is not None and scene.arena.node.running and not is_stopped(process.pid):
        with suppress(OSError, http.client.HTTPException):
            scene.arena.node.call("POST", f"/v1/{verb}", b"{}")


# -- the other node ---------------------------------------------------------------------------------------------------


@fault("peer", most_s=10)
def peer_dies(scene: Scene) -> Iterator[None]:
    scene.arena.peer.kill()
    yield
    scene.arena.peer.launch()
