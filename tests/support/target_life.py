"""The routes of one target, whose life a test plays: requests answered by hand, tables read by hand, its own clock."""

from __future__ import annotations

from dataclasses import dataclass

from routesync.best_routes import OwnNode
from routesync.events.models import Event
from routesync.loxilb.schema import Inventory, InventoryRow
from routesync.mirror.eligibility import Desired, Evaluation, Ineligible
from routesync.mirror.ledger import Row
from routesync.mirror.limits import Limits
from routesync.mirror.reporting import Reporter
from routesync.mirror.state import Answer, Kind, MirrorState, Outcome, Phase, Request
from routesync.route import Address, Prefix, parse_address
from support.event_sink import Events

P4, P6, D4, D6 = map(Prefix.parse, ("10.1.0.0/16", "fd01::/48", "0.0.0.0/0", "::/0"))
OURS = {4: parse_address("192.168.10.1"), 16: parse_address("fd00:10::1")}
OTHER = {4: parse_address("192.168.10.2"), 16: parse_address("fd00:10::2")}
THEIRS = {4: parse_address("192.168.10.9"), 16: parse_address("fd00:10::9")}


@dataclass
class Witness:
    """The kernel beneath the target: it has our route alone, with another behind or before it, another, or nothing."""

    has: str = "ours"
    ready: bool = True

    def holds(self, prefix: Prefix, gateway: Address) -> bool:
        return gateway == OURS[len(prefix.packed)] and "ours" in self.has

    def others(self, prefix: Prefix, gateway: Address) -> bool:
        del prefix, gateway
        return "another" in self.has

    def shows(self, prefix: Prefix, gateway: Address) -> bool:
        return self.holds(prefix, gateway) and self.has.startswith("ours")

    def only_ours(self, prefix: Prefix, gateway: Address) -> bool:
        return self.holds(prefix, gateway) and not self.others(prefix, gateway)


class Life:
    """A target of which nothing else is known than what a test says."""

    def __init__(self, witness: Witness | None = None, limits: Limits | None = None) -> None:
        self.now = 1000.0
        self.events = Events()
        self.report = Reporter("lb", self.events, OwnNode())
        self.ledger: dict[Prefix, Row] = {}
        self.gateways: dict[Prefix, Address] = {}
        self.refused: dict[Prefix, Ineligible] = {}
        self.sent: dict[
            Prefix, Address | None
        ] = {}  # the gateway already sent, as the last evaluation had it
        self.beside = False
        self.resyncs = 0
        self.state = MirrorState(
            limits or Limits(),
            self.now,
            evaluate=self._evaluate,
            contains_our_end=lambda prefix: prefix == D4,
            note=self._note,
            report=self.report,
            request_resync=self._count_resync,
            witness=witness,
        )
        self.connect()

    def _evaluate(self, prefix: Prefix, sent: Address | None) -> Evaluation | None:
        self.sent[prefix] = sent
        if (gateway := self.gateways.get(prefix)) is None:
            return None
        return self.refused.get(prefix) or Desired(gateway, "rule", beside=self.beside)

    def _note(self, prefix: Prefix, row: Row | None) -> None:
        if row is None:
            self.ledger.pop(prefix, None)
        else:
            self.ledger[prefix] = row

    def _count_resync(self) -> None:
        self.resyncs += 1

    def connect(self) -> None:
        self.state.connected(self.now)
        self.state.one_at_a_time = False
        self.read(connected=True)

    def want(self, prefix: Prefix, gateway: Address | None, kernel_changed_at: float | None = None) -> None:
        if gateway is None:
            self.gateways.pop(prefix, None)
        else:
            self.gateways[prefix] = gateway
        self.state.route_changed(prefix, self.now, kernel_changed_at)

    def next(self, after_s: float = 2.0) -> Request | None:
        self.now += after_s
        return self.state.next_request(self.now)

    def send(self, kind: Kind, prefix: Prefix, answer: Answer, after_s: float = 2.0) -> Request | None:
        """Expect this request, and answer it; return what follows at once."""
        request = self.next(after_s)
        assert request is not None, f"{kind} {prefix} is not sent: {self.phase(prefix)}"
        assert (request.kind, request.prefix) == (kind, prefix)
        return self.answer(request, answer)

    def answer(self, request: Request, answer: Answer) -> Request | None:
        """Answer a request, in words that name the answer; return what follows at once."""
        return self.state.finished(request, Outcome(answer, answer.name.lower(), 0), self.now)

    def follow(self, request: Request | None, *answers: Answer) -> list[Kind]:
        """Answer a request and those that follow it at once; return what they were."""
        kinds: list[Kind] = []
        for answer in answers:
            assert request is not None, f"nothing follows {kinds}"
            kinds.append(request.kind)
            request = self.answer(request, answer)
        assert request is None, f"{request} follows {kinds}"
        return kinds

    def read(self, rows: dict[Prefix, tuple[Address, str]] | None = None, *, connected: bool = False) -> None:
        """Read this table, in quiet."""
        self.now += 3
        found = {
            prefix: InventoryRow((gateway,), frozenset({"Ind"}), protocol)
            for prefix, (gateway, protocol) in (rows or {}).items()
        }
        for _slice in self.state.take_inventory(Inventory(found, 0), self.now, self.now, connected=connected):
            pass

    def added(self, prefix: Prefix) -> None:
        """Bring our route to the target, and have the table show it."""
        ours = OURS[len(prefix.packed)]
        self.want(prefix, ours)
        assert self.send(Kind.ADD, prefix, Answer.CREATED) is None
        self.read({prefix: (ours, "static")})
        assert self.phase(prefix) is Phase.CONFIRMED

    def phase(self, prefix: Prefix) -> Phase | None:
        route = self.state.routes.get(prefix)
        return route.phase if route is not None else None

    def named(self) -> list[str]:
        return [f"{event.group}/{event.name}" for event in self.events.seen]

    def last(self) -> Event:
        """The event that was reported last."""
        return self.events.seen[-1]
