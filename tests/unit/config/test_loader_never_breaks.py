"""Whatever is in the file, the answer is settings or a list of problems."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from routesync.config import ConfigError, Problem, load
from routesync.config.models import Settings
from routesync.config.parsers import Model
from routesync.config.problems import key_lines, model_in
from routesync.names import Names


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "it.toml"


def attempt(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    problems: tuple[Problem, ...] = ()
    try:
        load(file, {}, Names())
    except ConfigError as error:
        problems = error.problems
        assert problems  # no exception at all is as good
    for problem in problems:
        assert problem.message
        assert "\n" not in str(problem)
        assert problem.line is None or 1 <= problem.line <= content.count(b"\n") + 1


texts = st.text(max_size=12) | st.sampled_from(
    [
        *(
            "dhcp",
            "main",
            "ipv4",
            "10.0.0.0/8",
            "10.0.0.1/8",
            "::/0",
            "fe80::1%eth0",
            "100-200",
            "-",
            "1-",
            "keep",
        ),
        *(
            "http://a",
            "https://[::1]:1/b",
            "http://a:99999",
            "[",
            "*",
            "[!a]",
            "a" * 300,
            "\0",
            "٣",
            "²",
            "linkdown",
        ),
        *(
            "1.2.3.4",
            "0.0.0.0/0.0.0.0",
            "10.0.0.0/0.0.0.255",
            "::ffff:1.2.3.4",
            "a/b",
            "/",
            "drop",
            "mirror",
            "5.0",
        ),
    ]
)
scalars = (
    st.none().map(lambda _: 0)
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, 10**400, -1, 252, 254])
    | st.floats()
    | texts
    | st.dates()
    | st.times()
    | st.datetimes()
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def tables(model: type[Model]) -> st.SearchStrategy[dict[str, object]]:
    """Tables with the model's own keys, and mostly senseless values."""
    keys: dict[str, st.SearchStrategy[object]] = {}
    for key, field in model.model_fields.items():
        inner = model_in(field.annotation)
        keys[key] = anything
        if inner is not None:
            table = tables(inner)
            many = any("tuple" in str(part) for part in (field.annotation, *get_args(field.annotation)))
            keys[key] = anything | table | (st.lists(table, max_size=3) if many else table)
    return st.fixed_dictionaries({}, optional=keys)


def toml(value: object) -> str:
    """Write a value inline."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in value) + '"'
        case float():
            return repr(value).replace("+", "") if "e" not in repr(value) else f"{value:.1e}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
        case int():
            return str(value)
        case _:
            return str(value)  # dates and times are written as Python does


def document(table: dict[str, object]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in table.items())


quick = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
@example(content=b"[[policy.rules]]\n[policy]\n")
@example(content=b"\xef\xbb\xbf\xef\xbb\xbf")
@quick
def test_any_bytes(file: Path, content: bytes) -> None:
    attempt(file, content)


@given(
    lines=st.lists(
        st.sampled_from(
            [
                *(
                    "[policy]",
                    "[[policy.rules]]",
                    "[policy.rules.match]",
                    "[[targets]]",
                    "[targets.tls]",
                    "[mqtt]",
                ),
                *(
                    "[kernel]",
                    "[[kernel]]",
                    "name = 'a'",
                    "action = 'drop'",
                    "url = 'http://a'",
                    "host = 'a'",
                    "tls = {}",
                ),
                *(
                    "match.host = true",
                    "match = { protocol = 'bgp' }",
                    "prefix = ['::/0', {within='::/0'}]",
                    "'' = 1",
                ),
                *(
                    '"""a""" = 1',
                    "a.b.c = [[[{}]]]",
                    "# [x]",
                    "password = '''",
                    "'''",
                    '"""',
                    "]",
                    "}",
                    "x = {",
                ),
            ]
        ),
        max_size=12,
    )
)
@quick
def test_any_lines(file: Path, lines: list[str]) -> None:
    attempt(file, "\n".join(lines).encode())


@given(table=tables(Settings))
@settings(quick, max_examples=3 * settings().max_examples // 2)
def test_any_value_in_any_key(file: Path, table: dict[str, object]) -> None:
    text = document(table)
    key_lines(text)
    tomllib.loads(text)
    attempt(file, text.encode())


@pytest.mark.parametrize("nest", ["[{}]", "{{a={}}}", "{{'a'={}}}"])
def test_any_depth(file: Path, nest: str) -> None:
    opening, closing = nest.format(" ").split()
    for depth in range(150, 520, 7):
        attempt(file, f"x = {opening * depth}1{closing * depth}".encode())
