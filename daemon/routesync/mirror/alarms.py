"""The alarms of one target, computed from the state of its routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from routesync.characters import many
from routesync.events.models import AlarmKind
from routesync.events.peers import GonePeer
from routesync.mirror.eligibility import Reason
from routesync.mirror.reporting import Alarm
from routesync.mirror.state import MirrorState, Phase
from routesync.route import Family, Prefix

OVERDUE_S: Final = 300.0
"""Work that has waited longer than this, neither for a time of its own nor for an operator, is worth an alarm."""
FEW_SHARE: Final = 0.1
FEW_ROUTES: Final = 20
"""Fewer than this share of at least so many kept routes can be mirrored: something is not configured right."""
NAMED: Final = 3
"""So many prefixes are named in an alarm."""


def current_alarms(
    name: str,
    state: MirrorState,
    error: str | None,
    oldest_s: float,
    now: float,
    *,
    beside: Mapping[Prefix, int],
    gone: Sequence[GonePeer] = (),
) -> dict[AlarmKind, Alarm]:
    """The conditions that an operator should know about, as they are now.

    Args:
        name: of the target.
        state: its routes.
        error: why nothing is sent, if that is known.
        oldest_s: how long the longest waiting work has waited.
        now: monotonic seconds.
        gone: other nodes that mirrored into it and are gone.
        beside: routes refused as nearly a default, each with how many routes over the same hop are mirrored.
    """
    alarms: dict[AlarmKind, Alarm] = {}
    if oldest_s > OVERDUE_S:
        why = f": {error}" if error else ""
        # in minutes: `status` has this text, and is published when it changes
        alarms["overdue"] = Alarm(f"work has waited for {oldest_s // 60:.0f} min{why}", state.waiting)
    if held := state.withdrawal_limit.held:
        alarms["withdrawals-held"] = _about(
            held,
            f"a mass withdrawal of {len(held)} of {many(state.owning, 'route')} is held back until a second "
            f"dump of the kernel confirms it, or `routesync release --target {name}`",
        )
    if held_at_start := state.held_at_start(now):
        alarms["startup-hold"] = Alarm(
            f"{many(held_at_start, 'route')} of a previous run not in the kernel: left in place for startup_hold_s",
            held_at_start,
        )
    full = {family: len(over) for family, over in state.over.items() if over}
    if full:
        words = ", ".join(
            f"no room for {many(count, f'{family.label} route')} ({_limit_key(family)} = "
            f"{state.limits.capacity(family)})"
            for family, count in full.items()
        )
        alarms["target-full"] = Alarm(f"the target is full: {words}", sum(full.values()))
    if state.repairs.contended:
        again = [prefix for prefix, loss in state.repairs.losses.items() if loss.times > 1]
        alarms["contended"] = _about(
            again,
            f"something deletes our routes: {len(again)} were lost again within 10 minutes, repairs are slowed down to "
            f"{state.repairs.rate:g}/s; find what removes static routes in loxilb's network namespace",
        )
    about_phases: tuple[tuple[AlarmKind, Phase, str], ...] = (
        (
            "left-behind",
            Phase.LEFT_BEHIND,
            (
                "routes of ours left behind: {count} ({names}). Nothing proves that a DELETE would remove them and "
                f"no other; `routesync adopt --target {name} PREFIX` removes them by your word, `forget` gives them up"
            ),
        ),
        (
            "not-forwarded",
            Phase.NOT_FORWARDED,
            (
                "routes in loxilb's kernel that its table lacks, so it may not forward them: {count} ({names}); "
                f"another route to the prefix came and went; `routesync repair --target {name} PREFIX` adds them again"
            ),
        ),
    )
    for kind, phase, text in about_phases:
        if state.phases[phase]:
            prefixes = (prefix for prefix, route in state.routes.items() if route.phase is phase)
            alarms[kind] = _about(prefixes, text, state.phases[phase])
    if state.foreign_not_forwarded:
        alarms["foreign-not-forwarded"] = _about(
            state.foreign_not_forwarded,
            "another writer's routes are in loxilb's kernel and, since ours was removed, perhaps not in its table "
            "({names}): have their owner add them again",
        )
    if state.suspects:
        alarms["return-path"] = _about(
            state.suspects,
            "the target fell silent when {names} was posted, which contains the address we speak from; it is not sent "
            f"again until `routesync resync --target {name} --force`",
        )
    if state.inventory.unreadable:
        alarms["inventory-unreadable"] = Alarm(
            f"rows of its table that cannot be read: {state.inventory.unreadable} (the first: "
            f"{state.inventory.first_unreadable}); routes to these prefixes are not compared",
            state.inventory.unreadable,
        )
    if beside:
        alarms["nearly-default"] = _about(
            beside,
            f"{{names}} are refused as nearly a default, while {max(beside.values())} routes over the same hop are "
            "mirrored: part of what that hop carries goes another way at the target; lower `min_prefix_length` or drop "
            "the others by a rule",
        )
    if gone:
        words = "; ".join(_describe_peer(peer) for peer in gone[:NAMED])
        alarms["peer-gone"] = Alarm(
            f"{words}; what it left in this loxilb attracts traffic for ever: if that router is down, "
            f"`routesync takeover --node {gone[0].node} --target {name}` removes it",
            sum(peer.routes or 0 for peer in gone),
        )
    if (nothing := _nothing_mirrored(state)) is not None:
        alarms["nothing-mirrored"] = nothing
    return alarms


def _describe_peer(peer: GonePeer) -> str:
    since = f" since {peer.since:%Y-%m-%d %H:%M:%S} UTC" if peer.since else ""
    routes = "an unknown number of routes" if peer.routes is None else many(peer.routes, "route")
    return f"node {peer.node} is {peer.state}{since}; its last published table has {routes}"


def _nothing_mirrored(state: MirrorState) -> Alarm | None:
    ineligible = state.ineligible
    desired = state.desired + state.over_capacity
    if not ineligible or state.reasons[Reason.TARGET_UNKNOWN]:
        return None
    kept = desired + len(ineligible)
    if desired and (kept < FEW_ROUTES or desired >= FEW_SHARE * kept):
        return None
    reason, count = state.reasons.most_common(1)[0]
    example = next(evaluation for evaluation in ineligible.values() if evaluation.reason is reason)
    return Alarm(
        f"the rules keep {many(kept, 'route')}, and {desired or 'none'} can be mirrored; {reason.value}: {count}: "
        f"{example.detail}",
        len(ineligible),
    )


def _about(prefixes: Iterable[Prefix], text: str, count: int | None = None) -> Alarm:
    """An alarm about prefixes; `{names}` and `{count}` in its text are the first of them, and how many there are."""
    if count is None:
        prefixes = tuple(prefixes)
        count = len(prefixes)
    first = tuple(str(prefix) for prefix in islice(prefixes, NAMED))
    names = ", ".join(first) + (", …" if count > NAMED else "")
    return Alarm(text.replace("{names}", names).replace("{count}", str(count)), count, first)


def _limit_key(family: Family) -> str:
    return f"max_routes_{family.label}"
