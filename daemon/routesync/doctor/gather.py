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
import pwd
import re
import secrets
import shutil
import sqlite3
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiomqtt

from routesync.config import ConfigError, Loaded, load, shipped_configuration
from routesync.config.models import KernelSettings, MqttSettings, Settings, TargetSettings
from routesync.config.parsers import SettingError
from routesync.config.resolve import resolved
from routesync.control.client import Client, ControlError, NotRunning
from routesync.control.models import StatusResponse
from routesync.control.plan import TargetInput, choose, evaluator, plan_targets
from routesync.doctor.facts import (
    BrokerFacts,
    ConfigFacts,
    DaemonFacts,
    DatabaseFacts,
    DhcpFacts,
    Facts,
    KernelFacts,
    LocalLoxilb,
    NetworkdLink,
    StateFacts,
    TargetFacts,
)
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
from routesync.kernel import KernelError, TableDump, dump_tables_sync, open_route_socket
from routesync.kernel.netlink import widen_receive_buffer
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import AccessDenied, LoxilbError
from routesync.mirror.eligibility import Desired, TargetRules
from routesync.mirror.ledger import LedgerError, read_ledger
from routesync.mirror.ledger_file import set_aside
from routesync.mirror.status import TargetState

CLIENTS: Final = ("systemd-network", "NetworkManager", "dhcpcd", "dhclient", "udhcpc")
"""DHCP clients, by their names as the kernel keeps them (the first 15 characters, proc(5))."""
RETAINED_WITHIN_S: Final = 1.0
"""A retained message follows the subscription at once; after this time there is none."""
_ADDRESS_KEYS: Final = ("ROUTER", "DNS", "NTP", "SIP")
_UNITS: Final = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_COMMAND_WITHIN_S: Final = 5.0
_LOCAL_URL: Final = "http://127.0.0.1:11111"
_SQLITE_MAGIC: Final = b"SQLite format 3\0"


def gather(config: Path, state: Path, *, contact: bool, root: Path = Path("/")) -> Facts:
    """Find out what the checks use.

    Args:
        config: the configuration file; need not exist.
        state: the state directory; need not exist.
        contact: whether targets and broker may be asked.
        root: where /run and /etc are looked for.
    """
    found = read_config(config)
    settings = found.loaded.settings
    tables = settings.kernel.tables
    kernel = read_kernel(settings.kernel, tables, root)
    daemon = ask_daemon(find_daemon(state))
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
        state=read_state(state, running=daemon.running),
        daemon=daemon,
        own_capabilities=effective_capabilities("self") or 0,
        systemd=systemd_version(root),
    )


def read_config(path: Path) -> ConfigFacts:
    """Read the configuration; where that fails, take the shipped one."""
    if not path.exists():
        return ConfigFacts(path, "absent", load(shipped_configuration()))
    try:
        loaded = load(path)
        settings, _ = resolved(loaded.settings, {})
        return ConfigFacts(path, "read", loaded._replace(settings=settings))
    except ConfigError as error:
        return ConfigFacts(path, "invalid", load(shipped_configuration()), tuple(map(str, error.problems)))


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


