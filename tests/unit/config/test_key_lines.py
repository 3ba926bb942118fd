"""The lines of keys."""

from __future__ import annotations

import tomllib

from routesync.config.problems import KeyPath, key_lines, line_of

DOCUMENT = r'''# a comment = "[not.a.table]"
mode = "mirror" # [not.a.table]
dotted . key = 1
"quoted \u0041.key" = 2
'literal' = """
[not.a.table]
no = "key" \"""
"""
raw = """"""
closing = '''
DOCUMENT += """'''
a = 1
''''
after = [
  1, # ]
  "]", [ 2,
  3 ],
  { x = 1, y.z = [ 1979-05-27 07:32:00, 'a' ] },
]

[ table . sub ]
key = { a = { b = 1 }, c = "}" }
[[array]]
key = 1
[array.inner]
key = 1
[[array.list]]
[[array.list]]
key = 1
[[array]]
  key = 1
"""

EXPECTED: dict[KeyPath, int] = {
    ("mode",): 2,
    ("dotted", "key"): 3,
    ("quoted A.key",): 4,
    ("literal",): 5,
    ("raw",): 9,
    ("closing",): 10,
    ("after",): 13,
    ("after", 0): 14,
    ("after", 1): 15,
    ("after", 2, 1): 16,
    ("after", 3, "y", "z", 1): 17,
    ("table", "sub"): 20,
    ("table", "sub", "key", "a", "b"): 21,
    ("array",): 22,
    ("array", 0): 22,
    ("array", 0, "key"): 23,
    ("array", 0, "inner", "key"): 25,
    ("array", 0, "list", 1, "key"): 28,
    ("array", 1): 29,
    ("array", 1, "key"): 30,
}


def paths(value: object, base: KeyPath = ()) -> set[KeyPath]:
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return {(*base, key) for key, _ in items}.union(*(paths(inner, (*base, key)) for key, inner in items))


def test_each_key_has_its_line() -> None:
    lines = key_lines(DOCUMENT)
    assert {path: lines.get(path) for path in EXPECTED} == EXPECTED


def test_every_key_that_tomllib_finds_is_found_and_no_other() -> None:
    found = set(key_lines(DOCUMENT))
    known = paths(tomllib.loads(DOCUMENT))
    assert known <= found | {("table",), ("array", 0, "inner")}
    assert found - {()} <= known


def test_windows_line_ends_count_once() -> None:
    assert key_lines("a = 1\r\n\r\nb = 2\r\n")[("b",)] == 3


def test_an_absent_key_has_the_line_of_its_table() -> None:
    lines = key_lines("[mqtt]\nport = 1\n")
    assert line_of(lines, ("mqtt", "host")) == 1
    assert line_of(lines, ("log", "level")) is None
