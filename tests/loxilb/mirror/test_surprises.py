"""What others do to a loxilb and to the way there, without asking: the right routes become actual, theirs stay."""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from routesync.kernel import Link
from routesync.loxilb.client import LoxilbClient
from routesync.mirror.apply import Applier
from routesync.mirror.eligibility import TargetRules
from routesync.mirror.last_loxilb import LastLoxilb, Loxilb, RequiredLoxilb
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Limits
from routesync.mirror.reconciler import Reconciler
from routesync.mirror.state import Phase
from routesync.mirror.status import TargetState
from routesync.mirror.targets_addresses import TargetsAddresses
from routesync.route import Prefix, parse_address
from standin.faults import Fault
from support.certificates import Authority
from support.mirror_lab import Lab, candidate, laboratory
from support.standin import recreate_container
from support.waiting import eventually

HERE, THERE = "192.168.10.1", "192.168.10.2"
A, B = Prefix.parse("10.1.0.0/16"), Prefix.parse("fd01::/48")
QUICK = Limits(probe_interval_s=0.2)


async def synced(reconciler: Reconciler) -> None:
    await eventually(lambda: reconciler.view().state is TargetState.SYNCED, within_s=40, what="the sync")


def numbered(count: int) -> list[Prefix]:
    return [Prefix.parse(f"10.{number}.0.0/16") for number in range(1, count + 1)]


async def test_when_its_address_on_a_link_goes_nothing_is_given_up_and_all_is_made_good(lab: Lab) -> None:
    """Its kernel loses the routes in silence, its table goes on showing them, and every POST is answered with 500."""
    wanted = numbered(5)
    async with lab.mirroring(limits=QUICK) as reconciler:
        for prefix in wanted:
            reconciler.set_route(prefix, candidate(str(prefix), HERE))
        await lab.holds({str(prefix): HERE for prefix in wanted})
        await synced(reconciler)
        lab.space.ip("addr del 192.168.10.20/24 dev ens3")
        assert lab.static_routes() == {}
        await eventually(lambda: bool(reconciler.view().unreachable_gateways), what="noticing")
        assert {str(prefix) for prefix in lab.ledger.owned("lb")} == {str(prefix) for prefix in wanted}
        lab.space.ip("addr add 192.168.10.20/24 dev ens3")
        await lab.holds({str(prefix): HERE for prefix in wanted}, within_s=20)
        await eventually(lambda: not reconciler.view().unreachable_gateways, what="noticing that, too")
    assert len(lab.events.of("sync/lost")) == 5


async def test_a_restart_of_a_moment_is_noticed_before_anything_is_sent_and_is_no_contention(
    lab: Lab,
) -> None:
    wanted = {str(prefix): HERE for prefix in numbered(5)}
    async with lab.mirroring() as reconciler:  # fewer requests fail meanwhile than end a session
        for prefix, gateway in wanted.items():
            reconciler.set_route(Prefix.parse(prefix), candidate(prefix, gateway))
        await lab.holds(wanted)
        await synced(reconciler)
        for connections in (2, 3, 4):
            recreate_container(lab.space, lab.standin)
            await eventually(lambda: reconciler.view().connections == connections, what="the handshake")  # noqa: B023
            await lab.holds(wanted)
            await synced(reconciler)
        assert reconciler.view().phases[Phase.CONTENDED] == 0
        assert reconciler.state.repairs.losses == {}


async def test_one_that_comes_back_in_our_own_namespace_is_not_written_to(lab: Lab) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        async with LoxilbClient("http://loxilb", unix_socket=lab.standin.socket) as client:
            ports = await client.ports()
        reconciler.node.interfaces = {
            it.ifindex: Link(it.ifindex, it.name, 0, bytes.fromhex(it.mac.replace(":", ""))) for it in ports
        }
        recreate_container(lab.space, lab.standin)
        reconciler.set_route(B, candidate(str(B), "fd00:10::1"))
        reconciler.set_route(A, None)
        await eventually(
            lambda: reconciler.view().state is TargetState.SHARED_NAMESPACE, what="the handshake"
        )
        state = lab.standin.state()
        assert (state.posts, state.deletes) == (0, 0)


