"""Mistakes in a configuration: each one line, with its place and what to write instead."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from routesync.config import ConfigError, load
from routesync.config.problems import FORMER_KEYS
from routesync.names import Names
from support.config_keys import TABLES

Complaints = Callable[..., list[str]]

RULE = '[[policy.rules]]\nname = "it"\naction = "drop"\n'
LISTEN = "write it like 127.0.0.1:9469 or [::1]:9469"
TARGET = '[[targets]]\nname = "edge"\nurl = "http://192.0.2.1:11111"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[kernel]\nreceive_buffer = 1073741825\n",
            "2: [kernel], key receive_buffer: must be at most 1073741824, got 1073741825",
        ),
        ("[events]\noutbox_bytes = 1\n", "2: [events], key outbox_bytes: must be at least 1048576, got 1"),
        ("[guard]\nsettle_s = 600.5\n", "2: [guard], key settle_s: must be at most 600, got 600.5"),
        (
            "[mqtt]\nhost = 'b'\nhosts = 'b'\n",
            "3: [mqtt], key hosts: expected an array of strings, got a string",
        ),
        (
            "[control]\npage_hosts = {}\n",
            "2: [control], key page_hosts: expected an array of strings, got a table",
        ),
        (
            "[target_defaults]\nreturn_path_ok = 'b'\n",
            "2: [target_defaults], key return_path_ok: expected an array of strings, got a string",
        ),
        (
            f"[mqtt]\nhosts = {['b'] * 17}\n",
            "2: [mqtt], key hosts: must have at most 16 entries, got 17",
        ),
        (
            f"[mqtt]\nhost = 'b'\nclient_id = '{'x' * 257}'\n",
            "3: [mqtt], key client_id: must have at most 256 characters, got 257",
        ),
        (
            "[node]\nlabels = { site = 'münchen' }\n",
            "2: [node.labels], key site: must consist of printable ASCII characters",
        ),
        ("[node]\nlabels = 1\n", "2: [node], key labels: expected a table, got an integer"),
        (TARGET + "token = ''\n", "4: [[targets]] #1 (edge), key token: must not be empty"),
        ("[polcy]\n", "1: [polcy]: unknown key 'polcy'; did you mean 'policy'?"),
        ("mod = 1\n", "1: key mod: unknown key 'mod'; did you mean 'mode'?"),
        ("xyzzy = 1\n", "1: key xyzzy: unknown key 'xyzzy'"),
        ("[mqtt]\n", "1: [mqtt], key host: this key is missing"),
        ('[[policy.rules]]\nname = "it"\n', "1: [[policy.rules]] #1 (it), key action: this key is missing"),
        ("mode = 3\n", "1: key mode: expected 'mirror', 'observe' or 'guard', got an integer"),
        (
            "mode = 'nirror'\n",
            "1: key mode: expected 'mirror', 'observe' or 'guard', got 'nirror'; did you mean 'mirror'?",
        ),
        ("mqtt = 3\n", "1: key mqtt: expected a table, got an integer"),
        ("targets = 3\n", "1: key targets: expected an array of tables, got an integer"),
        ("[targets]\n", "1: [targets]: expected an array of tables; write [[targets]]"),
        ("[policy]\nrules = [1]\n", "2: [[policy.rules]] #1: expected a table, got an integer"),
        (
            "[kernel]\nreceive_buffer = '64M'\n",
            "2: [kernel], key receive_buffer: expected an integer, got a string",
        ),
        ("[guard]\nsettle_s = true\n", "2: [guard], key settle_s: expected a number, got a boolean"),
        ("[guard]\nsettle_s = nan\n", "2: [guard], key settle_s: expected a finite number, got nan"),
        ("[kernel]\ntables = ['main', 254]\n", "2: [kernel], key tables: table main is listed twice"),
        (
            "[kernel]\ntables = ['main', 'blue']\n",
            "2: [kernel], key tables #2: unknown table 'blue'; Known: default, main, local; or a number",
        ),
        (
            "[kernel]\ntables = 0\n",
            '2: [kernel], key tables: 0 is not a routing table; name one, such as "main"',
        ),
        (
            "[kernel]\ntables = []\n",
            "2: [kernel], key tables: the list is empty; name at least one, or leave the key out",
        ),
        (
            "[kernel]\nnetns = 'a/b'\n",
            "2: [kernel], key netns: 'a/b' does not name a network namespace; write a name below /run/netns, or a path",
        ),
        (
            "[control]\nlisten = 'localhost:9469'\n",
            "2: [control], key listen: 'localhost:9469' has no IP address; " + LISTEN,
        ),
        (
            "[control]\nlisten = '127.0.0.1'\n",
            "2: [control], key listen: '127.0.0.1' has no valid port; " + LISTEN,
        ),
        (
            "[control]\nlisten = '::1:9469'\n",
            "2: [control], key listen: '::1:9469': an IPv6 address needs brackets, and no other may have them; "
            + LISTEN,
        ),
        (
            "[control]\nlisten = 9469\n",
            "2: [control], key listen: expected ADDRESS:PORT as a string, got an integer",
        ),
        (
            RULE + RULE,
            "5: [[policy.rules]] #2 (it), key name: #1 has the name 'it' already; choose another name",
        ),
        (
            TARGET + TARGET.replace("192.0.2.1", "192.0.2.2"),
            "5: [[targets]] #2 (edge), key name: #1 has the name 'edge' already; choose another name",
        ),
        (
            TARGET + TARGET.replace("edge", "again"),
            (
                "6: [[targets]] #2 (again), key url: #1 (edge) has this URL already, and two targets that are one "
                "loxilb send it more than it takes; remove one of them"
            ),
        ),
        (
            TARGET.replace("192.0.2.1:11111", "LB.example.net/")
            + TARGET.replace("edge", "again").replace("192.0.2.1:11111", "lb.example.net:80"),
            (
                "6: [[targets]] #2 (again), key url: #1 (edge) has this URL already, and two targets that are one "
                "loxilb send it more than it takes; remove one of them"
            ),
        ),
    ],
)
def test_a_mistake(complaints: Complaints, text: str, expected: str) -> None:
    assert complaints(text) == [expected]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("match.protcol = 'dhcp'", "match.protcol: unknown key 'protcol'; did you mean 'protocol'?"),
        ("match.prefix = [{ in = '::/0' }]", "match.prefix #1.in: unknown key 'in'"),
        ("match.host = 'yes'", "match.host: expected true or false, got a string"),
        ("match.protocol = 256", "match.protocol: a protocol is a number between 0 and 255"),
        (
            "match.prefix = '10.1.2.3/8'",
            "match.prefix: '10.1.2.3/8' has host bits set; did you mean 10.0.0.0/8?",
        ),
        ("match.metric = '200-100'", "match.metric: the range '200-100' is empty; did you mean \"100-200\"?"),
        ("match.metric = 4294967296", "match.metric: a metric is between 0 and 4294967295"),
        (
            "match.protocol = true",
            "match.protocol: expected the name or number of a protocol, or a list of them, got a boolean",
        ),
        (
            "match.prefix = 1979-05-27",
            (
                'match.prefix: expected a prefix as a string, a table like { within = "10.0.0.0/8" }, '
                "or a list of them, got a date or time"
            ),
        ),
        ("match.flags = 1", "match.flags: expected the name of a flag, or a list of them, got an integer"),
        (
            "match.scope = 'lnik'",
            (
                "match.scope: unknown scope 'lnik'; did you mean 'link'? "
                "Known: global, site, link, host, nowhere; or a number"
            ),
        ),
        (
            "match.flags = ['dead', 'linkdwon']",
            (
                "match.flags #2: unknown flag 'linkdwon'; did you mean 'linkdown'? "
                "Known: dead, pervasive, onlink, offload, linkdown, unresolved, trap"
            ),
        ),
        (
            "match.gateway = '10.0.0.0/33'",
            "match.gateway: '10.0.0.0/33' is not a prefix like 10.0.0.0/8 or 2001:db8::/32",
        ),
        *(
            (
                f"match.{key} = '10.1.2.0/{mask}'",
                f"match.{key}: '10.1.2.0/{mask}' has a mask in place of a prefix length; write it like 10.0.0.0/8",
            )
            for key in ("gateway", "source", "prefix.within")
            for mask in ("0.0.0.255", "255.255.255.0")
        ),
        (
            "match.prefix = 'default'",
            "match.prefix: 'default' does not say which family; write 0.0.0.0/0, ::/0, or match default_route = true",
        ),
        ("match.prefix = {}", "match.prefix: the table is empty; give exact, within, covers, length or list"),
        (
            "match.metric = 'low'",
            (
                "match.metric: 'low' is not a metric; "
                'write a number, or a range like "100-200", "1024-" or "-50"'
            ),
        ),
        (
            "match.interface = 'sixteen-letters-'",
            "match.interface: 'sixteen-letters-' is too long for an interface name; use at most 15 characters",
        ),
        (
            "next_hop = '192.0.2.1'",
            'next_hop: a dropped route has no next hop; leave the key out, or set action = "keep"',
        ),
    ],
)
def test_a_mistake_in_a_rule(complaints: Complaints, line: str, expected: str) -> None:
    assert complaints(f"{RULE}{line}\n") == [f"4: [[policy.rules]] #1 (it), key {expected}"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "a b",
            "'a b' is not a valid name; use at most 63 letters, digits, '.', '_' and '-', with a letter or digit first",
        ),
        ("default", "'default' is reserved for the default action in verdicts; give the rule another name"),
    ],
)
def test_a_name_that_will_not_do(complaints: Complaints, name: str, expected: str) -> None:
    assert complaints(RULE.replace("it", name)) == [f"2: [[policy.rules]] #1 ({name}), key name: {expected}"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("allow_default = 1", 'allow_default: expected true or false, or "override", got an integer'),
        ("allow_default = 'yes'", "allow_default: expected true or false, or \"override\", got 'yes'"),
        (
            "min_prefix_length = 8",
            "min_prefix_length: expected two integers, for IPv4 and IPv6, got an integer; write it like [8, 16]",
        ),
        (
            "min_prefix_length = [8, true]",
            "min_prefix_length: expected two integers, for IPv4 and IPv6, got an array; write it like [8, 16]",
        ),
        (
            "min_prefix_length = [33, 16]",
            "min_prefix_length: a prefix length is between 0 and 32 for IPv4, and between 0 and 128 for IPv6",
        ),
        (
            "return_path_ok = ['10.99.0.0/16', '10.1.2.3/8']",
            "return_path_ok #2: '10.1.2.3/8' has host bits set; did you mean 10.0.0.0/8?",
        ),
        (
            "next_hop = ['self', '192.0.2.1']",
            'next_hop: "self" covers both families and excludes addresses; write next_hop = "self"',
        ),
        (
            "next_hop = 'this'",
            "next_hop: 'this' is not an address; write an IPv4 or IPv6 address, or \"self\"",
        ),
        ("rate = 1e-9", "rate: must be at least 0.001, got 1e-09"),
        ("burst = 0", "burst: must be at least 1, got 0"),
        ("tls.ca = 1", "tls.ca: unknown key 'ca'; did you mean 'ca_file'?"),
        (
            "next_hop = { dev = 'ens3' }",
            'next_hop: expected a table with the key interface; write { interface = "ens3" }',
        ),
        (
            "next_hop = { interface = 'ens*' }",
            "next_hop: 'ens*' is not the name of one interface; name it without a wildcard",
        ),
        (
            "next_hop = ['::2', '::3']",
            "next_hop: two ipv6 next hops; give at most one address of each family",
        ),
        (
            "next_hop = '192.0.2.1/24'",
            "next_hop: '192.0.2.1/24' is not an address; leave out the prefix length",
        ),
        (
            "next_hop = '0.0.0.0'",
            "next_hop: '0.0.0.0' cannot be a next hop; name an address of this host that loxilb can reach",
        ),
        (
            "next_hop = 'fe80::1'",
            (
                "next_hop: 'fe80::1' is link-local, and loxilb does not accept such a gateway; "
                "name a unicast address of wider scope"
            ),
        ),
    ],
)
def test_a_mistake_in_a_target(complaints: Complaints, line: str, expected: str) -> None:
    assert complaints(f"{TARGET}{line}\n") == [f"4: [[targets]] #1 (edge), key {expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{TARGET}canary_interval_s = 5\n",
            (
                "4: [[targets]] #1 (edge), key canary_interval_s: "
                "canary_interval_s is gone: one owned route is probed every 5 s; remove it"
            ),
        ),
        (
            f"{TARGET}brake_share = 0.5\n",
            "4: [[targets]] #1 (edge), key brake_share: brake_share is now withdraw_limit_share; rename it",
        ),
        (
            f"{TARGET}withdraw_limit_minimum = 5\n",
            (
                "4: [[targets]] #1 (edge), key withdraw_limit_minimum: withdraw_limit_minimum is gone: fewer than 50 "
                "withdrawals never wait, and withdraw_limit_share = 1 turns the limit off; remove it"
            ),
        ),
        (
            f"{TARGET}connect_timeout_s = 5\n",
            (
                "4: [[targets]] #1 (edge), key connect_timeout_s: "
                "connect_timeout_s is gone: a connection attempt ends after 3 s; remove it"
            ),
        ),
        (
            "[kernel]\naudit_interval_s = 5\n",
            (
                "2: [kernel], key audit_interval_s: "
                "audit_interval_s is gone: the kernel is dumped and compared every 600 s; remove it"
            ),
        ),
        (
            "[guard]\nburst = 5\n",
            "2: [guard], key burst: burst is gone: up to 3 routes are removed at once after a quiet time; remove it",
        ),
    ],
)
def test_a_key_of_an_earlier_version_is_an_error_that_names_its_replacement(
    complaints: Complaints, text: str, expected: str
) -> None:
    assert complaints(text) == [expected]


def test_keys_of_earlier_versions_are_gone_and_their_replacements_exist() -> None:
    for model, keys in FORMER_KEYS.items():
        for key, what in keys.items():
            assert key not in model.model_fields
            renamed = what.removeprefix("is now ")
            assert renamed in model.model_fields or what.startswith("is gone: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "hosts = ['a', 'b']\nhost = 'c'",
            "2: [mqtt], key hosts: host and hosts are both given, and differ; give one of them",
        ),
        ("hosts = []", "1: [mqtt], key host: this key is missing"),
        ("host = 'broker'\nport = 70000", "3: [mqtt], key port: must be at most 65535, got 70000"),
        ("host = 'broker'\ntimeout_s = 0", "3: [mqtt], key timeout_s: must be more than 0, got 0"),
        (
            "host = 'broker'\nroot = 'a/#'",
            (
                "3: [mqtt], key root: 'a/#' cannot be a root topic; "
                "write levels joined by '/', without '+', '#' and a leading '$'"
            ),
        ),
        (
            "host = 'mqtt://broker:1883'",
            (
                "2: [mqtt], key host: expected a host's name or address, got a URL; "
                "leave out the scheme, and put the port into 'port'"
            ),
        ),
        (
            "hosts = ['b', '10.0.0.256']",
            "2: [mqtt], key hosts #2: '10.0.0.256' is not an address, and no host name ends with a number",
        ),
    ],
)
def test_a_mistake_about_the_broker(complaints: Complaints, text: str, expected: str) -> None:
    assert complaints(f"[mqtt]\n{text}\n") == [expected]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("192.168.10.20:11111", "'192.168.10.20:11111' is not an http or https URL"),
        ("ftp://192.168.10.20", "'ftp://192.168.10.20' is not an http or https URL"),
        ("http://", "'http://' is not an http or https URL"),
        ("http://192.168.10.20:x", "this is not a URL: its host or port cannot be read"),
        ("http://192.168.10.20:70000", "this is not a URL: its host or port cannot be read"),
        ("http://192.168.10.20:0", "nothing can connect to port 0"),
        ("http://[::1", "this is not a URL: its host or port cannot be read"),
        ("http://a b", "the URL contains white space or a control character"),
        ("http://lb/?a=1", "the URL contains a query or a fragment"),
        ("http://-lb", "'-lb' is not a host name or address"),
        *(
            (f"http://{host}:11111", f"'{host}' is not an address, and no host name ends with a number")
            for host in ("1.2.3.400", "300.1.1.1", "192.0.2", "1.2.3.4.5", "010.0.0.1", "12345", "lb.7.")
        ),
    ],
)
def test_a_url_that_is_none(complaints: Complaints, url: str, message: str) -> None:
    (line,) = complaints(f'[[targets]]\nname = "edge"\nurl = "{url}"\n')
    assert line.startswith(f"3: [[targets]] #1 (edge), key url: {message}; write it like http://")


@pytest.mark.parametrize(
    "url",
    [
        "http://[2001:db8::1]:11111",
        "https://lb.example.net/base",
        "http://lb_1",
        "http://1.2.3.4a",
        "http://lb7",
    ],
)
def test_a_url_that_is_one(tmp_path: Path, url: str) -> None:
    file = tmp_path / "it.toml"
    file.write_text(f'[[targets]]\nname = "edge"\nurl = "{url}/"\n')
    assert load(file, {}, Names()).settings.targets[0].url == url


@pytest.mark.parametrize("url", ["http://192.0.2.1:11111/netlox/v1", "http://192.0.2.1:11111/netlox/v1/"])
def test_the_path_of_the_api_is_no_part_of_the_base_url(tmp_path: Path, url: str) -> None:
    file = tmp_path / "it.toml"
    file.write_text(f'[[targets]]\nname = "edge"\nurl = "{url}"\n')
    assert load(file, {}, Names()).settings.targets[0].url == "http://192.0.2.1:11111"


def test_tls_for_an_http_url_is_a_mistake_of_the_url(complaints: Complaints) -> None:
    assert complaints(f"{TARGET}tls = {{}}\n") == [
        (
            "3: [[targets]] #1 (edge), key url: TLS settings for an http URL; "
            "write https in the URL (loxilb serves it on port 8091)"
        )
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            "'10.0.0.0/8 le 24'",
            """: '10.0.0.0/8 le 24' is how a router's prefix list says it; \
write { within = "10.0.0.0/8", length = "8-24" }""",
        ),
        (
            "'10.0.0.0/8 ge 16 le 24'",
            """: '10.0.0.0/8 ge 16 le 24' is how a router's prefix list says it; \
write { within = "10.0.0.0/8", length = "16-24" }""",
        ),
        (
            "{ within = '10.0.0.0/8', le = 24 }",
            """: le and ge are written as one range of lengths; write length = "-24", beside within = "PREFIX\"""",
        ),
        (
            "{ within = '10.0.0.0/8', ge = 16, le = 24 }",
            """: le and ge are written as one range of lengths; write length = "16-24", beside within = "PREFIX\"""",
        ),
        ("{ list = 'internl' }", ".list: there is no prefix list 'internl'; did you mean 'internal'?"),
        (
            "['10.0.0.0/8', { list = 'x' }]",
            " #2.list: there is no prefix list 'x'; write [policy.prefix_lists] with x = [PREFIX, …]",
        ),
        (
            "{ list = 'internal', length = 24 }",
            (
                ": list cannot be combined with other keys in one entry; write the other keys into the entries of "
                "the list, or, as an alternative to it, into a second entry"
            ),
        ),
    ],
)
def test_a_mistake_about_prefixes_has_its_translation(
    complaints: Complaints, written: str, expected: str
) -> None:
    text = f"{RULE}match.prefix = {written}\n[policy.prefix_lists]\ninternal = '10.0.0.0/8'\n"
    assert complaints(text) == [f"4: [[policy.rules]] #1 (it), key match.prefix{expected}"]


