"""`routesync init`: a first configuration, from what this host has and from answers.

It mirrors what loxilb cannot reach by itself: the networks behind this host, with this host as their next hop.
"""

from __future__ import annotations

import asyncio
import platform
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import filter as filter_names
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

import typer

from routesync.cli.brokers import named_broker
from routesync.cli.check import may_exist
from routesync.cli.output import EX_CONFIG, fail, parsed, print_error
from routesync.config import ConfigError, load
from routesync.config.effective import toml_value
from routesync.config.models import MqttSettings
from routesync.config.parsers import parse_interface, parse_url
from routesync.doctor.dhcp import is_dhcp_host_route, who_wrote
from routesync.doctor.gather import local_loxilbs, read_dhcp
from routesync.kernel import KernelError, TableDump, dump_tables_sync
from routesync.loxilb.client import LoxilbClient
from routesync.loxilb.errors import AccessDenied, LoxilbError, OutcomeUnknown
from routesync.names import Names
from routesync.route import RTN_UNICAST, Address, is_link_local, link_gateways, parse_address
from routesync.url import BaseUrl

LOXILB_PORT: Final = 11111
DROP_INS: Final = ".toml.d"
_OF_CONTAINERS: Final = re.compile(
    r"lo|docker\d+|br-[0-9a-f]{12}|virbr\d+|podman\d+|cni-podman\d+|lxc(br|dbr)\d+"
)
"""Bridges whose networks are behind NAT: nothing outside of this host reaches them."""


class Wishes(NamedTuple):
    """What was asked for; None: to be found out, or asked."""

    target: str | None
    broker: MqttSettings | None
    interfaces: Sequence[str]
    default_route: bool | None


class Found(NamedTuple):
    """What this host has."""

    behind: tuple[str, ...]  # interfaces with networks that are reached through this host
    default: bool  # a default route, by the interface that reaches loxilb
    host_routes: tuple[str, ...]  # those of DHCP clients, in words
    sharing: int | None  # process of a loxilb in our network namespace
    interfaces: tuple[str, ...] = ()  # all


def init(file: Path | None, wishes: Wishes, *, installed: Path, force: bool, ask: bool) -> None:
    """Write the file, and say what was found and what comes next; `ask` for what is not given."""
    file = file or _default_file(installed)
    with _explained(file):
        if file != Path("-") and file.exists() and not force:
            fail(f"{file} exists; --force replaces it, another name as the argument leaves it alone")
    if ask and wishes.target is None:
        wishes = wishes._replace(
            target=typer.prompt("Address or URL of loxilb (empty: none)", default="", show_default=False)
            or None
        )
    url = parsed(read_target, wishes.target, "--target: ") if wishes.target else None
    found = _look(url)
    for line in _findings(found, url):
        print_error(line)
    wishes = _completed(wishes, found, ask=ask)
    text = "".join(f"{line}\n" for line in document(found, wishes, url, whole=not _is_drop_in(file)))
    if file == Path("-"):
        print(text, end="")
        return
    in_place = file.absolute() == installed or file.absolute().parent == _drop_ins(installed)
    _write(file, text, installed if in_place else file)
    print(f"{file} is written. Next:")
    if in_place:
        print("    routesync check\n    routesync plan --offline")
        print("    systemctl enable --now routesync\n    routesync status")
    else:
        print(f"    routesync check {quote(str(file))}\n    routesync plan --config {quote(str(file))}")
        print(f"The service reads {installed}, not this file.")


def _write(file: Path, text: str, configuration: Path) -> None:
    """Write the file, unless the configuration that it becomes part of is then invalid."""
    with _explained(file):
        before = file.read_bytes() if file.exists() else None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    try:
        load(configuration)
    except ConfigError as error:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)
        print_error(str(error))
        fail(f"{file} was not written, because it does not go together with {configuration}", EX_CONFIG)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """End the command with what keeps the file from being read or written."""
    try:
        yield
    except OSError as error:
        as_root = "run this as root, or " if isinstance(error, PermissionError) else ""
        fail(f"{error.filename or file}: {error.strerror}; {as_root}name another file")


def read_target(text: str) -> str:
    """Parse a URL, a host, or a host and port.

    Raises:
        SettingError: it is none of these.
    """
    if "://" in text:
        return parse_url(text)
    host = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    url = BaseUrl.parse(parse_url(f"http://{host}"))
    return str(url if url.port else url._replace(port=LOXILB_PORT))


