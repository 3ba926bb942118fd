"""The sub-commands. Each imports what it needs when it runs, so that `--help` and `--version` answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from routesync import __version__

if TYPE_CHECKING:
    from routesync.cli.ownership import Where
    from routesync.route import Prefix

DEFAULT_CONFIG: Final = Path("/etc/routesync/routesync.toml")


class Commands(TyperGroup):
    """Takes a command also by the beginning of its name where no other begins so, like ip(8)."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument means; end with the choice where several begin so."""
        known = self.list_commands(ctx)
        found = [name for name in known if args[0] not in known and name.startswith(args[0])]
        if len(found) > 1 and not ctx.resilient_parsing:  # that is the completion of a shell
            ctx.fail(f"{args[0]!r} is ambiguous: {', '.join(found)}")
        return super().resolve_command(ctx, [*found, *args[1:]] if len(found) == 1 else args)


app = typer.Typer(
    name="routesync",
    cls=Commands,
    help="Mirror the kernel routes that are fit for it into loxilb, and report every change over MQTT. "
    "A command may be shortened as long as no other begins so.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# readable=False: what cannot be read is explained where it is read, with the remedy
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", readable=False, help=f"Configuration file; {DEFAULT_CONFIG} by default."),
]
StateOption = Annotated[
    Path | None,
    typer.Option(readable=False, help="State directory; $STATE_DIRECTORY or /var/lib/routesync by default."),
]
SocketOption = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        help="The daemon's control socket; control.sock in $RUNTIME_DIRECTORY or /run/routesync by default.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"routesync {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigOption = None,
    state: StateOption = None,
) -> None:
    """Run the daemon until a signal ends it."""
    import asyncio
    import gc
    import signal

    # It would end us. The daemon takes it from when it can.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    from routesync.cli.check import load_or_fail
    from routesync.cli.output import EX_CONFIG, fail
    from routesync.kernel import KernelError
    from routesync.mirror.ledger import LedgerBusyError
    from routesync.service import logs
    from routesync.service.daemon import run_daemon
    from routesync.service.systemd import Notifier, take_activated_sockets
    from routesync.tasks import TaskDied

    # Absolute, since commands elsewhere read the file that the status names. The daemon logs the warnings.
    loaded = load_or_fail((config or DEFAULT_CONFIG).absolute(), warn=False)
    log = loaded.settings.log
    logs.configure(log.level, log.format, secrets=loaded.secrets)
    notifier = Notifier.from_environment()
    gc.collect()
    gc.freeze()  # modules and models: they stay
    try:
        asyncio.run(
            run_daemon(
                loaded,
                state=state or _state_directory(),
                notifier=notifier,
                sockets=take_activated_sockets(),
            )
        )
    except LedgerBusyError as error:
        fail(str(error), EX_CONFIG)
    except (KernelError, TaskDied) as error:
        fail(str(error))


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(readable=False, help="The configuration file; - for standard input.")
    ] = DEFAULT_CONFIG,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what is wrong or odd.")] = False,
    *,
    as_service: Annotated[
        bool,
        typer.Option(
            "--as-service",
            help="Check as the service reads it: as its user, in its sandbox, with its credentials. Needs root.",
        ),
    ] = False,
) -> None:
    """Check a configuration file, and show what it comes to, with the origin of each value.

    The exit status is 78 if the file is wrong. Secrets are not shown.
    """
    from routesync.cli import check as command

    if as_service:
        options = [*(["--json"] if json else []), *(["--quiet"] if quiet else [])]
        command.check_as_service([*options, str(file if str(file) == "-" else file.absolute())])
    command.check(file, as_json=json, quiet=quiet)