def test_a_prefix_list_cannot_contain_another(complaints: Complaints) -> None:
    assert complaints("[policy.prefix_lists]\na = '10.0.0.0/8'\nb = [{ list = 'a' }]\n") == [
        "3: [policy.prefix_lists.b #1], key list: a prefix list cannot contain another; name both lists in the rule"
    ]


def test_a_mistake_in_the_defaults_of_targets_is_reported_once_and_at_its_line(
    complaints: Complaints,
) -> None:
    other = TARGET.replace("edge", "other")
    assert complaints(f"{TARGET}{other}[target_defaults]\nrate = 0\ntoken = 'x'\n") == [
        "8: [target_defaults], key rate: must be at least 0.001, got 0",
        "9: [target_defaults], key token: unknown key 'token'; did you mean 'token_file'?",
    ]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(complaints: Complaints) -> None:
    text = """
[mqtt]
prot = 1
[[policy.rules]]
name = "it"
action = "drpo"
match = { protocol = "dhpc", prefix = ["10.0.0.1/8", { within = "x" }], metric = "5-3" }
[[targets]]
url = "ftp://x"
"""
    assert [line.split(": ")[:2] for line in complaints(text)] == [
        ["2", "[mqtt], key host"],
        ["3", "[mqtt], key prot"],
        ["6", "[[policy.rules]] #1 (it), key action"],
        ["7", "[[policy.rules]] #1 (it), key match.protocol"],
        ["7", "[[policy.rules]] #1 (it), key match.prefix #1"],
        ["7", "[[policy.rules]] #1 (it), key match.prefix #2.within"],
        ["7", "[[policy.rules]] #1 (it), key match.metric"],
        ["8", "[[targets]] #1, key name"],
        ["9", "[[targets]] #1, key url"],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mode = mirror\n", "1: column 8: not valid TOML: invalid value: mode = …"),
        (
            "\n[mqtt\nhost = 1",
            "2: column 6: not valid TOML: expected ']' at the end of a table declaration: [mqtt",
        ),
        ('a = "', "1: end of file: not valid TOML: unterminated string: a = …"),
        ("a = 1\r\na = 2\r\n", "2: column 6: not valid TOML: cannot overwrite a value: a = …"),
    ],
)
def test_what_is_no_toml(complaints: Complaints, text: str, expected: str) -> None:
    assert complaints(text) == [expected]