def _default_file(installed: Path) -> Path:
    """The configuration, or where a package brought one, a drop-in of it."""
    return _drop_ins(installed) / "site.toml" if may_exist(installed) else installed


def _drop_ins(installed: Path) -> Path:
    return installed.with_name(f"{installed.name}.d")


def _is_drop_in(file: Path) -> bool:
    return file.absolute().parent.name.endswith(DROP_INS)


# -- what this host has ------------------------------------------------------------------------------------------------


def _look(url: str | None) -> Found:
    try:
        dump = dump_tables_sync(tables=(Names.of_host().tables["main"],))
    except KernelError as error:
        fail(str(error))
    sharing = next((it.pid for it in local_loxilbs() if it.shares_namespace), None)
    return look(dump, _our_end(url) if url else None)._replace(sharing=sharing)


def look(dump: TableDump, ours: Address | None) -> Found:
    """Find out what is behind this host; `ours` is its address towards loxilb, None: not known."""
    names = {ifindex: link.name for ifindex, link in dump.links.items()}
    uplinks = {hop.ifindex for route in dump.valid if route.prefix.is_default for hop in route.hops}
    reaching = {it.ifindex for it in dump.addresses if it.address == ours} or uplinks
    behind = {
        names[hop.ifindex]: None
        for route in dump.valid
        if route.type == RTN_UNICAST
        and not is_link_local(route.prefix.packed)
        and not route.prefix.is_default
        for hop in route.live_hops
        if hop.usable
        and hop.ifindex in names
        and hop.ifindex not in uplinks | reaching
        and not _OF_CONTAINERS.fullmatch(names[hop.ifindex])
    }
    gateways, dhcp = link_gateways(dump.routes), read_dhcp(Path("/"))
    host_routes = tuple(
        f"{route.prefix} dev {names.get(route.hops[0].ifindex, '?')}, by {client or 'a DHCP client'}"
        for route in dump.routes
        if is_dhcp_host_route(route, gateways)
        for client in (who_wrote(route, dhcp).client,)
    )
    return Found(tuple(behind), bool(reaching & uplinks), host_routes, None, tuple(names.values()))


def _our_end(url: str) -> Address | None:
    """Our address on the way to a server; nothing is sent."""
    target = BaseUrl.parse(url)
    try:
        (family, kind, protocol, _, place), *_ = socket.getaddrinfo(
            target.place, target.port or 80, type=socket.SOCK_DGRAM
        )
        with socket.socket(family, kind, protocol) as sock:
            sock.connect(place)
            return parse_address(str(sock.getsockname()[0]).partition("%")[0])
    except OSError:
        return None


def _findings(found: Found, url: str | None) -> Iterator[str]:
    yield f"networks behind this host: {', '.join(found.behind) or 'none'}"
    for route in found.host_routes:
        yield f"DHCP host route: {route}; the rules drop it"
    if found.sharing is not None:
        yield (
            f"a loxilb (process {found.sharing}) runs in this host's network namespace and reads its routes by itself: "
            "nothing can be mirrored into it; see docs/guard.md"
        )
    if url is not None:
        yield asyncio.run(_answers(url))


async def _answers(url: str) -> str:
    """What answers there, in words."""
    also = "the file is written all the same"
    try:
        async with LoxilbClient(url) as client:
            version = await client.version()
            try:
                await client.ports()
            except OutcomeUnknown as error:  # to a server without /version, which early loxilb lack, too
                return f"something answers at {url}, but not as loxilb does: {error}; {also}"
            return f"loxilb {version} answers at {url}"
    except AccessDenied as error:
        return f"{url} denies access: {error}; {also}"
    except LoxilbError as error:
        return f"no loxilb answers: {error}; {also}"