@app.command()
def init(
    file: Annotated[
        Path | None,
        typer.Argument(
            readable=False,
            help=f"Where it goes; - for standard output. By default {DEFAULT_CONFIG}, or where a package brought that "
            f"one, {DEFAULT_CONFIG}.d/site.toml.",
        ),
    ] = None,
    *,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Address or URL of loxilb's API; port 11111 by default."),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(help="MQTT broker: HOST, HOST:PORT or a URL such as mqtts://USER@HOST:PORT/ROOT."),
    ] = None,
    interface: Annotated[
        list[str] | None,
        typer.Option(
            help="An interface whose networks loxilb is to reach through this host; may be repeated."
        ),
    ] = None,
    default_route: Annotated[
        bool | None,
        typer.Option(help="Whether to mirror the default route, too, where loxilb has none."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is found.")] = False,
) -> None:
    """Write a first configuration: look for interfaces, DHCP clients and loxilb, and ask for the rest.

    Without a terminal, or with --yes, nothing is asked.
    """
    from routesync.cli import init as command
    from routesync.cli.brokers import named_broker

    wishes = command.Wishes(
        target,
        named_broker(broker, None, with_password=False) if broker else None,
        interface or (),
        default_route,
    )
    command.init(file, wishes, installed=DEFAULT_CONFIG, force=force, ask=sys.stdin.isatty() and not yes)


@app.command()
def plan(
    of: Annotated[
        str | None,
        typer.Argument(metavar="[PREFIX|ADDRESS]", help="Explain only this, as `explain` does."),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="Plan by this file, without the daemon."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help=f"Do not ask the daemon; plan by {DEFAULT_CONFIG}.")
    ] = False,
    state: StateOption = None,
    socket: SocketOption = None,
    json: JsonOption = False,
    contact: Annotated[
        bool,
        typer.Option(help="Without the daemon: read each target's table, to see what it has already."),
    ] = True,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only how many routes each rule decides, and each target gets.")
    ] = False,
) -> None:
    """Show what happens to each of the kernel's routes, and why; change nothing.

    The running daemon is asked. If none runs, or a file is named, the rules and targets are those of the file.
    """
    from routesync.cli import plan as command
    from routesync.cli.output import parsed
    from routesync.cli.requests import daemon_runs
    from routesync.control.models import read_covering

    covered = None if of is None else parsed(read_covering, of)
    if config is None and not offline and daemon_runs(socket, command.HINT):
        command.plan_by_daemon(socket, covered, summary=summary, as_json=json)
    else:
        file, state = config or present_config(), state or _state_directory()
        command.plan_offline(file, state, covered, summary=summary, as_json=json, contact=contact)


@app.command()
def explain(
    of: Annotated[str, typer.Argument(metavar="PREFIX|ADDRESS", help="10.1.2.3, 10.0.0.0/8, 2001:db8::1 …")],
    *,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show why an address or prefix is mirrored or not: its routes, the rules, and what the targets have.

    The running daemon is asked. If none runs, this is `routesync plan --offline PREFIX`.
    """
    plan(of, socket=socket, json=json)


def _nodes(names: list[str] | None, where: str = "--node: ") -> list[str]:
    """Names of nodes: nothing else may become a part of a topic."""
    from routesync.cli.output import parsed
    from routesync.config.parsers import parse_name

    return [parsed(parse_name, name, where) for name in names or ()]


def _targets() -> list[str]:
    """For the completion of a shell: names of targets."""
    from routesync.cli.requests import known_targets

    return known_targets(DEFAULT_CONFIG)


TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="Name of the target.", autocompletion=_targets)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _require_yes(yes: bool, json: bool) -> None:
    if json and not yes:
        raise typer.BadParameter("--json asks nothing: say --yes, too")


def _where(config: Path | None, state: Path | None, socket: Path | None) -> Where:
    """At the running daemon, unless files are named."""
    from routesync.cli.ownership import Where

    offline = not (config is state is None)
    return Where(config or DEFAULT_CONFIG, state or _state_directory(), socket, offline)


def _prefixes(texts: list[str] | None, where: str = "") -> tuple[Prefix, ...]:
    from routesync.cli.output import parsed
    from routesync.route import Prefix

    return tuple(dict.fromkeys(parsed(Prefix.parse, text, where) for text in texts or ()))


@app.command()
def adopt(
    *,
    target: TargetOption,
    prefix: Annotated[
        list[str] | None,
        typer.Argument(help="Only these routes; routes that are left behind are adopted only by name."),
    ] = None,
    config: ConfigOption = None,
    state: StateOption = None,
    socket: SocketOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Take ownership of routes in a target that equal desired ones, or are left behind.

    They are shown first. From then on routesync removes them when they are not desired.
    """
    from routesync.cli import ownership as command

    _require_yes(yes, json)
    where = _where(config, state, socket)
    command.adopt(where, target, _prefixes(prefix), yes=yes, as_json=json)


@app.command()
def repair(
    *,
    target: TargetOption,
    prefix: Annotated[
        list[str] | None, typer.Argument(help="Only these routes; without any, all that are not forwarded.")
    ] = None,
    socket: SocketOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete and add again the routes that a target's kernel has and its table lacks.

    Such routes are in phase not-forwarded. They are shown first. If another writer has a route to the same prefix
    there, that one may be removed: look at loxilb's kernel before.
    """
    from routesync.cli import ownership as command

    _require_yes(yes, json)
    command.repair(socket, target, _prefixes(prefix), yes=yes, as_json=json)


@app.command()
def withdraw(
    *,
    target: TargetOption,
    config: ConfigOption = None,
    state: StateOption = None,
    socket: SocketOption = None,
    url: Annotated[str | None, typer.Option(help="Its URL, where it is no longer configured.")] = None,
    json: JsonOption = False,
) -> None:
    """Remove all owned routes from a target that the daemon does not mirror into.

    Without a daemon, the name of a target with all_addresses means each of its addresses.
    """
    from routesync.cli import ownership as command
    from routesync.cli.output import parsed
    from routesync.config.parsers import parse_name, parse_url

    target = parsed(parse_name, target, "--target: ")
    url = None if url is None else parsed(parse_url, url, "--url: ")
    where = _where(config, state, socket)
    if url is not None and config is None:  # who cleans up may have removed the file
        where = where._replace(config=present_config())
    command.withdraw(where, target, url, as_json=json)


@app.command()
def forget(
    *,
    target: TargetOption,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--prefix",
            help="Only this route; may be repeated. Where the daemon mirrors into the target, it must be left behind.",
        ),
    ] = None,
    state: StateOption = None,
    socket: SocketOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Give up ownership of routes in a target; the routes themselves stay.

    Of all routes, where the daemon does not mirror into the target; with --prefix, of single ones.
    """
    from routesync.cli import ownership as command

    _require_yes(yes, json)
    where, prefixes = _where(None, state, socket), _prefixes(prefix, "--prefix: ")
    command.forget(where, target, prefixes, yes=yes, as_json=json)


OneTargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", "-t", help="Name of the target; all of them without it.", autocompletion=_targets
    ),
]