def test_a_huge_number(complaints: Complaints) -> None:
    assert complaints(f"a = {'9' * 5000}") == [" a value cannot be read; look for huge numbers"]
    huge = f"0x{'f' * 5000}"  # Python reads it, and does not write it
    text = f"[[targets]]\nname = {huge}\n[guard]\nsettle_s = [1, {{ a = -{'9' * 999} }}]\n"
    said = "this number is too large; it has to fit 64 bits"
    assert complaints(text) == [f"2: {said}", f"4: {said}"]


ODD_VALUES = (
    *('""', '"x"', '"é\\u0001"', "0", "-1", "9223372036854775808", f"0x{'f' * 5000}", "1.5", "-1e3", "nan"),
    *(
        "true",
        "1979-05-27",
        "07:32:00",
        "[]",
        '["a"]',
        "[1]",
        "[[]]",
        "[{}]",
        "{}",
        "{ a = 1 }",
        '{ a = "" }',
    ),
)


def test_no_message_has_the_words_of_the_library(tmp_path: Path) -> None:
    file, said = tmp_path / "it.toml", set()
    for header, model in TABLES.items():
        for key in model.model_fields:
            for value in ODD_VALUES:
                file.write_text(f"{header}{key} = {value}\n")
                try:
                    load(file, {}, Names())
                except ConfigError as error:
                    said |= {problem.message for problem in error.problems}
    assert len(said) > 100
    odd = re.compile(r"should|Input|Value|Tuple|Dictionary|validation|pattern|e\+\d")
    assert [message for message in said if odd.search(message)] == []


