"""Gathers the facts. Reads files, /proc and the kernel; asks the daemon first, then targets and the broker.

Targets are asked for version and ports, never for their table: reading it can crash a loxilb. The only thing that is
ever written is one message to the broker, and that only while no daemon runs (see `ask_broker`).
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aiomqtt

from routesync.characters import whole
from routesync.config import ConfigError, Loaded, load, shipped_configuration
from routesync.config.models import KernelSettings, MqttSettings, Settings, TargetSettings
from routesync.config.parsers import SettingError
from routesync.config.resolve import look_up_and_resolve
from routesync.config.sources import Reader, digest_now, read_named
from routesync.control.models import StatusResponse
from routesync.control.plan import TargetInput, choose, evaluator, plan_targets
from routesync.doctor.daemon import (
    ask_daemon,
    find_daemon,
    process_status,
    read_state,
    read_unit,
    systemd_version,
)
from routesync.doctor.facts import (
    BrokerFacts,
    ConfigFacts,
    DaemonFacts,
    DhcpFacts,
    Facts,
    KernelFacts,
    LocalLoxilb,
    NetworkdLink,
    TargetFacts,
)
from routesync.events.fleet import NodeState, summarize
from routesync.events.hub import EventHub
from routesync.events.mqtt_client import (
    MqttConnection,
    Publication,
    Refusal,
    SubscriptionDeniedError,
    explain,
)
from routesync.events.node_status import offline
from routesync.events.reader import ReceivedMessage, read
from routesync.events.retained import encode_status
from routesync.files import read_file
from routesync.kernel import KernelError, TableDump, dump_tables_sync, open_route_socket
from routesync.kernel.netlink import widen_receive_buffer
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import AccessDenied, LoxilbError
from routesync.mirror.eligibility import Desired, TargetRules
from routesync.mirror.status import TargetState

CLIENTS: Final = ("systemd-network", "NetworkManager", "dhcpcd", "dhclient", "udhcpc")
"""DHCP clients, by their names as the kernel keeps them (the first 15 characters, proc(5))."""
RETAINED_WITHIN_S: Final = 1.0
"""A retained message follows the subscription at once; after this time there is none."""
_ADDRESS_KEYS: Final = ("ROUTER", "DNS", "NTP", "SIP")
_UNITS: Final = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_LOCAL_URL: Final = "http://127.0.0.1:11111"
_CREDENTIALS: Final = Path("/run/credentials/routesync.service")
"""Where systemd has the credentials of the service while it runs."""


def gather(config: Path | None, usual: Path, state: Path, *, contact: bool, root: Path = Path("/")) -> Facts:
    """Find out what the checks use.

    Args:
        config: the configuration file; need not exist. None: the one that the daemon runs with.
        usual: the configuration file where no daemon answers.
        state: the state directory; need not exist.
        contact: whether targets and broker may be asked.
        root: where /run and /etc are looked for.
    """
    daemon, unit = ask_daemon(find_daemon(state)), read_unit()
    read = read_file if config is None else read_named
    if config is None:
        config = Path(daemon.answer.config.path) if daemon.answer else usual
    config = config.absolute()
    found = read_config(config, unit.credentials if unit else {}, read)
    if found.state == "invalid" and runs_with(daemon, config):
        found = found._replace(state="unreadable")
    settings = found.loaded.settings
    tables = settings.kernel.tables
    kernel = read_kernel(settings.kernel, tables, root)
    local = local_loxilbs()
    targets, local, broker = asyncio.run(_ask_peers(settings, local, daemon, contact=contact))
    return Facts(
        config=found,
        kernel=kernel,
        desired=_desired(found.loaded, kernel.dump, tables),
        dhcp=read_dhcp(root),
        targets=targets,
        local=local,
        broker=broker,
        state=read_state(state, daemon, unit),
        daemon=daemon,
        own_capabilities=int(process_status("self").get("CapEff", "0"), 16),
        systemd=systemd_version(root),
        unit=unit,
    )


def read_config(
    path: Path, of_service: Mapping[str, Path | None] = MappingProxyType({}), read: Reader = read_file
) -> ConfigFacts:
    """Read the configuration, with the credentials of the service; where that fails, take the shipped one."""
    environ = {"CREDENTIALS_DIRECTORY": str(_CREDENTIALS)} if os.access(_CREDENTIALS, os.X_OK) else {}
    shipped = load(shipped_configuration(), {})  # a variable of the environment may be what is wrong
    try:
        if not path.exists():
            return ConfigFacts(path, "absent", shipped)
        if not os.access(path, os.R_OK):
            return ConfigFacts(path, "unreadable", shipped)
        loaded = load(path, environ | os.environ, of_service=of_service, read=read)
        settings, unresolved = look_up_and_resolve(loaded.settings)
        return ConfigFacts(path, "read", loaded._replace(settings=settings), unresolved=unresolved)
    except PermissionError:
        return ConfigFacts(path, "unreadable", shipped)
    except OSError as error:  # no file can have this name
        return ConfigFacts(path, "invalid", shipped, (f"{path}: {error.strerror}",))
    except ConfigError as error:
        faults = tuple(str(problem) for problem in error.problems if not problem.unread)
        unread = tuple(map(str, error.problems))
        return ConfigFacts(path, "invalid" if faults else "unreadable", shipped, faults or unread)


def runs_with(daemon: DaemonFacts, path: Path) -> bool:
    """Whether the daemon runs with this very file: what is missing here, such as a variable, that has."""
    active = daemon.answer.config if daemon.answer else None
    return active is not None and (active.path, active.digest) == (whole(str(path)), digest_now(path))


def _desired(loaded: Loaded, dump: TableDump | None, tables: Sequence[int]) -> Mapping[tuple[str, str], int]:
    """How many routes each target should have, by family, as far as is known without its table."""
    counts: Counter[tuple[str, str]] = Counter()
    if dump is None:
        return counts
    inputs = [
        TargetInput(target.name, target.url, TargetRules.from_settings(target), {})
        for target in loaded.settings.targets
    ]
    names = {ifindex: link.name for ifindex, link in dump.links.items()}
    choices = list(choose(dump.valid, evaluator(loaded.policy, names, dump.valid), tables, {}))
    for target in plan_targets(inputs, choices):
        for choice in choices:
            view = target.route(choice.prefix)
            if view is not None and isinstance(view.evaluation, Desired):
                counts[target.name, choice.prefix.family.label] += 1
    return counts


# -- the kernel and its processes ------------------------------------------------------------------------------------


def read_kernel(settings: KernelSettings, tables: Sequence[int], root: Path) -> KernelFacts:
    """Dump the routes once, and see how large a buffer a socket of this process gets."""
    dump: TableDump | None = None
    error, granted = None, 0
    try:
        with open_route_socket(settings.netns) as sock:
            granted = widen_receive_buffer(sock, settings.receive_buffer)
        dump = dump_tables_sync(tables=tables, netns=settings.netns)
    except KernelError as problem:
        error = str(problem)
    units = (root / directory / "routesync.socket" for directory in _UNITS)
    return KernelFacts(platform.release(), dump, error, granted, _rmem_max(), any(map(Path.exists, units)))


def _rmem_max() -> int | None:
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):  # not every network namespace shows it
        return None


def processes() -> Iterator[tuple[int, str]]:
    """All visible processes, by number and name."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), (entry / "comm").read_text().rstrip("\n")
            except OSError:  # it ended
                continue