@app.command()
def status(socket: SocketOption = None, state: StateOption = None, json: JsonOption = False) -> None:
    """Show the state of the daemon and its targets.

    A daemon that does not answer within 2 s is described by its lock, systemd and the ledger. The exit status is 0 if
    all is well, 1 if the daemon is degraded or does not answer, 3 if it does not run, 4 if you may not ask it.
    """
    from routesync.cli import status as command

    command.status(socket, state or _state_directory(), as_json=json)


def _phases() -> list[str]:
    from routesync.mirror.state import Phase

    return [it.value for it in Phase]


@app.command()
def routes(
    *,
    within: Annotated[str | None, typer.Option(help="Only prefixes inside this one.")] = None,
    covering: Annotated[
        str | None, typer.Option(help="Only prefixes that cover this address or prefix.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Only ipv4, or only ipv6.", autocompletion=lambda: ["ipv4", "ipv6"])
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Only routes of this protocol.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only what this rule keeps.")] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Only the state at this target.", autocompletion=_targets),
    ] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(
            help='Only what is in this phase at a target, e.g. "refused"; may be repeated.',
            autocompletion=_phases,
        ),
    ] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Also the routes that are not elected.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many prefixes.", min=1)] = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Show the routes that the rules keep, and the state of each at each target."""
    from routesync.cli import routes as command
    from routesync.cli.output import parsed
    from routesync.config.parsers import look_up

    phases = dict.fromkeys(_phases())
    for it in phase or ():
        parsed(lambda text: look_up(text, "phase", phases), it, "--phase: ")
    filters = [
        ("within", within),
        ("covering", covering),
        ("family", family),
        ("protocol", protocol),
        ("rule", rule),
        ("target", target),
        *(("phase", it) for it in phase or ()),
        ("limit", limit),
    ]
    command.routes(socket, filters, candidates=candidates, as_json=json)


@app.command()
def resync(
    target: OneTargetOption = None,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also send prefixes again that are held back because the target fell silent when they were posted.",
        ),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", "-w", help="Wait until it is done; exit status 1 if something is missing."),
    ] = False,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Dump the kernel's table again, and verify that the targets have all routes that they should."""
    from routesync.cli import requests as command

    command.resync(socket, target, force=force, wait=wait, as_json=json)