@pytest.mark.parametrize("char", ["x", "?"])
def test_a_value_of_many_characters_is_soon_found_wrong(complaints: Complaints, char: str) -> None:
    """The daemon does nothing else meanwhile."""
    began = time.process_time()
    (said,) = complaints(f'[node]\nname = "{char * 200_000}"\n')
    assert said.startswith(f"2: [node], key name: '{char * 60}…' is not a valid name")
    assert time.process_time() - began < 3


PARTS = ".".join("a" * 20_000)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = " + "[" * 100_000, " "),
        ("a = " + "[" * 101 + "]" * 101, " key a: "),
        (f"mode = 'observe'\n[x.{PARTS}]", "2: "),
        (f"[[x.{PARTS}]]", "1: "),
        (f"{PARTS} = 1", "1: "),
        (f"[x]\n  {PARTS.replace('.', ' . ')} = 1", "2: "),
        ("[x]\n" + PARTS.replace("a", '"b c"') + " = 1", "2: "),
        (f"x = {{ {PARTS} = 1 }}", " [x]: "),
        (f"[x.{PARTS[:119]}]\n{PARTS[:119]} = 1", " [x]: "),
    ],
    ids=["open", "arrays", "table", "tables", "key", "blanks", "quoted", "inline", "together"],
)
def test_nesting_without_end(complaints: Complaints, text: str, place: str) -> None:
    began = time.process_time()
    assert complaints(text) == [f"{place}nested too deeply; write at most 100 levels"]
    assert time.process_time() - began < 2