def effective_capabilities(process: str) -> int | None:
    """The effective capabilities of a process (proc(5)); None where they are not visible."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return int(found[1], 16) if found else None


def systemd_version(root: Path) -> int | None:
    """The version of the systemd that runs here; None: none does (sd_booted(3))."""
    command = shutil.which("systemctl")
    if command is None or not (root / "run/systemd/system").is_dir():
        return None
    try:
        done = subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=False, timeout=_COMMAND_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else None


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


# -- the daemon and its state ----------------------------------------------------------------------------------------


def find_daemon(directory: Path) -> DaemonFacts:
    """Whether a daemon has the directory's lock, by the kernel's list of locks (proc(5)); takes none itself."""
    try:
        lock = directory.stat()
    except FileNotFoundError:
        return DaemonFacts(running=False)
    except OSError:
        return DaemonFacts(running=None)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return DaemonFacts(running=None)
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    for line in lines:  # "1: FLOCK  ADVISORY  WRITE 1234 08:01:123456 0 EOF"
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == device:
            pid = int(fields[4])
            known = pid if pid > 0 else None  # 0 or -1: it is in another process namespace
            capabilities = effective_capabilities(str(pid)) if known else None
            return DaemonFacts(running=True, pid=known, capabilities=capabilities)
    return DaemonFacts(running=False)


def ask_daemon(found: DaemonFacts) -> DaemonFacts:
    """Ask the daemon at the control socket for its status, if it is the one that was found."""
    if found.running is False:
        return found
    try:
        client = Client()
        answer = client.read(client.raw("GET", "/v1/status"), StatusResponse)
    except ControlError as error:
        return found._replace(error=error)
    if found.pid not in (None, answer.pid):
        return found._replace(
            error=NotRunning(f"{client.path}: another daemon, process {answer.pid}, answers")
        )
    return found._replace(running=True, answer=answer)


def read_state(directory: Path, *, running: bool | None) -> StateFacts:
    """See what the state directory contains and who owns it, without changing it, also beside a running daemon."""
    state = StateFacts(
        directory, DatabaseFacts(directory / "ledger.sqlite"), DatabaseFacts(directory / "outbox.sqlite")
    )
    try:
        found = directory.stat()
    except FileNotFoundError:
        return state._replace(exists=False)
    except OSError:
        return state
    space = os.statvfs(directory)
    ledger, owned = _read_ledger(directory, state.ledger.path)
    outbox, waiting = _read_outbox(state.outbox.path, running=running)
    return state._replace(
        owner=found.st_uid,
        owner_name=_user(found.st_uid),
        owner_may_write=found.st_uid == 0 or found.st_mode & stat.S_IRWXU == stat.S_IRWXU,
        read_only=bool(space.f_flag & os.ST_RDONLY),
        free_bytes=space.f_bavail * space.f_frsize,
        ledger=ledger,
        owned=owned,
        outbox=outbox,
        outbox_events=waiting,
        ledger_aside=next(iter(set_aside(directory)[-1:]), None),
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read_ledger(directory: Path, path: Path) -> tuple[DatabaseFacts, Mapping[str, int]]:
    facts = _file(path)
    if facts.error is not None:
        return facts, {}
    try:
        content = read_ledger(directory)
    except LedgerError as error:
        return facts._replace(error=str(error).removeprefix(f"{path}: ")), {}
    damage = f"the file is damaged: {content.damage}" if content.damage else None
    return facts._replace(error=damage), {target: len(rows) for target, rows in content.rows.items() if rows}


def _read_outbox(path: Path, *, running: bool | None) -> tuple[DatabaseFacts, int]:
    facts = _file(path)
    # the daemon keeps it locked
    if running is not False or not facts.exists or facts.error is not None or not path.stat().st_size:
        return facts, 0
    try:
        # when root opens it, SQLite gives the files that it makes beside it to the database's owner
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        with contextlib.closing(database):
            (count,) = database.execute("SELECT count(*) FROM outbox").fetchone()
            return facts, int(count)
    except sqlite3.Error as error:
        return facts._replace(error=str(error)), 0


def _file(path: Path) -> DatabaseFacts:
    """Look at the file itself: SQLite's words for a file that is none, or is not readable, say little."""
    facts = DatabaseFacts(path)
    try:
        facts = DatabaseFacts(path, exists=True, owner=path.stat().st_uid)
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except FileNotFoundError:
        return facts
    except OSError as error:
        return facts._replace(exists=True, error=f"cannot be read: {error.strerror}")
    if head and head != _SQLITE_MAGIC:
        return facts._replace(error="this is no SQLite file: it is damaged")
    return facts


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
        broker = await ask_broker(settings.mqtt, settings.node.name, running=daemon.running, contact=contact)
    elif settings.mqtt is not None:
        broker = BrokerFacts(f"{settings.mqtt.host}:{settings.mqtt.port}")
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
    node is online all the same, another one has its name, and nothing is published either. The client id is doctor's
    own, so that no daemon loses its connection.
    """
    facts = BrokerFacts(f"{settings.host}:{settings.port}")
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


async def _retained_state(connection: MqttConnection, root: str) -> str | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RETAINED_WITHIN_S):
            async for received in connection.messages:
                message = read(received, root)
                if isinstance(message, ReceivedMessage):
                    return str(message.data.get("state"))
    return None


async def _comes_back(connection: MqttConnection, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            async for message in connection.messages:
                if not message.retain:
                    return True
    return False