@app.command()
def pause(target: OneTargetOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Leave targets exactly as they are until `resume`, over restarts too."""
    from routesync.cli import requests as command

    command.change("pause", socket, target, as_json=json)


@app.command()
def resume(target: OneTargetOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """End a pause: the target gets what has changed meanwhile."""
    from routesync.cli import requests as command

    command.change("resume", socket, target, as_json=json)


@app.command()
def release(target: OneTargetOption = None, socket: SocketOption = None, json: JsonOption = False) -> None:
    """Release a mass withdrawal that is held back, without waiting for a second dump of the kernel."""
    from routesync.cli import requests as command

    command.release(socket, target, as_json=json)


@app.command()
def reload(socket: SocketOption = None, json: JsonOption = False) -> None:
    """Apply the configuration file again; an invalid file is rejected and changes nothing (exit status 78)."""
    from routesync.cli import requests as command

    command.reload(socket, as_json=json)


BrokerOption = Annotated[
    str | None,
    typer.Option(
        help="Instead of the configuration's: HOST, HOST:PORT or a URL such as mqtts://USER@HOST:PORT/ROOT; "
        "$ROUTESYNC_MQTT_PASSWORD is USER's password."
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        readable=False, help="Certificates that those of --broker are checked against; implies TLS."
    ),
]
NodesOption = Annotated[
    list[str] | None, typer.Option("--node", "-n", help="Only this node; may be repeated.")
]


@app.command()
def watch(
    *,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    ca_file: CaFileOption = None,
    local: Annotated[
        bool, typer.Option("--local", help="This host's daemon, over its control socket, without a broker.")
    ] = False,
    socket: SocketOption = None,
    node: NodesOption = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help='Only these, e.g. "route.*"; may be repeated.')
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Only events of routes inside this prefix.")] = None,
    json: JsonOption = False,
) -> None:
    """Follow events of this node, of other nodes, or of the whole fleet.

    Over MQTT where the configuration or --broker names a broker; else, or with --local, over the daemon's own socket.
    """
    from routesync.cli import watch as command
    from routesync.cli.output import parsed
    from routesync.events.reader import Selection
    from routesync.route import Prefix

    within = None if prefix is None else parsed(Prefix.parse, prefix, "--prefix: ")
    for it in kind or ():
        parsed(command.read_kind, it, "--type: ")
    selection = Selection(_nodes(node), kind or (), within)
    way = command.Way(config or DEFAULT_CONFIG, broker, ca_file, socket, local=local or socket is not None)
    command.watch(way, selection, as_json=json)


@app.command()
def takeover(
    *,
    node: Annotated[str, typer.Option("--node", help="The node that is gone.")],
    target: TargetOption,
    node_is_down: Annotated[
        bool,
        typer.Option(
            "--yes-node-is-down", help="Do it: you know that the router itself is down, not only its daemon."
        ),
    ] = False,
    config: ConfigOption = None,
    socket: SocketOption = None,
    json: JsonOption = False,
) -> None:
    """Remove what a node that is gone left in a loxilb that this node mirrors into, too.

    Without --yes-node-is-down it is only shown. What this node wants itself takes its place. Refused while the node is
    not offline or silent for three heartbeats, while its table at the broker is not whole, and while another node takes
    over. Needs the running daemon.
    """
    from routesync.cli import takeover as command

    (node,) = _nodes([node])
    command.takeover(config or DEFAULT_CONFIG, socket, node, target, for_real=node_is_down, as_json=json)


fleet_app = typer.Typer(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(fleet_app, name="fleet")

LabelsOption = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", help="Only nodes with this label, NAME=VALUE; may be repeated."),
]


@fleet_app.callback()
def fleet(
    context: typer.Context,
    *,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    ca_file: CaFileOption = None,
    node: NodesOption = None,
    label: LabelsOption = None,
    all_nodes: Annotated[bool, typer.Option("--all", "-a", help="Also the nodes that are online.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            readable=False,
            help="Only write the page of a fleet there: files for any web server (docs/page.md).",
        ),
    ] = None,
    websockets: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Of --page: the broker's WebSockets, e.g. wss://broker.example:8884; without it, the page asks.",
        ),
    ] = None,
    mqtt_js: Annotated[
        Path | None,
        typer.Option(
            readable=False, help="Of --page: mqtt.js as an ES module, where this installation has none."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show all nodes at a broker, once: how many are in which state, and those that are not online, with the reason.

    It only subscribes. A node that was silent for three heartbeats is shown as silent. The exit status is 0 if all are
    online, 1 if some are not or may be missing, 3 if the broker cannot be asked.
    """
    from routesync.cli import fleet as command
    from routesync.cli.output import EX_USAGE, fail, parsed

    subcommand = context.invoked_subcommand
    if subcommand is not None and (all_nodes or page):
        fail(f"--all and --page have no effect on `fleet {subcommand}`; leave them out", EX_USAGE)
    if page is None and (websockets or mqtt_js):
        fail("--websockets and --mqtt-js are for --page DIR; leave them out", EX_USAGE)
    labels = [parsed(command.read_label, text, "--label: ") for text in label or ()]
    if page is not None:
        from routesync.cli.brokers import root_of
        from routesync.cli.page import write_page

        write_page(page, mqtt_js=mqtt_js, websockets=websockets, root=root_of(config, broker))
        raise typer.Exit
    way = command.Way(config or DEFAULT_CONFIG, broker, ca_file, _nodes(node), labels)
    context.obj = way, json
    if subcommand is None:
        command.fleet(way, all_nodes=all_nodes, as_json=json)


@fleet_app.command("who-has")
def who_has(
    context: typer.Context,
    wanted: Annotated[str, typer.Argument(metavar="PREFIX|ADDRESS", help="A prefix, or an address.")],
    json: JsonOption = False,
) -> None:
    """Show which nodes have mirrored a prefix, or the longest one that covers an address; exit status 1 if none has."""
    from routesync.cli import fleet as command

    way, all_json = context.obj
    command.who_has(way, wanted, as_json=json or all_json)


@fleet_app.command("diff")
def diff(
    context: typer.Context,
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE NODE]", help="Compare these two, prefix by prefix.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the nodes whose tables differ, by the digests that they publish; exit status 1 if some do."""
    from routesync.cli import fleet as command
    from routesync.cli.output import EX_USAGE, fail

    way, all_json = context.obj
    match _nodes(nodes, ""):
        case []:
            command.diff(way, as_json=json or all_json)
        case [one, other]:
            if way.nodes or way.labels:
                fail("diff NODE NODE compares these two; leave out --node and --label", EX_USAGE)
            command.compare(way, one, other, as_json=json or all_json)
        case _:
            fail("name two nodes, or none", EX_USAGE)


def _schemas() -> list[str]:
    from routesync.cli.check import documents

    return list(documents())


@app.command()
def schema(
    which: Annotated[
        str, typer.Argument(help="asyncapi, config, or a type of message.", autocompletion=_schemas)
    ] = "asyncapi",
) -> None:
    """Print a contract: AsyncAPI of the event stream, JSON Schema of the configuration or of a message's data."""
    from routesync.cli import check as command

    command.schema(which)


@app.command()
def health(
    *,
    live: Annotated[
        bool, typer.Option("--live/--ready", help="Only whether it lives, or also its first work.")
    ] = False,
    socket: SocketOption = None,
) -> None:
    """Say whether the daemon is ready: the kernel's table is dumped, and each target was contacted; for probes."""
    from routesync.cli import requests as command

    command.health(socket, live=live)


@app.command(name="install-units")
def install_units(
    *,
    prefix: Annotated[
        Path, typer.Option(help="Where manual pages, completion and the link to the program go.")
    ] = Path("/usr/local"),
    root: Annotated[Path, typer.Option(help="Write below this directory instead of /.")] = Path("/"),
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove them again; the configuration stays.")
    ] = False,
) -> None:
    """Install units, user, manual pages and completion, where no package of the system did."""
    from routesync.cli import units as command

    command.install(root.absolute(), prefix.absolute(), remove=remove)