def test_text_and_remarks_with_many_dots_are_no_deep_keys(complaints: Complaints) -> None:
    (said,) = complaints(f"# {PARTS}\n[node]\nname = '{PARTS}' # {PARTS}\n{' ' * 100_000}\n")
    assert said.startswith(f"3: [node], key name: '{PARTS[:60]}…' is not a valid name")


def test_a_file_in_another_encoding(complaints: Complaints) -> None:
    assert complaints("mode = 'mirror'\n# für\n".encode("latin-1")) == [
        "2: this is not UTF-8; save the file as UTF-8"
    ]


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text("mode = 'observe'\n", encoding="utf-8-sig")
    assert load(file, {}, Names()).settings.mode == "observe"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "nix.toml", {})
    file = f"{tmp_path}/nix.toml"
    assert str(caught.value) == (
        f"{file}: no such file; name an existing file, or write one by `routesync init {file}`"
    )


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    assert (
        str(caught.value)
        == f"{tmp_path}: cannot be read: Is a directory; name a file that this user may read"
    )


def test_a_path_that_cannot_be_one() -> None:
    with pytest.raises(ConfigError):
        load(Path("\0"), {})


def test_control_characters_do_not_reach_the_terminal(complaints: Complaints) -> None:
    assert complaints('"a\\u001b[31m\\nb" = 1\n') == ["1: key a\\x1b[31m\\nb: unknown key 'a\\x1b[31m\\nb'"]


