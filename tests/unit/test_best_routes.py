"""The best routes on their way from a source to the consumers, and what is said of the kernel side."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routesync import best_routes
from routesync.backoff import Backoff
from routesync.best_routes import BestRoutes, Consumer, InterfaceNames, InWords, KernelReporter, OwnNode
from routesync.config import Loaded, load
from routesync.events.models import KernelDrift, KernelOverrun, KernelResynced, RouteDropped
from routesync.kernel import (
    BadMessage,
    Drift,
    DropEnded,
    Dropped,
    KernelError,
    KernelReport,
    KernelSource,
    Link,
    Overrun,
    ResyncDone,
)
from routesync.kernel.replica import Subkey
from routesync.names import PROTOCOLS, TYPES, Names
from routesync.route import (
    Address,
    Attributes,
    Evaluated,
    HopFlag,
    NextHop,
    Prefix,
    Route,
    Verdict,
    parse_address,
)
from routesync.tasks import Supervisor
from support.event_sink import Events
from support.waiting import eventually

P, Q, HOST = Prefix.parse("10.1.0.0/16"), Prefix.parse("10.2.0.0/16"), Prefix.parse("192.0.2.1/32")
NEAR, FAR = parse_address("192.0.2.1"), parse_address("192.0.2.2")
LINKS = {2: Link(2, "ens3", 0x10041, b""), 3: Link(3, "cni0", 0x10041, b"")}
KEEP = Verdict(keep=True, rule="default")
DROP_BGP = """
[[policy.rules]]
name = "no-bgp"
match = { protocol = "bgp" }
action = "drop"
"""


def attributes(gateway: Address = NEAR) -> Attributes:
    return Attributes(254, 0, 20, PROTOCOLS["bgp"], 0, TYPES["unicast"], (NextHop(gateway, 2),))


def hold(source: KernelSource, prefix: Prefix, *kept: Attributes) -> None:
    """Have a source hold these routes to a prefix, as after events of the kernel."""
    subkey = Subkey(b"", 0, 0, 20)
    source._fib.replica.put(prefix, subkey, tuple(Evaluated(it, KEEP) for it in kept))
    source.synced.set()
    source._news.set()


def loaded(tmp_path: Path, text: str = "") -> Loaded:
    file = tmp_path / "routesync.toml"
    file.write_text(text)
    return load(file, {}, Names())


class Learned(Consumer):
    """A consumer that remembers."""

    def __init__(self, best: BestRoutes) -> None:
        self.best = best
        self.prefixes: list[Prefix] = []
        self.times: list[float | None] = []
        self.resyncs: list[float] = []
        self.created: list[Route] = []
        self.reports: list[KernelReport] = []

    def on_best_route(self, prefix: Prefix, kernel_changed_at: float | None = None, /) -> None:
        assert self.best._passing_on
        self.prefixes.append(prefix)
        self.times.append(kernel_changed_at)

    def on_resync(self, began: float, /) -> None:
        self.resyncs.append(began)

    def on_route_created(self, route: Route, /) -> None:
        self.created.append(route)

    def on_report(self, report: KernelReport, /) -> None:
        self.reports.append(report)


class Electing:
    """Best routes of a source that a test feeds; nothing reads the kernel."""

    def __init__(self, configuration: Loaded, sock: socket.socket | None = None) -> None:
        self.events = Events()
        self.supervisor = Supervisor()
        self.best = BestRoutes(configuration, self.events, self.supervisor, sock=sock)
        self.learned = Learned(self.best)
        self.best.consumers.append(self.learned)


@asynccontextmanager
async def electing(configuration: Loaded) -> AsyncIterator[Electing]:
    """Elect from the source for the length of a block."""
    node = Electing(configuration)
    task = asyncio.create_task(node.best._elect(node.best.source))
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a moment in the daemon takes none here."""
    monkeypatch.setattr(best_routes, "RESYNC_TAKEN_S", 0.01)
    monkeypatch.setattr(best_routes, "RESTART", Backoff(0.001, 0.002))


# -- values