def shares_namespace(pid: int) -> bool | None:
    """Whether a process is in our network namespace; None: not permitted to see."""
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return None


def local_loxilbs() -> tuple[LocalLoxilb, ...]:
    """Processes named loxilb."""
    return tuple(LocalLoxilb(pid, shares_namespace(pid)) for pid, name in processes() if name == "loxilb")


# -- DHCP clients ----------------------------------------------------------------------------------------------------


def read_dhcp(root: Path) -> DhcpFacts:
    """Which DHCP clients run in this namespace, and what they keep in /run."""
    clients = {name for pid, name in processes() if name in CLIENTS and shares_namespace(pid) is not False}
    managed = {
        int(file.name)
        for file in _numbered(root / "run/NetworkManager/devices")
        if _section(file, "device").get("managed") == "true"
    }
    return DhcpFacts(frozenset(clients), _networkd_links(root / "run/systemd/netif"), frozenset(managed))


def _networkd_links(directory: Path) -> Mapping[int, NetworkdLink]:
    """By ifindex. The files are private to networkd and may change their format; unknown content is left out."""
    found: dict[int, NetworkdLink] = {}
    for file in _numbered(directory / "links"):
        values = _values(file)
        if values.get("ADMIN_STATE") == "unmanaged":
            continue
        lease = _values(directory / "leases" / file.name)
        addresses = {key: frozenset(lease[key].split()) for key in _ADDRESS_KEYS if lease.get(key)}
        if lease and not addresses:
            addresses = {"ADDRESS": frozenset({lease.get("ADDRESS", "")})}
        found[int(file.name)] = NetworkdLink(values.get("NETWORK_FILE"), addresses)
    return found


def _numbered(directory: Path) -> list[Path]:
    try:
        return [file for file in directory.iterdir() if file.name.isdecimal()]
    except OSError:
        return []