@pytest.mark.parametrize(
    "match",
    [
        "",
        "match = { protocol = 'dhcp', host = true }",
        "match = { protocol = 'dhcp', host = true, gateway = true }",
        "match = { protocol = 'dhcp', gateway = false }",
        "match = { protocol = 'dhcp', host = false, gateway = false }",
        "match = { protocol = 'dhcp', prefix = { length = 32 }, gateway = false }",
        "match = { host = true, gateway = false }",
        "match = { protocol = ['dhcp', 'static'], host = true, gateway = false }",
        "match = { protocol = 'boot', host = true, gateway = false }",
        "match = { protocol = 3, host = true, gateway = '10.0.0.0/8' }",
        "match = { link_gateway = false }",
        "match = { link_gateway = true, protocol = 'static' }",
        "match = { link_gateway = true, protocol = ['boot', 'static'] }",
    ],
)
def test_guard_is_for_dhcp_host_routes_only(complaints: Complaints, match: str) -> None:
    (said,) = complaints(f"{RULE}guard = true\n{match}\n")
    assert said.startswith(
        "4: [[policy.rules]] #1 (it), key guard: only DHCP host routes are removed from the kernel"
    )
    assert 'write match = { protocol = "dhcp", host = true, gateway = false }' in said


@pytest.mark.parametrize(
    "match",
    [
        "{ protocol = 'dhcp', host = true, gateway = false }",
        "{ protocol = 16, host = true, gateway = false, interface = 'ens*', family = 'ipv4' }",
        "{ protocol = ['16', 'dhcp'], host = true, gateway = false }",
        "{ link_gateway = true }",
        "{ link_gateway = true, protocol = ['boot', 'dhcp'], interface = 'ens*' }",
    ],
)
def test_guard_takes_a_rule_that_matches_nothing_else(tmp_path: Path, match: str) -> None:
    file = tmp_path / "it.toml"
    file.write_text(f'mode = "guard"\n{RULE}guard = true\nmatch = {match}\n')
    loaded = load(file, {}, Names())
    assert loaded.warnings == ()
    assert loaded.settings.guard.dry_run, "the default"