async def test_a_target_of_which_nothing_is_owned_is_left_in_peace_when_it_closes_idle_connections() -> None:
    with laboratory("--idle-timeout", "0.2") as lab:
        async with lab.mirroring(limits=Limits(probe_interval_s=0.1)) as reconciler:
            await synced(reconciler)
            await asyncio.sleep(3)  # nothing shall happen, so nothing tells when to look
            assert reconciler.view().connections == 1
            reconciler.set_route(A, candidate(str(A), HERE))
            await lab.holds({str(A): HERE}, within_s=5)


async def test_a_target_of_which_nothing_is_owned_is_known_to_be_gone() -> None:
    with laboratory("--idle-timeout", "0.2") as lab:
        async with lab.mirroring() as reconciler:
            await synced(reconciler)
            lab.standin.kill()
            await eventually(
                lambda: reconciler.view().state is TargetState.UNREACHABLE, within_s=60, what="the trouble"
            )
            lab.standin.launch()
            await synced(reconciler)


async def test_a_restart_while_what_was_given_up_is_written_is_noticed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, restarted = asyncio.Event(), asyncio.Event()
    committed = Applier.committed

    async def slow(applier: Applier) -> None:
        begun.set()
        await restarted.wait()
        await committed(applier)

    monkeypatch.setattr(Applier, "committed", slow)
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await begun.wait()
        recreate_container(lab.space, lab.standin)
        await asyncio.sleep(0.1)  # its connections end
        restarted.set()
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        assert reconciler.view().connections == 2