@app.command()
def doctor(
    *,
    config: ConfigOption = None,
    state: StateOption = None,
    json: JsonOption = False,
    contact: Annotated[
        bool, typer.Option(help="Ask targets for their version, and try the broker with one message.")
    ] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say why, where all is well.")
    ] = False,
) -> None:
    """Look for what is wrong here, and say what to do; exit status 1 for warnings, 2 for failures."""
    from routesync.cli import doctor as command

    command.doctor(
        config,
        DEFAULT_CONFIG,
        state or _state_directory(),
        as_json=json,
        contact=contact,
        verbose=verbose,
    )


GROUPS: Final = {
    "Look": "status routes explain watch fleet doctor",
    "Configure": "init check plan schema",
    "Act": "pause resume resync release reload adopt repair forget withdraw takeover",
    "Service": "run health install-units",
}
"""The commands, as --help shows them."""


def _group_commands() -> None:
    groups = {command: group for group, commands in GROUPS.items() for command in commands.split()}
    for command in app.registered_commands:
        command.name = command.name or getattr(command.callback, "__name__", "")
        command.rich_help_panel = groups.get(str(command.name))
    app.registered_commands.sort(key=lambda it: [*groups, it.name].index(it.name))
    for group in app.registered_groups:
        group.rich_help_panel = groups.get(str(group.name))


_group_commands()


def present_config() -> Path:
    """The configuration of this host, or where there is none the one that is shipped."""
    from routesync.cli.check import may_exist
    from routesync.config import shipped_configuration

    return DEFAULT_CONFIG if may_exist(DEFAULT_CONFIG) else shipped_configuration()


def _state_directory() -> Path:
    from routesync.control import state_directory

    return state_directory()


def main() -> None:
    """Entry point of the command."""
    from routesync.cli.streams import standard_streams

    with standard_streams():
        app()