def test_guard_is_for_dropped_routes(complaints: Complaints) -> None:
    text = (
        RULE.replace("drop", "keep")
        + "guard = true\nmatch = { protocol = 'dhcp', host = true, gateway = false }\n"
    )
    (said,) = complaints(text)
    assert 'a rule that keeps routes cannot remove them; leave the key out, or set action = "drop"' in said


def test_guard_without_effect_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('mode = "guard"\n')
    said = 'mode "guard" removes nothing: no rule says guard = true'
    assert load(file, {}, Names()).warnings == (f"{file}: {said}",)
    file.write_text(f"{RULE}guard = true\nmatch = {{ protocol = 'dhcp', host = true, gateway = false }}\n")
    (said,) = load(file, {}, Names()).warnings
    assert said == (
        f'{file}:1: [[policy.rules]] #1 (it): guard = true takes effect in mode "guard" only, and the mode is "mirror"'
    )


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:1", 0), ("[::1]:65535", 0), ("0.0.0.0:9469", 1)])
def test_a_listener_that_others_can_reach_is_warned_of(tmp_path: Path, listen: str, warned: int) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text(f'[control]\nlisten = "{listen}"\n')
    loaded = load(file, {}, Names())
    assert str(loaded.settings.control.listen) == listen
    assert len(loaded.warnings) == warned