async def test_a_post_of_a_default_whose_connection_breaks_is_sent_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the target answers, that POST has not cut us off from it."""
    ends = parse_address(HERE), parse_address("192.168.10.20")
    monkeypatch.setattr(LoxilbClient, "ends", ends)
    async with lab.mirroring(rules=TargetRules(allow_default="yes")) as reconciler:
        await synced(reconciler)
        lab.standin.inject(Fault("reset", method="POST", times=1))
        default = Prefix.parse("0.0.0.0/0")
        reconciler.set_route(default, candidate(str(default), HERE))
        await lab.holds({"default": HERE})
        await synced(reconciler)
        assert not reconciler.state.suspects


async def test_a_sync_that_a_restart_interrupts_is_reported_as_complete(lab: Lab) -> None:
    """What subscribers are shown of a target waits for that."""
    lab.standin.inject(Fault("slow", method="POST", delay_s=30))
    async with lab.mirroring(limits=QUICK) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await eventually(lambda: bool(lab.events.of("sync/started")), what="the sync")
        await eventually(lambda: reconciler.view().in_flight == 1, what="the POST")
        recreate_container(lab.space, lab.standin)
        await lab.holds({str(A): HERE})
        await eventually(lambda: len(lab.events.of("sync/completed")) == 1, what="its end")


async def test_a_sync_that_a_pause_interrupts_is_reported_as_complete_too(lab: Lab) -> None:
    lab.standin.inject(Fault("slow", method="POST", delay_s=1))
    async with lab.mirroring(limits=QUICK) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await eventually(lambda: reconciler.view().in_flight == 1, what="the POST")
        reconciler.pause()
        lab.standin.inject()
        await reconciler.at_rest()
        reconciler.resume()
        await lab.holds({str(A): HERE})
        await eventually(lambda: len(lab.events.of("sync/completed")) == 1, what="its end")


@pytest.mark.parametrize("comes_back", [False, True])
async def test_what_is_taken_back_from_our_own_kernel_waits_for_a_target_elsewhere(
    lab: Lab,
    comes_back: bool,  # noqa: FBT001
) -> None:
    async with lab.mirroring() as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        reconciler.state.suspend(A)
        taking_back = asyncio.create_task(reconciler._session._take_back(A))
        await asyncio.sleep(0)  # the DELETE is on its way
        if comes_back:  # by the event of it, the node's own route to the prefix is elected again
            reconciler.on_best_route(A)
        assert await taking_back
        assert lab.static_routes() == {}
        assert (reconciler.state.busy, reconciler.routes[A].phase) == (set(), Phase.PENDING)


@pytest.mark.parametrize("url", ["http://loxilb", "http://another"])
async def test_what_is_owned_is_not_owned_in_another_loxilb_that_a_new_url_leads_to(
    lab: Lab, tmp_path: Path, url: str
) -> None:
    routes = {str(A): HERE, str(B): "fd00:10::1"}
    async with lab.mirroring(last_loxilb=LastLoxilb(tmp_path, "lb")) as reconciler:
        for prefix, gateway in routes.items():
            reconciler.set_route(Prefix.parse(prefix), candidate(prefix, gateway))
        await lab.holds(routes)
        await synced(reconciler)
    lab.space.ip("link set ens3 address 02:00:00:00:77:77")  # what tells it from others
    async with (
        LoxilbClient(url, unix_socket=lab.standin.socket) as client,
        lab.mirroring(client=client, last_loxilb=LastLoxilb(tmp_path, "lb")) as reconciler,
    ):
        for prefix, gateway in routes.items():
            reconciler.set_route(Prefix.parse(prefix), candidate(prefix, gateway))
        await synced(reconciler)
        if url == "http://loxilb":  # its first port may change by itself
            assert reconciler.view().phases[Phase.CONFIRMED] == 2
            return
        assert reconciler.view().phases[Phase.PRESENT] == 2
        assert lab.ledger.owned("lb") == {}
        for prefix in routes:
            reconciler.set_route(Prefix.parse(prefix), None)
        await eventually(lambda: reconciler.prefixes() == (), what="nothing to do")
        assert lab.static_routes() == routes


async def test_nothing_is_given_up_where_no_other_loxilb_will_do(lab: Lab, tmp_path: Path) -> None:
    """As for `withdraw`: its URL may be mistyped."""
    LastLoxilb(tmp_path, "lb").note(Loxilb("http://former", "another"))
    lab.ledger.note("lb", A, Row(parse_address(HERE)))
    lab.space.ip(f"route add {A} via {HERE} proto static")
    async with lab.mirroring(last_loxilb=RequiredLoxilb(tmp_path, "lb")) as reconciler:
        await eventually(
            lambda: "leads to another loxilb" in (reconciler.view().error or ""), what="the refusal"
        )
        assert reconciler.view().state is TargetState.UNREACHABLE
        assert [*lab.ledger.owned("lb")] == [A]
        assert lab.static_routes() == {str(A): HERE}


async def test_what_is_owned_in_a_former_loxilb_is_given_up_whole_although_a_pause_interrupts_that(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routesync.slices.SLICE_S", -1.0)
    theirs = {str(prefix): HERE for prefix in numbered(5)}
    for prefix, gateway in theirs.items():
        lab.ledger.note("lb", Prefix.parse(prefix), Row(parse_address(gateway)))
        lab.space.ip(f"route add {prefix} via {gateway} proto static")
    last = LastLoxilb(tmp_path, "lb")
    last.note(Loxilb("http://former", "another"))
    async with lab.mirroring(limits=Limits(startup_hold_s=0), last_loxilb=last) as reconciler:
        note = lab.ledger.note

        def interrupt(target: str, prefix: Prefix, row: Row | None) -> None:
            note(target, prefix, row)
            if len(lab.ledger.owned("lb")) == 3:
                reconciler.pause()

        monkeypatch.setattr(lab.ledger, "note", interrupt)
        await eventually(lambda: reconciler.paused, what="the pause")
        reconciler.resume()
        await synced(reconciler)
        await eventually(lambda: reconciler.prefixes() == (), what="nothing to do")
        assert lab.static_routes() == theirs


async def test_another_writers_lower_metric_on_ipv6_is_not_deleted_without_a_witness(lab: Lab) -> None:
    """DELETE takes the lowest metric first: theirs."""
    async with lab.mirroring(limits=QUICK) as reconciler:
        reconciler.set_route(B, candidate(str(B), "fd00:10::1"))
        await lab.holds({str(B): "fd00:10::1"})
        await synced(reconciler)
        await lab.behind_its_back(f"-6 route add {B} via fd00:10::2 metric 20 proto bird")
        reconciler.set_route(B, None)
        await eventually(lambda: reconciler.routes[B].phase is Phase.LEFT_BEHIND, what="leaving it")
        await synced(reconciler)
    assert "metric 20" in lab.space.ip(f"-6 route show {B}")


async def test_another_writers_replacement_is_reported_and_left_while_the_route_is_wanted(lab: Lab) -> None:
    async with lab.mirroring(limits=QUICK) as reconciler:
        reconciler.set_route(A, candidate(str(A), HERE))
        await lab.holds({str(A): HERE})
        await synced(reconciler)
        await lab.behind_its_back(f"route replace {A} via {THERE} proto bird")
        reconciler.set_route(A, candidate(str(A), "192.168.10.3"))  # calls for an inventory
        await eventually(lambda: bool(lab.events.of("route/conflicting")), what="the conflict")
        await synced_or_waiting(reconciler)
        assert reconciler.view().counters.conflicts == 1
    assert lab.gateway(A) == THERE


async def synced_or_waiting(reconciler: Reconciler) -> None:
    good = {TargetState.SYNCED, TargetState.SYNCING}
    await eventually(lambda: reconciler.view().state in good, what="the sync")


async def test_when_it_was_restarted_between_two_requests_its_half_filled_table_is_not_believed(
    lab: Lab,
) -> None:
    """Nothing of ours was under way, so no answer failed; but every connection was closed."""
    wanted = numbered(30)
    slow = type(lab.standin)(
        lab.space.name, lab.standin.socket.parent, "--listen", "none", "--fragile", "strict", "--api-delay", "0",
        "--fill-delay", "0.5", "--fill-rate", "50",
    )  # fmt: skip
    try:
        async with lab.mirroring(limits=Limits(probe_interval_s=3600)) as reconciler:
            for prefix in wanted:
                reconciler.set_route(prefix, candidate(str(prefix), HERE))
            await lab.holds({str(prefix): HERE for prefix in wanted})
            await synced(reconciler)
            lab.standin.kill()
            slow.launch()
            lab.standin = slow
            await eventually(lambda: answers(lab), what="its API")
            reconciler.set_route(wanted[0], None)
            await lab.holds({str(prefix): HERE for prefix in wanted[1:]}, within_s=20)
            await synced(reconciler)
    finally:
        slow.stop()
    assert not lab.events.of("sync/lost")
    assert not lab.events.of("route/conflicting")
    assert not lab.events.of("target/down")


def answers(lab: Lab) -> bool:
    try:
        lab.standin.state()
    except OSError:
        return False
    return True


async def test_its_silent_capacity_is_never_reached() -> None:
    with laboratory("--capacity", "30", "--marks", "40") as lab:
        async with lab.mirroring(limits=Limits(max_inet=20)) as reconciler:
            for prefix in numbered(50):
                reconciler.set_route(prefix, candidate(str(prefix), HERE))
            await eventually(lambda: reconciler.view().phases[Phase.OVER_CAPACITY] == 30, what="the limit")
            await eventually(lambda: len(lab.static_routes()) == 20, what="the first twenty")
            await lab.quiet()
            assert lab.standin.state().unprogrammed == 0


async def test_connections_that_it_closes_for_idleness_cost_no_answer() -> None:
    with laboratory("--idle-timeout", "0.2") as lab:
        async with lab.mirroring(limits=Limits(probe_interval_s=0.5)) as reconciler:
            for number, prefix in enumerate(numbered(5), 1):
                reconciler.set_route(prefix, candidate(str(prefix), HERE))
                await lab.holds({str(each): HERE for each in numbered(number)})
                await asyncio.sleep(0.3)  # longer than it suffers an idle connection
            verified = reconciler.view().counters.verifications
            await eventually(lambda: reconciler.view().counters.verifications > verified, what="a new proof")
            outcomes = {outcome for _, outcome in reconciler.view().requests}
        assert outcomes - {"withheld"} == {"ok", "exists"}


@pytest.mark.parametrize("seed", range(2))
async def test_through_faults_of_every_kind_under_churn_the_right_routes_become_actual(
    lab: Lab, seed: int
) -> None:
    chance = random.Random(seed)
    foreign = "10.200.0.0/16"
    await lab.behind_its_back(f"route add {foreign} via {THERE} proto static mtu 1400")
    pool, wanted = numbered(30), {}
    async with lab.mirroring(limits=QUICK, timeout_s=0.5) as reconciler:
        await synced(reconciler)
        lab.standin.inject(
            Fault("reset", share=0.05),
            Fault("reset", share=0.05, carried_out=True),
            Fault("half", share=0.05, carried_out=True),
            Fault("hang", share=0.02, carried_out=True),
            Fault("hang", share=0.02),
            Fault("answer", share=0.05, body="<html>"),
            Fault("answer", share=0.05, carried_out=True, status=502, body="<html>"),
            Fault("slow", share=0.1, delay_s=0.1),
        )
        for _ in range(200):
            prefix = chance.choice(pool)
            gateway = chance.choice((HERE, THERE, None))
            reconciler.set_route(prefix, candidate(str(prefix), gateway) if gateway else None)
            if gateway:
                wanted[str(prefix)] = gateway
            else:
                wanted.pop(str(prefix), None)
            await asyncio.sleep(chance.random() * 0.05)
        lab.standin.inject()
        await lab.holds({**wanted, foreign: THERE}, within_s=60)
        await synced(reconciler)
        assert lab.static_routes() == {**wanted, foreign: THERE}
        assert {str(prefix) for prefix in lab.ledger.owned("lb")} == set(wanted)
    assert "mtu 1400" in lab.space.ip(f"route show {foreign}")


async def test_a_target_that_hangs_delays_no_other() -> None:
    with laboratory() as hanging, laboratory() as well:
        async with AsyncExitStack() as stack:
            stuck = await stack.enter_async_context(hanging.mirroring(timeout_s=30))
            other = await stack.enter_async_context(well.mirroring())
            for lab, reconciler in ((hanging, stuck), (well, other)):
                reconciler.set_route(A, candidate(str(A), HERE))
                await lab.holds({str(A): HERE})
                await synced(reconciler)
            hanging.standin.inject(Fault("hang"))
            wanted = [Prefix.parse(f"10.{n // 100 + 2}.{n % 100}.0/24") for n in range(300)]
            for prefix in wanted:
                for reconciler in (stuck, other):
                    reconciler.set_route(prefix, candidate(str(prefix), HERE))
            await well.holds({str(prefix): HERE for prefix in (A, *wanted)}, within_s=20)
            assert stuck.view().in_flight == 8, "all its workers wait, and only its own"
            assert hanging.static_routes() == {str(A): HERE}


async def test_over_tls_with_a_client_certificate_and_a_server_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("server", alternative="DNS:loxilb.test")
    own = authority.issue("client", alternative="DNS:client.test")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(own.certificate, own.key)
    arguments = ("--tls-cert", str(server.certificate), "--tls-key", str(server.key))
    with laboratory(*arguments, "--tls-client-ca", str(authority.certificate)) as lab:
        url = lab.standin.tls_url
        async with (
            LoxilbClient(url, tls=context, server_name="loxilb.test") as client,
            lab.mirroring(client=client) as reconciler,
        ):
            reconciler.set_route(A, candidate(str(A), HERE))
            await lab.holds({str(A): HERE})
        async with LoxilbClient(url, tls=context) as client, lab.mirroring(client=client) as reconciler:
            await asyncio.wait_for(reconciler.contacted.wait(), 30)
            assert "certificate not accepted" in (reconciler.view().error or "")
            assert reconciler.view().state is TargetState.UNREACHABLE
        anonymous = ssl.create_default_context(cafile=str(authority.certificate))
        async with (
            LoxilbClient(url, tls=anonymous, server_name="loxilb.test") as client,
            lab.mirroring(client=client) as reconciler,
        ):
            await asyncio.wait_for(reconciler.contacted.wait(), 30)
            assert reconciler.view().state is TargetState.UNREACHABLE


async def test_what_one_target_shows_as_its_own_address_is_no_next_hop_at_another() -> None:
    """A VIP that appears at one loxilb takes back the routes through it that another got before."""
    vip = "192.168.10.77"
    with laboratory() as first, laboratory() as second:
        addresses = TargetsAddresses()
        async with second.mirroring(targets_addresses=addresses, name="second") as reconciler:
            reconciler.set_route(A, candidate(str(A), vip))
            await second.holds({str(A): vip})
            await synced(reconciler)
            first.space.ip(f"addr add {vip}/32 dev lo")
            async with first.mirroring(targets_addresses=addresses, name="first"):
                await second.holds({})
                assert reconciler.routes[A].phase is Phase.INELIGIBLE
