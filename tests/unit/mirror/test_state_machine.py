"""The state of a target's routes against a model of loxilb in memory: whatever happens, nobody's route is taken.

A hypothesis state machine plays the node, other writers, a lossy network and restarts; `Driver` does what the session
does. Time is simulated. The invariants hold after every step, and at rest everything desired and possible is there.

Another writer's change is followed by a pause without requests: between an inventory and a DELETE there is a race of up
to `FRESH_S`, which is documented, and which no API call could close.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Step
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from routesync.mirror.eligibility import Desired, Evaluation, Ineligible, Reason
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Limits
from routesync.mirror.state import (
    FRESH_S,
    MIRRORED,
    Answer,
    Kind,
    MirrorState,
    Outcome,
    Phase,
    Request,
    is_ours,
)
from routesync.names import PROTOCOLS
from routesync.route import Address, Candidate, Family, NextHop, Prefix, Route, Verdict, parse_address
from support.loxilb_model import Fate, KernelRoute, LoxilbModel, Reply, Writer

PREFIXES = tuple(
    Prefix.parse(text)
    for text in (
        *(f"10.{number}.0.0/16" for number in range(1, 5)),
        "0.0.0.0/0",
        "fd01::/48",
        "fd02::/48",
        "::/0",
    )
)
GATEWAYS = {
    Family.INET: tuple(map(parse_address, ("192.168.10.1", "192.168.10.2", "10.99.0.1"))),
    Family.INET6: tuple(map(parse_address, ("fd00:10::1", "fd00:10::2", "fd99::1"))),
}
"""The last of each is off-link at loxilb."""
FOREIGN_GATEWAYS = {
    Family.INET: parse_address("192.168.10.9"),
    Family.INET6: parse_address("fd00:10::9"),
}
OUR_METRIC = {Family.INET: 0, Family.INET6: 1024}
REFUSED_GATEWAY = parse_address("192.168.10.20")
LIMITS = Limits(rate=50, burst=10, startup_hold_s=2, max_inet=4, withdraw_minimum=1000)


class Silent:
    """Takes reports, and keeps the copy that subscribers make of them."""

    def __init__(self) -> None:
        self.table: dict[Prefix, Address] = {}

    def accepted(
        self, prefix: Prefix, desired: Desired, _previous: Address | None, _gap_ms: float | None
    ) -> None:
        self.table[prefix] = desired.gateway

    def confirmed(self, prefix: Prefix, gateway: Address) -> None:
        self.table[prefix] = gateway

    def withdrawn(self, prefix: Prefix, gateway: Address, _reason: str) -> None:
        assert self.table.get(prefix) == gateway, "withdrawn is only what subscribers know of"
        del self.table[prefix]

    def refused(
        self, prefix: Prefix, _desired: Desired, _status: int, _words: str, _retry_in_s: float
    ) -> None:
        self.table.pop(prefix, None)

    def conflicting(self, prefix: Prefix, _desired: Desired, _detail: str) -> None:
        self.table.pop(prefix, None)

    def ineligible(self, prefix: Prefix, evaluation: Ineligible) -> None:
        pass

    def lost(self, prefix: Prefix, _detail: str) -> None:
        self.table.pop(prefix, None)

    def reached(self, stage: str, kernel_changed_at: float | None, now: float) -> None:
        pass


class ModelWitness:
    """The kernel of the model, read directly."""

    ready = True

    def __init__(self, model: LoxilbModel) -> None:
        self._model = model

    def _routes(self, prefix: Prefix) -> list[KernelRoute]:
        return [route for route in self._model.kernel(prefix) if not route.scope_link]

    @staticmethod
    def _as_ours(route: KernelRoute, gateway: Address) -> bool:
        return (
            route.gateways == (gateway,)
            and route.protocol == PROTOCOLS["static"]
            and route.metric == OUR_METRIC[route.prefix.family]
        )

    def shows(self, prefix: Prefix, gateway: Address) -> bool:
        return any(self._as_ours(route, gateway) for route in self._routes(prefix)[:1])

    def only_ours(self, prefix: Prefix, gateway: Address) -> bool:
        rivals = [it for it in self._routes(prefix) if it.metric <= OUR_METRIC[prefix.family]]
        return len(rivals) == 1 and self._as_ours(rivals[0], gateway)

    def holds(self, prefix: Prefix, gateway: Address) -> bool:
        return any(
            gateway in route.gateways
            and route.metric == OUR_METRIC[prefix.family]
            and (route.protocol == PROTOCOLS["static"] or len(route.gateways) > 1)
            for route in self._routes(prefix)
        )

    def others(self, prefix: Prefix, gateway: Address) -> bool:
        return any(not self._as_ours(route, gateway) for route in self._routes(prefix))


def candidate(prefix: Prefix, gateway: Address) -> Candidate:
    route = Route(prefix, 254, 0, 0, PROTOCOLS["bgp"], 0, 1, (NextHop(gateway, 3),))
    return Candidate(route, Verdict(keep=True, rule="rule"))


class Mirroring(RuleBasedStateMachine):
    """A node, a loxilb and what happens to them; without a witness."""

    with_witness = False

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.model = LoxilbModel(self.now)
        self.ledger: dict[Prefix, Row] = {}
        self.elected: dict[Prefix, Candidate] = {}
        self.faults: list[Fate] = []
        self.in_flight: list[Request] = []
        self.sent = Counter[Answer]()
        self.began = self.now
        self.rests = 0
        self.forgotten: set[Prefix] = set()
        self.start_daemon()
        self.handshake()

    # -- what the daemon does --------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        self.in_flight.clear()
        self.report = Silent()
        self.state = MirrorState(
            LIMITS,
            self.now,
            evaluate=self.evaluate,
            contains_our_end=lambda _: False,
            note=self.note,
            report=self.report,  # type: ignore[arg-type]  # a Reporter without events
            witness=ModelWitness(self.model) if self.with_witness else None,
        )
        deque(self.state.claim(self.ledger.items(), self.now), 0)
        for prefix in self.elected:
            self.state.route_changed(prefix, self.now)
        self.sent.clear()
        self.began = self.now

    def evaluate(self, prefix: Prefix, _current: Address | None) -> Evaluation | None:
        if (route := self.elected.get(prefix)) is None:
            return None
        gateway = route.route.hops[0].gateway
        assert gateway is not None
        if gateway == REFUSED_GATEWAY:
            return Ineligible(Reason.SPLIT_HORIZON, "its next hop is a target", "rule")
        return Desired(gateway, "rule")

    def note(self, prefix: Prefix, row: Row | None) -> None:
        if row is None:
            self.ledger.pop(prefix, None)
        else:
            self.ledger[prefix] = row

    def handshake(self) -> None:
        """Wait until two inventories agree and are not empty, as the handshake does."""
        for request in self.in_flight:
            self.state.finished(request, Outcome(Answer.UNKNOWN, "it was restarted"), self.now)
        while self.in_flight and self.state.busy:  # what follows a lost answer is not sent
            break
        self.in_flight.clear()
        self.state.disconnected()
        count = -1
        while True:
            self.now += 1.5
            self.model.tick(self.now)
            if self.model.waiting:
                continue
            inventory = self.model.inventory(self.now)
            if inventory is not None and inventory.rows and len(inventory.rows) == count:
                break
            count = -1 if inventory is None else len(inventory.rows)
        self.state.connected(self.now)
        self.state.one_at_a_time = False
        for _ in self.state.take_inventory(inventory, self.now, self.now, connected=True):
            pass

    def step_time(self, seconds: float) -> None:
        self.now += seconds
        self.model.tick(self.now)
        self.state.tick(self.now)

    def read_table_if_due(self) -> bool:
        if self.in_flight or self.state.inventory_in(self.now) > 0:
            return False
        self.read_table()
        return True

    def read_table(self) -> None:
        inventory = self.model.inventory(self.now)
        assert inventory is not None
        for _ in self.state.take_inventory(inventory, self.now, self.now):
            pass

    def send(self, limit: int = 8) -> None:
        while len(self.in_flight) < limit:
            request = self.state.next_request(self.now)
            if request is None:
                return
            self.in_flight.append(request)

    def answer(self, place: int) -> None:
        """Complete one of the requests on their way, and what follows it at once."""
        request: Request | None = self.in_flight.pop(place % len(self.in_flight))
        while request is not None:
            fate = self.faults.pop() if self.faults else Fate.ANSWERED
            if request.kind is Kind.DELETE:
                self.check_delete(request)
                reply = self.model.delete(request.prefix, self.now, fate)
            else:
                assert request.prefix in self.ledger, "an intent comes before its POST"
                reply = self.model.post(request.prefix, request.gateway, self.now, fate)
            outcome = self.outcome(request, reply)
            self.sent[outcome.answer] += 1
            request = self.state.finished(request, outcome, self.now)

    def outcome(self, request: Request, reply: Reply) -> Outcome:
        match reply.status:
            case 200:
                answer = Answer.DELETED if request.kind is Kind.DELETE else Answer.CREATED
            case 404:
                answer = Answer.ABSENT
            case 409:
                answer = Answer.EXISTS
            case 500:
                answer = Answer.UNREACHABLE
            case _:
                answer = Answer.NOT_SENT if reply.words == "cannot connect" else Answer.UNKNOWN
        return Outcome(answer, reply.words, reply.status)

    def check_delete(self, request: Request) -> None:
        first = next((it for it in self.model.kernel(request.prefix) if not it.scope_link), None)
        assert first is None or first.owner is Writer.OURS, f"DELETE {request.prefix} would take {first}"

    def work(self) -> None:
        """Let the daemon do what it can do now, everything answered."""
        for _ in range(50):
            if self.read_table_if_due():
                continue
            self.send()
            if not self.in_flight:
                return
            while self.in_flight:
                self.answer(0)

    def see(self, prefix: Prefix, *, foreign_removed: bool = False) -> None:
        if self.with_witness and self.state.witness_changed(
            prefix, self.now, foreign_removed=foreign_removed
        ):
            self.step_time(0.06)
            self.state.witness_changed(prefix, self.now)

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(prefix=st.sampled_from(PREFIXES), choice=st.integers(0, 3))
    def the_route_changes(self, prefix: Prefix, choice: int) -> None:
        gateways = (*GATEWAYS[prefix.family], REFUSED_GATEWAY)
        if choice == 3 and prefix.family is Family.INET6:
            choice = 0
        self.elected[prefix] = candidate(prefix, gateways[choice])
        self.state.route_changed(prefix, self.now)

    @rule(prefix=st.sampled_from(PREFIXES))
    def the_route_goes(self, prefix: Prefix) -> None:
        self.elected.pop(prefix, None)
        self.state.route_changed(prefix, self.now)

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 2.0, 6.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.step_time(seconds)

    @rule()
    def requests_leave(self) -> None:
        self.send(3)

    @precondition(lambda self: self.in_flight)
    @rule(place=st.integers(0, 7))
    def a_request_is_answered(self, place: int) -> None:
        self.answer(place)
        self.step_time(0.01)

    @rule()
    def the_daemon_works(self) -> None:
        self.work()
        self.step_time(1.0)
        self.work()

    @rule(fates=st.lists(st.sampled_from([Fate.LOST, Fate.DROPPED, Fate.REFUSED, Fate.ANSWERED]), max_size=4))
    def answers_will_be_lost(self, fates: list[Fate]) -> None:
        self.faults += fates

    @rule(
        prefix=st.sampled_from(PREFIXES),
        what=st.sampled_from(["add low", "add high", "replace", "replace by one alike", "delete"]),
    )
    def another_writer_acts(
        self,
        prefix: Prefix,
        what: Literal["add low", "add high", "replace", "replace by one alike", "delete"],
    ) -> None:
        while self.in_flight:
            self.answer(0)
        gateway, ours = FOREIGN_GATEWAYS[prefix.family], OUR_METRIC[prefix.family]
        removed = False
        if what == "add low":
            self.model.foreign_add(prefix, gateway, now=self.now, metric=max(0, ours - 1000))
        elif what == "add high":
            self.model.foreign_add(prefix, gateway, now=self.now, metric=ours + 100)
        elif what == "replace":
            self.model.foreign_replace(prefix, gateway, now=self.now, metric=ours)
        elif what == "replace by one alike":  # of another protocol only
            self.model.foreign_replace(prefix, GATEWAYS[prefix.family][0], now=self.now, metric=ours)
        else:
            theirs = [it for it in self.model.kernel(prefix) if it.owner is Writer.FOREIGN]
            if theirs:
                removed = self.model.foreign_delete(
                    prefix, self.now, metric=theirs[0].metric, gateway=theirs[0].gateways[0]
                )
        self.step_time(0.1)
        self.see(prefix, foreign_removed=removed)
        self.step_time(FRESH_S + 1)
        if prefix.family is Family.INET6 and what == "add low" and not self.with_witness:
            # A table with one row per prefix hides it once our row is the newer one; this is documented.
            self.read_table()

    @rule(prefix=st.sampled_from(PREFIXES))
    def another_writer_deletes_ours(self, prefix: Prefix) -> None:
        while self.in_flight:
            self.answer(0)
        for route in self.model.kernel(prefix):
            if route.owner is Writer.OURS:
                self.model.foreign_delete(prefix, self.now, metric=route.metric, gateway=route.gateways[0])
                break
        self.step_time(0.1)
        self.see(prefix)
        self.step_time(FRESH_S + 1)

    @rule()
    def its_link_flaps(self) -> None:
        """Its kernel loses our routes in silence, and its table goes on showing the IPv4 ones."""
        while self.in_flight:
            self.answer(0)
        before = {route.prefix for route in self.model.kernel_routes(Writer.OURS, Writer.FOREIGN)}
        self.model.link_down(self.now)
        self.step_time(0.5)
        self.model.link_up(self.now)
        for prefix in before:
            self.see(prefix)
        self.step_time(FRESH_S + 1)

    @rule(new_namespace=st.booleans())
    def it_restarts(self, *, new_namespace: bool) -> None:
        self.model.restart(self.now, new_namespace=new_namespace)
        self.handshake()

    @rule()
    def the_daemon_restarts(self) -> None:
        """Answers on their way are lost, and all that is known is in the ledger.

        A stale row is not: else a route that comes up in its place, and looks like ours, would count as ours.
        """
        self.forgotten |= {
            it for it in PREFIXES if not self.model.kernel(it) and self.model.row(it) is not None
        }
        for request in self.in_flight:
            if request.kind is Kind.DELETE:
                self.check_delete(request)
                self.model.delete(request.prefix, self.now, Fate.LOST)
            else:
                self.model.post(request.prefix, request.gateway, self.now, Fate.LOST)
        self.start_daemon()
        self.handshake()

    @precondition(lambda self: self.rests < 3)
    @rule()
    def everything_comes_to_rest(self) -> None:
        """With answers that come, and nobody else at work, the target has what it can have."""
        self.rests += 1
        self.faults.clear()
        while self.in_flight:
            self.answer(0)
        for _ in range(400):
            self.work()
            self.step_time(5.0)
        self.work()
        assert self.state.synced, f"{self.state.waiting} wait: {self.phases()}"
        self.check_rest()

    def phases(self) -> Mapping[Prefix, tuple[Phase, str]]:
        return {prefix: (route.phase, route.error) for prefix, route in self.state.routes.items()}

    def check_rest(self) -> None:
        state = self.state
        for prefix, route in state.routes.items():
            kernel = self.model.kernel(prefix)
            ours = [it for it in kernel if it.owner is Writer.OURS]
            row = self.model.row(prefix)
            foreign = [it for it in kernel if it.owner is not Writer.OURS]
            # another writer's, or one that we may not touch; the witness sees that there is none
            stale = row is not None and not ours and not self.with_witness
            reachable = route.gateway in GATEWAYS[prefix.family][:2]
            blocked = foreign or stale or route.phase is Phase.LEFT_BEHIND
            if route.gateway is not None and reachable and not blocked:
                assert [it.gateways for it in ours] == [(route.gateway,)], (prefix, route.phase, route.error)
            if route.gateway is None:
                assert route.phase is Phase.LEFT_BEHIND, (prefix, route.phase)
            if route.phase is Phase.CONFLICTING:
                assert foreign or stale, (prefix, "nobody else has it", route.error)
            if self.with_witness and route.owned is not None and route.phase is not Phase.LEFT_BEHIND:
                hops = {(hop.gateway, hop.writer) for it in kernel for hop in it.hops}
                assert (route.owned, Writer.OURS) in hops, f"{prefix} is owned ({route.phase}), and gone"
        for mine in self.model.kernel_routes(Writer.OURS):
            known = state.routes.get(mine.prefix)
            assert known is not None, f"{mine} was forgotten"
        for prefix in PREFIXES:
            row = self.model.row(prefix)
            if (
                row is not None
                and prefix not in state.routes
                and prefix not in self.forgotten
                and any(is_ours(row, gateway) for gateway in GATEWAYS[prefix.family])
            ):
                assert self.model.kernel(prefix), (
                    f"the row of {prefix} was ours, and forwards although it is gone"
                )
        there = sum(
            route.gateway is not None
            and any(it.gateways == (route.gateway,) for it in self.model.kernel(prefix))
            for prefix, route in state.routes.items()
            if route.phase in MIRRORED
        )
        if state.complete:
            assert there == state.desired
        family4 = [it for it in self.model.kernel_routes(Writer.OURS) if it.prefix.family is Family.INET]
        assert len(family4) <= LIMITS.max_inet

    # -- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def nobodys_route_was_taken(self) -> None:
        assert not self.model.taken_from_others

    @invariant()
    def its_table_was_read_in_quiet(self) -> None:
        assert not self.model.unsafe_reads

    @invariant()
    def what_is_ours_is_in_the_ledger(self) -> None:
        for route in self.model.kernel_routes(Writer.OURS):
            assert route.prefix in self.ledger, f"{route} is not in the ledger"

    @invariant()
    def the_rate_limit_holds(self) -> None:
        changes = self.sent[Answer.CREATED] + self.sent[Answer.DELETED] + self.sent[Answer.UNKNOWN]
        assert changes <= LIMITS.rate * (self.now - self.began) + LIMITS.burst + 3

    @invariant()
    def phases_add_up(self) -> None:
        state = self.state
        known = len(state.routes) + len(state.ineligible) + state.over_capacity
        assert sum(state.all_phases().values()) == known
        assert state.phases == Counter(route.phase for route in state.routes.values())
        assert state.desired == sum(route.gateway is not None for route in state.routes.values())
        for family in Family:
            using = sum(
                route.owned is not None or route.phase in {Phase.PENDING, Phase.UNJUDGED}
                for prefix, route in state.routes.items()
                if prefix.family is family
            )
            assert state.occupied[family] == using

    @invariant()
    def subscribers_know_what_the_state_knows(self) -> None:
        published = {
            prefix: route.published
            for prefix, route in self.state.routes.items()
            if route.published is not None
        }
        assert self.report.table == published

    @invariant()
    def synced_means_that_nothing_waits(self) -> None:
        state = self.state
        if state.synced:
            assert not self.in_flight
            assert not state.unproved
            assert not state.phases[Phase.UNJUDGED]
            assert not state.phases[Phase.WITHDRAWING]
            for prefix, route in state.routes.items():
                assert route.phase is not Phase.PENDING, (prefix, "is pending")
        if state.complete:
            assert state.desired == sum(state.phases[phase] for phase in MIRRORED)
            assert not state.phases[Phase.LEFT_BEHIND]


class MirroringWithWitness(Mirroring):
    """The same, with the kernel beneath loxilb read directly."""

    with_witness = True


PROFILE = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=(Step.explicit, Step.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
"""Some 15,000 steps, the same each time; `make fuzz` takes new ones, and more."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("machine", [Mirroring, MirroringWithWitness])
def test_whatever_happens_nobodys_route_is_taken_and_ours_come_to_be(
    machine: type[Mirroring], request: pytest.FixtureRequest
) -> None:
    profile = request.config.getoption("--hypothesis-profile")
    run_state_machine_as_test(machine, settings=None if profile else PROFILE)