def _completed(wishes: Wishes, found: Found, *, ask: bool) -> Wishes:
    """The wishes with what was found, or answered, in place of what was not said."""
    interfaces, default_route = wishes.interfaces or found.behind, wishes.default_route
    if ask and not wishes.interfaces:
        question = "Interfaces whose networks loxilb shall reach through this host (-: none)"
        answer = typer.prompt(question, default=" ".join(found.behind) or "-").strip()
        interfaces = () if answer in {"", "-"} else tuple(re.split(r"[\s,]+", answer))
    if default_route is None:
        default_route = found.default
        if ask and default_route and wishes.target:
            default_route = typer.confirm(
                "Mirror the default route, too, where loxilb has none?", default=True
            )
    for name in interfaces:
        parsed(parse_interface, name, "--interface: ")
        if not filter_names(found.interfaces, name):
            print_error(
                f"warning: this host has no interface {name}; the rule has no effect until there is one"
            )
    broker = wishes.broker
    if ask and broker is None:
        answer = typer.prompt(
            "MQTT broker, HOST or mqtts://HOST (empty: none)", default="", show_default=False
        )
        broker = named_broker(answer, None, with_password=False) if answer else None
    return wishes._replace(interfaces=interfaces, default_route=default_route, broker=broker)


# -- the file ----------------------------------------------------------------------------------------------------------

_FIRST_RULES: Final = """
# Host routes that a DHCP client adds to its own server or gateway: in loxilb they could cut off that neighbour.
[[policy.rules]]
name = "dhcp-host-routes"
match = { protocol = "dhcp", host = true, gateway = false }
action = "drop"
report = true

[[policy.rules]]
name = "link-gateways"
match = { link_gateway = true }
action = "drop"
report = true

# Routes over a link without carrier.
[[policy.rules]]
name = "linkdown"
match = { flags = "linkdown" }
action = "drop"
"""
_LAST_RULE: Final = """
# The other networks of this host: loxilb has its own route to a shared one.
[[policy.rules]]
name = "connected"
match = { protocol = "kernel" }
action = "drop"
"""


def document(found: Found, wishes: Wishes, url: str | None, *, whole: bool) -> Iterator[str]:
    """The lines of the file: a whole configuration, or a drop-in for the installed one, which has the other rules."""
    yield f"# routesync on {platform.node()}, written by `routesync init`. All keys: routesync.toml(5). After a change:"
    yield "# `routesync check`, `routesync plan --offline`, `systemctl reload routesync`."
    if found.sharing is not None and url is None:
        yield ""
        yield "# A loxilb runs in this host's network namespace and reads these routes by itself: docs/guard.md."
        yield 'mode = "observe"'
    if whole:
        yield from _FIRST_RULES.splitlines()
    yield ""
    yield "# Networks behind this host: loxilb sends to this host's address on the interface that reaches loxilb. Where"
    yield "# several nodes have one loxilb, name what each has alone (its pods: cni0), and set writers in the target."
    names = list(wishes.interfaces) or ["cni0"]
    rule = (
        "[[policy.rules]]",
        'name = "behind-this-host"',
        f"match = {{ interface = {toml_value(names if len(names) > 1 else names[0])} }}",
        'action = "keep"',
        'next_hop = "self"',
    )
    yield from rule if wishes.interfaces else (f"# {line}" for line in rule)
    if whole:
        yield from _LAST_RULE.splitlines()
    yield ""
    yield from _target(url, default_route=bool(wishes.default_route))
    yield ""
    yield from _broker(wishes.broker)


def _target(url: str | None, *, default_route: bool) -> Iterator[str]:
    table = (
        "[[targets]]",
        'name = "edge"',
        f"url = {toml_value(url or f'http://192.168.10.20:{LOXILB_PORT}')}",
    )
    yield from table if url else (f"# {line}" for line in table)
    if url and default_route:
        yield "allow_default = true  # the default route, where loxilb has none"


def _broker(broker: MqttSettings | None) -> Iterator[str]:
    if broker is None:
        yield "# [mqtt]"
        yield '# host = "broker.example.net"'
        return
    yield "[mqtt]"
    for key in ("host", "port", "root", "username"):
        value = getattr(broker, key)
        if (
            value is not None
            and value != MqttSettings.model_fields[key].default
            and (key, value) != ("port", 8883)
        ):
            yield f"{key} = {toml_value(value)}"
    if broker.username is not None:
        yield '# password_file = "mqtt-password"  # or the environment: ROUTESYNC_MQTT_PASSWORD'
    if broker.tls is not None:
        yield ""
        yield "[mqtt.tls]"
        if broker.tls.ca_file is not None:
            yield f"ca_file = {toml_value(str(Path(broker.tls.ca_file).absolute()))}"
