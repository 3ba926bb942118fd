"""Each check says what is wrong, why, and what to do; and nothing when all is well."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from routesync.config.resolve import Unresolved
from routesync.control.client import NotAllowed, NotRunning, NotUnderstood
from routesync.control.models import ActiveConfig, StatusResponse
from routesync.doctor import CHECKS, Facts, Finding, Level, diagnose, worst
from routesync.doctor.facts import NOT_CHECKED, BrokerFacts, DaemonFacts, LocalLoxilb, TargetFacts, UnitFacts
from routesync.events.node_status import TargetStatus
from routesync.kernel import Sysctls
from routesync.loxilb.schema import Port
from support.doctor_facts import answer, configuration, dump, healthy, route

ROOT = Path(__file__).parents[3]
TARGET = '[[targets]]\nname = "lb"\nurl = "http://192.0.2.1:11111"\n'
OURS = (Port("ens3", 2, "52:54:00:00:00:01"),)
THEIRS = (Port("ens3", 7, "52:54:00:00:00:09"),)
ROOMY = f"{TARGET}max_routes_ipv4 = 40000\n"
RULE = '[[policy.rules]]\nname = "{}"\nmatch = {{ protocol = "static" }}\naction = "drop"\n'
ODD = TARGET + RULE.format("first") + RULE.format("unused")
GUARD_NEEDS = TARGET + '[targets.witness]\nnetns = "lb"\n'
Change = Callable[[Facts], Facts]


def target(**facts: object) -> Change:
    return lambda it: it._replace(targets=(TargetFacts("lb", "http://192.0.2.1:11111")._replace(**facts),))  # type: ignore[arg-type]


def broker(**facts: object) -> Change:
    return lambda it: it._replace(broker=BrokerFacts("b:1883")._replace(**facts))  # type: ignore[arg-type]


def state(**facts: object) -> Change:
    return lambda it: it._replace(state=it.state._replace(**facts))  # type: ignore[arg-type]


def daemon(reported: StatusResponse) -> Change:
    """It reports this, and runs with the file that doctor reads."""

    def change(it: Facts) -> Facts:
        active = ActiveConfig(path=str(it.config.path), digest=it.config.loaded.digest)
        return it._replace(daemon=it.daemon._replace(answer=reported.model_copy(update={"config": active})))

    return change


def not_running(**facts: object) -> Change:
    unit = UnitFacts("failed", "failed", "exit-code", 1, 0, "", "routesync")._replace(**facts)  # type: ignore[arg-type]
    return lambda it: it._replace(daemon=DaemonFacts(running=False), unit=unit)


def kernel(**facts: object) -> Change:
    return lambda it: it._replace(kernel=it.kernel._replace(**facts))  # type: ignore[arg-type]


TROUBLES: dict[str, tuple[Change, str, Level, str]] = {
    "an old kernel": (kernel(release="4.19.0"), "kernel", Level.FAIL, "5.3"),
    "no netlink": (kernel(dump=None, error="no socket"), "kernel", Level.FAIL, "no socket"),
    "a small buffer": (kernel(buffer_max=212992), "receive-buffer", Level.WARN, "rmem_max"),
    "no daemon": (
        lambda it: it._replace(daemon=DaemonFacts(running=False)),
        "daemon",
        Level.WARN,
        "no daemon",
    ),
    "a hidden daemon": (
        lambda it: it._replace(daemon=DaemonFacts(running=None)),
        "daemon",
        Level.WARN,
        "root",
    ),
    "an old systemd": (lambda it: it._replace(systemd=245), "daemon", Level.WARN, "LoadCredential"),
    "an unreachable target": (target(error="refused"), "target", Level.FAIL, "refused"),
    "a certificate of an unknown authority": (
        target(error="certificate not accepted: self-signed certificate"),
        "target",
        Level.FAIL,
        "ca_file",
    ),
    "https where there is none": (
        target(url="https://192.0.2.1:11111", error="wrong version number"),
        "target",
        Level.FAIL,
        "port 8091",
    ),
    "http where there is TLS": (
        target(error="HTTP 400: Client sent an HTTP request to an HTTPS server."),
        "target",
        Level.FAIL,
        "write https://",
    ),
    "a wrong token": (target(error="no", denied=True), "target", Level.FAIL, "token_file"),
    "a loxilb with the bug": (target(version="0.9.1"), "target", Level.FAIL, "0.9.8"),
    "an old loxilb": (target(version="before 0.9.8"), "target", Level.WARN, "0.9.2"),
    "a nameless loxilb": (target(version="main"), "target", Level.WARN, "main"),
    "a shared namespace": (target(ports=OURS), "shared-namespace", Level.WARN, "observe"),
    "a starting loxilb": (target(ports=()), "shared-namespace", Level.WARN, "no ports yet"),
    "a hidden loxilb": (
        lambda it: it._replace(local=(LocalLoxilb(7, shares_namespace=None),)),
        "shared-namespace",
        Level.WARN,
        "root",
    ),
    "no broker": (broker(trouble="b:1883: refused", publish="unknown"), "broker", Level.FAIL, "refused"),
    "a denial": (
        broker(publish="denied", denial="Not authorized"),
        "broker",
        Level.FAIL,
        "Not authorized",
    ),
    "no echo": (broker(publish="not-back"), "broker", Level.WARN, "3.1.1"),
    "a namesake": (broker(publish="other-node", status="online"), "broker", Level.WARN, "name"),
    "a degraded daemon": (daemon(answer("target lb: refused")), "daemon", Level.WARN, "target lb: refused"),
    "a daemon that hangs": (
        lambda it: it._replace(daemon=it.daemon._replace(error=NotUnderstood("no response in time"))),
        "daemon",
        Level.FAIL,
        "no response in time",
    ),
    "a daemon that a signal has stopped": (
        lambda it: it._replace(daemon=it.daemon._replace(stopped=True, error=NotUnderstood("no response"))),
        "daemon",
        Level.FAIL,
        "kill -CONT 17",
    ),
    "a daemon without its socket": (
        lambda it: it._replace(
            daemon=it.daemon._replace(error=NotRunning(Path("/run/x"), "there is no /run/x"))
        ),
        "daemon",
        Level.WARN,
        "there is no /run/x",
    ),
    "a refused configuration": (not_running(status=78), "daemon", Level.FAIL, "refused its configuration"),
    "a credential that is missing": (
        not_running(status=243, restarts=7, missing=("/etc/routesync/token",)),
        "daemon",
        Level.FAIL,
        "/etc/routesync/token missing",
    ),
    "a hang that systemd ended": (
        not_running(result="watchdog", restarts=3),
        "daemon",
        Level.FAIL,
        "3 times in a row",
    ),
    "a daemon that fails at its start": (not_running(), "daemon", Level.FAIL, "exit-code, status 1"),
    "a file that changed since": (
        lambda it: it._replace(
            daemon=it.daemon._replace(
                answer=answer(active=ActiveConfig(path=str(it.config.path), digest="another"))
            )
        ),
        "config",
        Level.WARN,
        "routesync reload",
    ),
    "another file than the daemon's": (
        lambda it: it._replace(daemon=it.daemon._replace(answer=answer())),
        "config",
        Level.WARN,
        "The daemon runs with /etc/routesync/routesync.toml",
    ),
    "a file that may not be read": (
        lambda it: it._replace(config=it.config._replace(state="unreadable")),
        "config",
        Level.WARN,
        "run doctor as root",
    ),
    "a small buffer of the daemon": (
        daemon(answer(receive_buffer=425984)),
        "receive-buffer",
        Level.WARN,
        "425,984",
    ),
    "too many routes for loxilb": (
        lambda it: it._replace(config=configuration(it.config.path.parent, ROOMY)),
        "capacity",
        Level.WARN,
        "eBPF",
    ),
    "an invalid configuration": (
        lambda it: it._replace(
            config=it.config._replace(state="invalid", problems=("c.toml:3: unknown key",))
        ),
        "config",
        Level.FAIL,
        "c.toml:3: unknown key",
    ),
    "no configuration": (
        lambda it: it._replace(config=it.config._replace(state="absent")),
        "config",
        Level.WARN,
        "routesync.toml` writes one",
    ),
    "a damaged outbox": (
        lambda it: state(outbox=it.state.outbox._replace(error="it is damaged"))(it),
        "outbox",
        Level.WARN,
        "new epoch",
    ),
    "an outbox of another user": (
        lambda it: state(outbox=it.state.outbox._replace(owner="root", writable=False))(it),
        "outbox",
        Level.FAIL,
        "chown routesync",
    ),
    "a configuration with a warning": (
        lambda it: it._replace(config=configuration(it.config.path.parent, ODD)),
        "config",
        Level.WARN,
        "unused",
    ),
    "no right to write": (state(writable=False), "state-directory", Level.FAIL, "chmod"),
    "a read-only disk": (state(read_only=True), "state-directory", Level.FAIL, "read-only"),
    "a full disk": (state(free_bytes=10), "state-directory", Level.WARN, "room"),
    "routes left behind": (state(owned={"old": 3}), "orphans", Level.WARN, "withdraw --target old"),
    "a full target": (
        lambda it: it._replace(desired={("lb", "ipv4"): 30_001}),
        "capacity",
        Level.FAIL,
        "1 of them",
    ),
    "a nearly full target": (
        lambda it: it._replace(desired={("lb", "ipv6"): 7_900}),
        "capacity",
        Level.WARN,
        "nine tenths",
    ),
}


def said(finding: Finding) -> str:
    return " ".join((finding.summary, finding.why, *finding.remedy))


@pytest.mark.parametrize(("change", "check", "level", "words"), TROUBLES.values(), ids=TROUBLES)
def test_a_trouble_is_found_explained_and_given_a_remedy(
    tmp_path: Path, change: Change, check: str, level: Level, words: str
) -> None:
    facts = change(healthy(tmp_path, TARGET + '[mqtt]\nhost = "b"\n'))
    bad = [it for it in diagnose(facts) if it.level > Level.OK and it._replace(check="") != NOT_CHECKED]
    assert [(finding.check, finding.level) for finding in bad] == [(check, level)]
    assert words in said(bad[0])
    assert bad[0].why or bad[0].remedy


@pytest.mark.parametrize("state", ["invalid", "unreadable"])
def test_nothing_is_said_of_what_only_an_unusable_file_would_tell(
    tmp_path: Path, state: Literal["invalid", "unreadable"]
) -> None:
    facts = healthy(tmp_path)._replace(desired={("lb", "ipv4"): 30_001})
    gateway = facts._replace(kernel=facts.kernel._replace(dump=dump(route("192.168.10.1/32"))))
    found = diagnose(gateway._replace(config=gateway.config._replace(state=state)))
    unchecked = [it.check for it in found if it._replace(check="") == NOT_CHECKED]
    assert unchecked == ["capabilities", "target", "capacity", "broker", "orphans", "outbox"]
    (host_route,) = [it for it in found if it.check == "dhcp-host-routes"]
    assert "whether the rules of this host do is not known" in host_route.why
    answered = daemon(answer(broker="connected"))(
        gateway._replace(config=gateway.config._replace(state=state))
    )
    (broker,) = [it for it in diagnose(answered) if it.check == "broker"]
    assert broker.level is Level.OK, "the daemon knows"


def test_routes_in_addresses_of_a_name_that_does_not_resolve_are_not_called_orphans(tmp_path: Path) -> None:
    owned = {"pods-192.0.2.20": 1500, "pods-2001-db8--1": 7, "other-192.0.2.9": 3, "pods-west": 4}
    facts = state(owned=owned)(healthy(tmp_path))
    unresolved = (Unresolved("pods", "pods.example", "Name or service not known", kept=False),)
    found = diagnose(facts._replace(config=facts.config._replace(unresolved=unresolved)))
    (named,) = [it for it in found if it.check == "target"]
    assert (named.level, named.subject) == (Level.WARN, "pods")
    assert named.summary == "pods was not checked: pods.example does not resolve: Name or service not known"
    assert [it.subject for it in found if it.check == "orphans"] == ["other-192.0.2.9", "pods-west"]
    alone = state(owned={"pods-192.0.2.20": 1500})(facts)
    (one,) = [
        it
        for it in diagnose(alone._replace(config=alone.config._replace(unresolved=unresolved)))
        if it.check == "orphans"
    ]
    assert (one.level, "does not resolve" in one.summary) == (Level.OK, True)


def test_a_target_that_the_daemon_has_is_no_orphan(tmp_path: Path) -> None:
    facts = state(owned={"pods-192.0.2.20": 1500})(healthy(tmp_path))
    assert [it.level for it in diagnose(facts) if it.check == "orphans"] == [Level.WARN]
    known = TargetStatus(name="pods-192.0.2.20", url="http://192.0.2.20:11111", state="synced")
    reported = daemon(answer(targets=(known,)))(facts)
    assert [it.level for it in diagnose(reported) if it.check == "orphans"] == [Level.OK]


def test_nothing_is_wrong_where_all_is_well(tmp_path: Path) -> None:
    facts = target(version="0.9.8.8", ports=THEIRS)(healthy(tmp_path, TARGET + '[mqtt]\nhost = "b"\n'))
    findings = diagnose(broker(publish="accepted")(facts))
    assert worst(findings) is Level.OK
    assert {finding.check for finding in findings} == CHECKS.keys(), "each check says something"


def test_what_the_daemon_reports_of_its_broker_is_not_tried_again(tmp_path: Path) -> None:
    facts = healthy(tmp_path, '[mqtt]\nhost = "b"\n')

    def of(*reasons: str, broker: str | None) -> tuple[Level, str]:
        reported = daemon(answer(*reasons, broker=broker))(facts)
        (finding,) = [it for it in diagnose(reported) if it.check == "broker"]
        return finding.level, finding.summary

    assert of(broker="connected")[0] is Level.OK
    assert of(broker=None)[0] is Level.OK
    assert of("broker: b:1883: refused", broker="b:1883: refused") == (
        Level.FAIL,
        "the daemon is not connected: b:1883: refused",
    )
    refused = daemon(answer("broker: b:1883: refused", broker="b:1883: refused"))(facts)
    assert [it.check for it in diagnose(refused) if it.level > Level.OK] == ["broker"], "it is reported once"
    level, summary = of("broker: the broker denies publishing to status", broker="connected")
    assert level is Level.FAIL
    assert "denies publishing" in summary


def test_an_outbox_more_than_half_full_is_a_warning_while_no_daemon_runs(tmp_path: Path) -> None:
    facts = healthy(tmp_path, '[mqtt]\nhost = "b"\n[events]\noutbox_events = 1000\n')
    stopped = state(outbox_events=501)(facts._replace(daemon=DaemonFacts(running=False)))
    (finding,) = [it for it in diagnose(stopped) if it.check == "outbox"]
    assert finding.level is Level.WARN
    assert "501 events waiting" in finding.summary


def test_a_daemon_that_may_not_be_asked_is_no_fault(tmp_path: Path) -> None:
    facts = healthy(tmp_path)
    unasked = facts._replace(daemon=facts.daemon._replace(error=NotAllowed("permission denied")))
    (finding,) = [it for it in diagnose(unasked) if it.check == "daemon"]
    assert finding.level is Level.OK
    assert "permission denied" in finding.why


def test_a_daemon_that_was_stopped_in_order_is_a_warning(tmp_path: Path) -> None:
    facts = not_running(active="inactive", result="success", status=0)(healthy(tmp_path))
    (finding,) = [it for it in diagnose(facts) if it.check == "daemon"]
    assert (finding.level, finding.remedy[0]) == (Level.WARN, "systemctl start routesync")


def test_the_buffer_is_the_one_that_the_daemon_reports(tmp_path: Path) -> None:
    facts = daemon(answer(receive_buffer=2**28))(kernel(buffer_max=212992)(healthy(tmp_path)))
    (finding,) = [it for it in diagnose(facts) if it.check == "receive-buffer"]
    assert (finding.level, finding.summary.split()[0]) == (Level.OK, f"{2**28:,}")


@pytest.mark.parametrize(
    ("error", "words"),
    [("the file is damaged", "adopt"), ("cannot be read: Permission denied", "Permission denied")],
)
def test_a_ledger_that_cannot_be_used_is_a_failure(tmp_path: Path, error: str, words: str) -> None:
    facts = healthy(tmp_path)
    broken = state(ledger=facts.state.ledger._replace(error=error))(facts)
    (bad,) = [finding for finding in diagnose(broken) if finding.level > Level.OK]
    assert (bad.check, bad.level) == ("ledger", Level.FAIL)
    assert words in said(bad)


def test_a_ledger_that_was_put_aside_is_a_warning(tmp_path: Path) -> None:
    aside = tmp_path / "ledger.sqlite.damaged-1"
    (bad,) = [
        each for each in diagnose(state(ledger_aside=aside)(healthy(tmp_path))) if each.level > Level.OK
    ]
    assert (bad.check, bad.level) == ("ledger", Level.WARN)
    assert f"delete {aside}" in said(bad)


def test_a_ledger_of_another_user_is_a_failure(tmp_path: Path) -> None:
    facts = healthy(tmp_path)
    roots = state(ledger=facts.state.ledger._replace(owner="root", writable=False))(facts)
    (bad,) = [finding for finding in diagnose(roots) if finding.level > Level.OK]
    assert "chown routesync" in said(bad)


@pytest.mark.parametrize(
    ("daemon", "own", "level"),
    [
        (DaemonFacts(running=True, pid=1, capabilities=0), 0, Level.FAIL),
        (DaemonFacts(running=True, pid=1, capabilities=1 << 21), 0, Level.OK),
        (DaemonFacts(running=True, pid=1, capabilities=1 << 12), 1 << 21, Level.FAIL),
        (DaemonFacts(running=False), 0, Level.WARN),
        (DaemonFacts(running=False), 1 << 21, Level.OK),
    ],
)
def test_a_setting_that_needs_a_capability_is_held_against_the_daemons_own(
    tmp_path: Path, daemon: DaemonFacts, own: int, level: Level
) -> None:
    facts = healthy(tmp_path)._replace(
        config=configuration(tmp_path, GUARD_NEEDS), daemon=daemon, own_capabilities=own
    )
    (finding,) = [it for it in diagnose(facts) if it.check == "capabilities"]
    assert finding.level is level
    assert "CAP_SYS_ADMIN" in said(finding)


def test_the_remedy_for_a_capability_is_a_setting_that_every_host_can_write(tmp_path: Path) -> None:
    daemon = DaemonFacts(running=True, pid=1, capabilities=0)
    config = configuration(tmp_path, 'mode = "guard"\n' + TARGET + '[targets.witness]\nnetns = "lb"\n')
    found = diagnose(healthy(tmp_path)._replace(config=config, daemon=daemon))
    steps = [it.remedy[0] for it in found if it.check == "capabilities"]
    for step, name in zip(steps, ("CAP_NET_ADMIN", "CAP_SYS_ADMIN"), strict=True):
        assert f"AmbientCapabilities={name} CapabilityBoundingSet={name} PrivateUsers=no" in step


def test_the_buffer_of_a_daemon_with_the_capability_is_not_capped(tmp_path: Path) -> None:
    facts = kernel(buffer_max=212992)(healthy(tmp_path))
    privileged = facts._replace(daemon=DaemonFacts(running=True, pid=1, capabilities=1 << 12))
    assert worst([it for it in diagnose(privileged) if it.check == "receive-buffer"]) is Level.OK
    with_unit = kernel(socket_unit=True)(facts)
    assert worst([it for it in diagnose(with_unit) if it.check == "receive-buffer"]) is Level.OK


def test_the_switches_are_explained_where_they_are_not_the_defaults(tmp_path: Path) -> None:
    switches = Sysctls(skip_notify_on_dev_down=True, nexthop_compat_mode=False)
    facts = kernel(dump=dump(route("10.0.0.0/8"))._replace(sysctls=switches))(healthy(tmp_path))
    (finding,) = [it for it in diagnose(facts) if it.check == "kernel"]
    assert "does not announce" in finding.why
    assert "nexthop object" in finding.why


def test_the_documentation_lists_every_check() -> None:
    text = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == list(CHECKS)