def _values(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {
        key: value for key, sign, value in (line.partition("=") for line in lines) if sign and key[0] != "#"
    }


def _section(file: Path, name: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, configparser.Error):
        return {}
    return dict(parser[name]) if name in parser else {}


# -- targets and broker ----------------------------------------------------------------------------------------------


async def _ask_peers(
    settings: Settings, local: tuple[LocalLoxilb, ...], daemon: DaemonFacts, *, contact: bool
) -> tuple[tuple[TargetFacts, ...], tuple[LocalLoxilb, ...], BrokerFacts | None]:
    targets = await asyncio.gather(
        *(ask_target(target, daemon.answer, contact=contact) for target in settings.targets)
    )
    if contact and not targets:
        local = tuple(await asyncio.gather(*map(ask_local, local)))
    broker = None
    if settings.mqtt is not None and daemon.answer is None:
        asked = [
            await ask_broker(one, settings.node.name, running=daemon.running, contact=contact)
            for one in settings.mqtt.brokers
        ]
        broker = next((facts for facts in asked if facts.trouble is not None), asked[0])
    elif settings.mqtt is not None:
        broker = BrokerFacts(settings.mqtt.place)
    if contact and broker is not None and settings.mqtt is not None and settings.mqtt.protocol == "3.1.1":
        broker = broker._replace(speaks_v5=await accepts_v5(settings.mqtt))
    return tuple(targets), local, broker


async def ask_target(
    target: TargetSettings, answer: StatusResponse | None = None, *, contact: bool
) -> TargetFacts:
    """Ask one target for its version and ports, unless the daemon knows that it does not answer."""
    facts = TargetFacts(target.name, target.url)
    for known in answer.status.targets if answer else ():
        if (known.name, known.url, known.state) == (target.name, target.url, TargetState.UNREACHABLE):
            return facts._replace(error=known.error or known.state)
    if not contact:
        return facts._replace(asked=False)
    try:
        async with LoxilbClient.from_settings(target) as client:
            facts = facts._replace(version=await client.version())
            return facts._replace(ports=await client.ports())
    except LoxilbError as error:
        return facts._replace(error=str(error), denied=isinstance(error, AccessDenied))


async def ask_local(local: LocalLoxilb) -> LocalLoxilb:
    """Ask a loxilb that shares our namespace for its version, where its API usually is."""
    if not local.shares_namespace:
        return local
    try:
        async with LoxilbClient(_LOCAL_URL, connect_timeout_s=1, request_timeout_s=3) as client:
            return local._replace(version=await client.version())
    except LoxilbError:
        return local


async def ask_broker(
    settings: MqttSettings, node: str, *, running: bool | None, contact: bool
) -> BrokerFacts:
    """Log in to the broker, read the retained status of this node, and try to publish.

    While a daemon runs, or where that is not known, nothing is published. Otherwise the status `offline` is published,
    not retained: subscribers get once more what is true, and nothing stays behind. If the retained status says that the
    node is online all the same, another one may have its name, and nothing is published either. The client id is
    doctor's own, so that no daemon loses its connection.
    """
    facts = BrokerFacts(settings.place)
    if not contact:
        return facts
    client_id = f"routesync-doctor-{secrets.token_hex(3)}"
    topic = f"{settings.root}/{node}/status"
    try:
        async with MqttConnection(settings, client_id=client_id) as connection:
            readable = True
            try:
                await connection.subscribe(topic)
            except SubscriptionDeniedError:
                readable = False
            facts = facts._replace(
                status=await _retained_state(connection, settings.root) if readable else None
            )
            if running is not False:
                return facts._replace(publish="running")
            if facts.status in {"online", "degraded"}:
                return facts._replace(publish="other-node")
            publication = Publication(topic, encode_status(offline(node), EventHub(node)), expiry_s=1)
            return await _try_publish(
                facts, connection, publication, readable=readable, within_s=settings.timeout_s
            )
    except (aiomqtt.MqttError, OSError, SettingError) as error:
        return facts._replace(trouble=explain(error, settings, client_id), publish="unknown")


async def accepts_v5(settings: MqttSettings) -> bool:
    """Whether the broker accepts MQTT 5, whatever `mqtt.protocol` says."""
    client_id = f"routesync-doctor-{secrets.token_hex(3)}"
    try:
        async with MqttConnection(settings.model_copy(update={"protocol": "5.0"}), client_id=client_id):
            return True
    except (aiomqtt.MqttError, OSError, SettingError):
        return False


async def _try_publish(
    facts: BrokerFacts,
    connection: MqttConnection,
    publication: Publication,
    *,
    readable: bool,
    within_s: float,
) -> BrokerFacts:
    answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
    connection.post(publication, answer.set_result)
    try:
        async with asyncio.timeout(within_s):
            refusal = await answer
    except TimeoutError:
        return facts._replace(publish="unknown")
    if refusal is not None:
        return facts._replace(publish="denied", denial=refusal.words)
    if connection.is_v5:
        return facts._replace(publish="accepted")
    if not readable:  # MQTT 3.1.1 acknowledges a denied publish, too
        return facts._replace(publish="unknown")
    return facts._replace(publish="accepted" if await _comes_back(connection, within_s) else "not-back")


async def _retained_state(connection: MqttConnection, root: str) -> NodeState | None:
    """Its state by what is known now: what a node published last says nothing once the node is silent."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RETAINED_WITHIN_S):
            async for received in connection.messages:
                message = read(received, root)
                if isinstance(message, ReceivedMessage):
                    now = time.monotonic()
                    return summarize(message, now).state(now)
    return None


async def _comes_back(connection: MqttConnection, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            async for message in connection.messages:
                if not message.retain:
                    return True
    return False