def test_a_route_in_words_has_the_interface_of_its_first_live_hop() -> None:
    down = NextHop(NEAR, 2, flags=HopFlag.DEAD)
    route = Route(P, 254, 0, 20, PROTOCOLS["bgp"], 0, TYPES["unicast"], (down, NextHop(FAR, 3)))
    assert InWords.of(route, Names(), LINKS) == InWords("bgp", 20, "cni0", "main")
    assert InWords.of(route, Names(), {}) == InWords("bgp", 20, None, "main"), "the link is gone"
    assert InWords.of(route._replace(hops=()), Names(), LINKS) == InWords("bgp", 20, None, "main")


async def test_of_a_node_that_nothing_is_known_of_nothing_is_said() -> None:
    node = OwnNode()
    assert (node.overruns, node.links(), node.addresses(), node.next_hop_interfaces()) == (0, {}, (), ())
    assert (node.gateways(), node.elected(P), node.in_words(P), node.prefixes()) == (
        frozenset(),
        None,
        None,
        (),
    )
    assert not await node.catch_up()


def test_names_of_links_follow_the_links() -> None:
    links = dict(LINKS)
    names = InterfaceNames(links)
    assert dict(names) == {2: "ens3", 3: "cni0"}
    del links[2]
    assert (list(names), len(names), names.get(2)) == ([3], 1, None)


# -- from the source to the consumers


async def test_the_first_dump_is_no_change_and_each_change_after_it_has_its_time(tmp_path: Path) -> None:
    async with electing(loaded(tmp_path)) as node:
        hold(node.best.source, P, attributes())
        await eventually(node.best.evaluated.is_set)
        assert (node.learned.prefixes, node.learned.times) == ([P], [None])
        assert not node.best._passing_on
        assert node.best.elected(P) == Evaluated(attributes(), KEEP).at(P)
        assert node.best.prefixes() == (P,)
        hold(node.best.source, P, attributes(FAR))
        since = node.best.source._fib.replica.dirty_since
        await eventually(lambda: len(node.learned.prefixes) == 2)
        assert node.learned.times[1] == since
        hold(node.best.source, P)
        await eventually(lambda: len(node.learned.prefixes) == 3)
        assert node.best.elected(P) is None
        assert node.best.in_words(P) is None


async def test_a_runner_up_that_changes_is_no_change(tmp_path: Path) -> None:
    async with electing(loaded(tmp_path)) as node:
        hold(node.best.source, P, attributes())
        await eventually(node.best.evaluated.is_set)
        hold(node.best.source, P, attributes(), attributes(FAR))
        await eventually(lambda: len(node.best.table.candidates(P)) == 2)
        assert node.learned.prefixes == [P]


async def test_another_source_takes_the_table_over_and_removes_what_it_does_not_find(tmp_path: Path) -> None:
    node = Electing(loaded(tmp_path))
    best = node.best
    hold(best.source, P, attributes())
    hold(best.source, Q, attributes())
    first = asyncio.create_task(best._elect(best.source))
    await eventually(best.evaluated.is_set)
    first.cancel()
    best.evaluated.clear()
    best.source = best._make_source()
    second = asyncio.create_task(best._elect(best.source))
    await asyncio.sleep(0)
    assert best.prefixes() == (P, Q), "nothing goes before its first dump"
    hold(best.source, Q, attributes())
    await eventually(best.evaluated.is_set)
    assert best.prefixes() == (Q,)
    assert node.learned.prefixes == [P, Q, P]
    second.cancel()


async def test_what_a_reconciler_asks_is_of_the_source_and_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
[[policy.rules]]
name = "by-interface"
match = { protocol = "bgp" }
action = "keep"
next_hop = { interface = "ens3" }
[[policy.rules]]
name = "by-address"
match = { protocol = "static" }
action = "keep"
next_hop = "192.0.2.9"
"""
    node = Electing(loaded(tmp_path, text))
    best, source = node.best, node.best.source
    assert best.next_hop_interfaces() == {"ens3"}
    source._link_tables.links.update(LINKS)
    best.table.update(P, (Evaluated(attributes(), KEEP),))
    assert best.links() == LINKS
    assert best.in_words(P) == InWords("bgp", 20, "ens3", "main")
    assert best.in_words(Q) is None
    assert [*best.addresses()] == []
    source._evaluator.gateways.learn(attributes().hops)
    assert best.gateways() == {NEAR}
    source.stats.overruns = 3
    assert best.overruns == 3
    assert not best.readable_only
    best.request_resync()
    assert source._schedule.pending == {"mass withdrawal"}
    assert not await best.catch_up(), "nothing is followed yet"
    monkeypatch.setattr(KernelSource, "catch_up", OwnNode.catch_up)  # as if it were
    assert await best.catch_up()
    assert best.follows_kernel


def test_a_route_is_evaluated_with_the_gateways_that_are_known_now(tmp_path: Path) -> None:
    text = """
[[policy.rules]]
name = "to-gateways"
match = { link_gateway = true }
action = "drop"
[[policy.rules]]
name = "cni"
match = { interface = "cni*" }
action = "drop"
"""
    best = Electing(loaded(tmp_path, text)).best
    host = Route(HOST, 254, 0, 0, PROTOCOLS["boot"], 253, TYPES["unicast"], (NextHop(None, 2),))
    assert best.evaluate(host, LINKS).keep
    best.source._evaluator.gateways.learn(attributes().hops)
    assert best.evaluate(host, LINKS).rule == "to-gateways"
    assert best.evaluate(host._replace(prefix=P, hops=(NextHop(None, 3),)), LINKS).rule == "cni"
    rules = best.source._evaluator._rules
    assert rules.evaluate(host, LINKS).keep
    assert rules.evaluate_link_gateway is not None
    assert rules.evaluate_link_gateway(host, LINKS).rule == "to-gateways", (
        "as the source asks, of one that leads there"
    )


# -- the configuration


async def test_other_rules_are_applied_by_the_running_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_routes, "PATIENCE_S", 30.0)
    async with electing(loaded(tmp_path)) as node:
        best, source = node.best, node.best.source
        best.evaluated.set()
        await best.apply(loaded(tmp_path, "[node]\nname = 'other'"))
        assert source._evaluator.generation == 0, "the rules are the same"
        assert source._schedule.pending == set()
        task = asyncio.create_task(best.apply(loaded(tmp_path, DROP_BGP)))
        await eventually(lambda: source._evaluator.generation == 1)
        assert best.source is source
        assert best.evaluate(attributes().at(P), LINKS).rule == "no-bgp"
        assert source._evaluator.route(P, attributes())[1].rule == "no-bgp"
        assert not best.evaluated.is_set()
        best._on_report(ResyncDone(("doubt",), 0.1, 1, 1, 0))
        assert not best.evaluated.is_set(), "that dump was not evaluated by them"
        assert not task.done()
        best._passing_on = True
        best._on_report(ResyncDone(("doubt", "rules"), 0.1, 1, 1, 0))
        assert best.evaluated.is_set()
        await asyncio.sleep(0.02)
        assert not task.done(), "what it changed is still passed on"
        best._passing_on = False
        await asyncio.wait_for(task, 10)


async def test_a_reload_waits_until_the_consumers_know_what_it_changed(tmp_path: Path) -> None:
    node = Electing(loaded(tmp_path))
    hold(node.best.source, P, attributes())
    node.best.evaluated.set()
    task = asyncio.create_task(node.best.apply(loaded(tmp_path)))
    await asyncio.sleep(0.02)
    assert not task.done(), "a change was not taken yet"
    node.best.source._fib.replica.take()
    await asyncio.wait_for(task, 10)


async def test_a_reload_goes_on_when_its_patience_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_routes, "PATIENCE_S", 0.01)
    node = Electing(loaded(tmp_path))
    await asyncio.wait_for(node.best.apply(loaded(tmp_path, DROP_BGP)), 10)
    assert not node.best.evaluated.is_set()


async def never_read(_source: KernelSource) -> None:
    await asyncio.Event().wait()


async def test_it_begins_with_the_first_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[KernelSource] = []

    async def note(source: KernelSource) -> None:
        read.append(source)
        await never_read(source)

    monkeypatch.setattr(KernelSource, "run", note)
    node = Electing(loaded(tmp_path))
    await node.best.start()
    assert node.supervisor.names == ("kernel", "best routes")
    hold(node.best.source, P, attributes())
    await eventually(node.best.evaluated.is_set)
    assert read == [node.best.source]
    node.supervisor.request_stop()
    await node.supervisor.wait()


async def test_other_kernel_settings_take_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_routes, "PATIENCE_S", 0.01)
    monkeypatch.setattr(KernelSource, "run", never_read)
    node = Electing(loaded(tmp_path))
    best, before = node.best, node.best.source
    best.evaluated.set()
    with capture_logs() as logs:
        await best.apply(loaded(tmp_path, "[kernel]\ntables = ['main', 99]\nreceive_buffer = 65536"))
    assert logs == [
        {
            "event": "kernel_settings_changed",
            "log_level": "info",
            "consequence": "the kernel's routes are dumped again",
        }
    ]
    assert best.source is not before
    assert not best.evaluated.is_set()
    assert (best.source.tables, best.source._receive_buffer) == ((254, 99), 65536)
    assert best.source.stats is before.stats, "figures go on"
    assert node.supervisor.names == ("kernel", "best routes")
    node.supervisor.request_stop()
    await node.supervisor.wait()


def test_what_cannot_be_read_is_found_out_before(tmp_path: Path) -> None:
    best = Electing(loaded(tmp_path)).best
    best.probe(loaded(tmp_path))
    with pytest.raises(KernelError, match="no-such-namespace"):
        best.probe(loaded(tmp_path, "[kernel]\nnetns = 'no-such-namespace'"))


def test_a_socket_of_the_service_manager_is_used_where_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = loaded(tmp_path, "[kernel]\nnetns = 'no-such-namespace'")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        best = Electing(loaded(tmp_path), sock).best
        assert best.source._handed_over is sock
        assert not best.readable_only, "it lives here"
        with capture_logs() as logs:
            best = Electing(elsewhere, sock).best
        assert best.source._handed_over is None
        assert best.source._netns == "no-such-namespace"
        assert [(line["event"], line["log_level"], line["reason"]) for line in logs] == [
            ("socket_not_used", "warning", "kernel.netns is no-such-namespace, it lives here")
        ]
        monkeypatch.setattr(best_routes, "in_own_namespace", lambda _: False)
        best = Electing(elsewhere, sock).best
        assert best.source._handed_over is sock, "it may be of the namespace that is wanted"
        assert best.readable_only
        best.probe(elsewhere)  # the socket is there already


# -- while the kernel cannot be read


class Unreadable(KernelSource):
    """A source whose every run ends in this error."""

    def __init__(self, best: BestRoutes) -> None:
        super().__init__(
            tables=(254,), rules=best.source._evaluator._rules, receive_buffer=1, resync_interval_s=1
        )
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        raise KernelError("no such namespace")


async def test_a_kernel_that_could_never_be_read_is_an_error(tmp_path: Path) -> None:
    best = Electing(loaded(tmp_path)).best
    with pytest.raises(KernelError):
        await asyncio.wait_for(best._read(Unreadable(best)), 10)


async def test_a_kernel_that_cannot_be_read_any_more_is_tried_again_and_said_once(tmp_path: Path) -> None:
    best = Electing(loaded(tmp_path)).best
    best.source = source = Unreadable(best)
    states = [best.state]
    source.synced.set()
    read = ResyncDone(("start",), 0.1, 1, 1, 0)
    with capture_logs() as logs:
        task = asyncio.create_task(best._read(source))
        await eventually(lambda: source.runs > 3)
        task.cancel()
        assert [*best.troubles] == ["kernel: no such namespace; the routes of before are held"]
        states.append(best.state)
        best._on_report(read)
        best._on_report(read)
    assert not best.troubles
    assert [*states, best.state] == ["reading", "unreadable", "synced"]
    assert [line for line in logs if line["log_level"] != "debug"] == [
        {
            "event": "kernel_unreadable",
            "log_level": "error",
            "error": "no such namespace",
            "consequence": "the routes held stay",
        },
        {"event": "kernel_readable", "log_level": "info"},
    ]


async def test_each_failure_in_a_row_waits_longer_until_a_dump_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Watched(Backoff):
        def delay_s(self, failures: int) -> float:
            asked.append(failures)
            if len(asked) == 3:
                source.stats.resyncs["start"] += 1
            return 0.0

    class Dumping(Unreadable):
        async def run(self) -> None:
            if len(asked) == 3:
                self.stats.resyncs["overrun"] += 1
            await super().run()

    monkeypatch.setattr(best_routes, "RESTART", Watched(1, 1))
    best = Electing(loaded(tmp_path)).best
    source = Dumping(best)
    source.synced.set()
    task = asyncio.create_task(best._read(source))
    await eventually(lambda: len(asked) >= 5)
    task.cancel()
    assert asked[:5] == [1, 2, 3, 1, 2]


# -- what is reported


async def test_consumers_get_each_report_and_a_dump_when_its_changes_were_passed_on(tmp_path: Path) -> None:
    node = Electing(loaded(tmp_path))
    best, learned = node.best, node.learned
    route = attributes().at(P)
    best._on_route_created(route)
    assert learned.created == [route]
    assert best.source._fib._on_route_created == best._on_route_created
    assert best.source._report == best._on_report
    loop = asyncio.get_running_loop()
    best._passing_on = True
    done = ResyncDone(("periodic",), 5.0, 1, 1, 0)
    before = loop.time()
    best._on_report(done)
    assert learned.reports == [done]
    await asyncio.sleep(0.05)
    assert learned.resyncs == [], "perhaps what it changed is passed on just now"
    best._passing_on = False
    await eventually(lambda: bool(learned.resyncs))
    assert before - 5.0 <= learned.resyncs[0] < before - 4.0, "when it began"
    assert len(learned.resyncs) == 1
    assert len(node.events.of("kernel/resynced")) == 1


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def reporter(events: Events, clock: list[float]) -> KernelReporter:
    return KernelReporter(events, Names(), lambda: LINKS, lambda: clock[0])


def test_each_report_is_an_event_and_where_it_matters_a_line(
    reporter: KernelReporter, events: Events
) -> None:
    route = attributes().at(P)
    reported = Verdict(keep=False, rule="r", report=True)
    with capture_logs() as logs:
        for report in (
            ResyncDone(("start", "link"), 0.0123456, 7, 5, 2),
            Drift((P, Q), 3),
            Overrun(4, 212992),
            Overrun(4, 212992),
            Dropped(route, reported),
            Dropped(route, Verdict(keep=False, rule="g", guard=True)),
            BadMessage("too short"),
            DropEnded(P),
        ):
            reporter.report(report)
    assert events.seen == [
        KernelResynced(cause="start, link", duration_ms=12.346, kept=5, corrected=2),
        KernelDrift(count=3, prefixes=("10.1.0.0/16", "10.2.0.0/16")),
        KernelOverrun(total=1),
        KernelOverrun(total=2),
        RouteDropped(
            prefix="10.1.0.0/16",
            family="ipv4",
            rule="r",
            protocol="bgp",
            metric=20,
            interface="ens3",
            table="main",
        ),
    ]
    again = "all routes are dumped again"
    assert logs == [
        {
            "event": "kernel_resynced",
            "log_level": "debug",
            "cause": "start, link",
            "routes": 7,
            "kept": 5,
            "corrected": 2,
        },
        {
            "event": "kernel_drift",
            "log_level": "error",
            "count": 3,
            "prefixes": ("10.1.0.0/16", "10.2.0.0/16"),
        },
        {
            "event": "kernel_overrun",
            "log_level": "warning",
            "lost": 4,
            "receive_buffer": 212992,
            "consequence": again,
        },
        {
            "event": "kernel_message_not_understood",
            "log_level": "error",
            "error": "too short",
            "consequence": again,
        },
    ]


def test_an_episode_of_overruns_ends_with_its_figures(reporter: KernelReporter, clock: list[float]) -> None:
    done = ResyncDone(("overrun",), 0.1, 1, 1, 0)
    with capture_logs() as logs:
        reporter.report(Overrun(4, 1))
        clock[0] += 2
        reporter.report(Overrun(5, 1))
        clock[0] += best_routes.QUIET_S
        reporter.report(done)
        assert len([line for line in logs if line["log_level"] == "info"]) == 0, "not quiet for so long yet"
        clock[0] += 0.1
        reporter.report(done)
    ended = [line for line in logs if line["log_level"] == "info"]
    assert ended == [
        {"event": "kernel_overruns_ended", "log_level": "info", "overruns": 2, "lost": 9, "took_s": 2}
    ]
