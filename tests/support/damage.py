"""Valid inputs, damaged by chance: what a careless or hostile writer may send, near enough to the truth to be read far.

A property takes a seed from hypothesis and tries some damages of it: so a million cases take minutes, and a failure
comes back with its seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

ODD_NUMBERS: Final = (
    *(0, -1, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**4000)),
    *(0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan")),
)
ODD_TEXTS: Final = (
    *("", " ", "\0", "\n", "\x1b[2J", "\u202e", "\ud800", "é", "٣", "/", "+", "#", "..", "a" * 5000),
    *(
        "1",
        "-1",
        "nan",
        "null",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "::/0",
        "fe80::1%eth0",
        "192.0.2.1",
    ),
    *(
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "2026-01-01T00:00:00",
        "1970-01-01T00:00:00+14:00",
    ),
)
_DEEPEST: Final = 300


def damaged_bytes(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """The same with some bits, bytes or parts changed."""
    it = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(it) + 1)
        match chance.randrange(9):
            case 0 if at < len(it):
                it[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(it):
                it[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                del it[at : at + chance.choice((1, 2, 4, chance.randrange(1, 64)))]
            case 3:
                it[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8)))
            case 4:
                del it[at:]
            case 5:
                part = it[at : at + chance.randrange(1, 64)]
                to = chance.randrange(len(it) + 1)
                it[to:to] = part
            case 6 if others:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                it[at:at] = other[start : start + chance.randrange(1, 64)]
            case 7:
                size = min(chance.choice((16, 512, 4096)), len(it) - at)
                it[at : at + size] = bytes(size)
            case 8:
                width = chance.choice((2, 4))
                value = chance.choice((0, 1, 4, 8, 0x7FFF, 0x8000, 0xFFFF))
                it[at : at + width] = value.to_bytes(width, chance.choice(("little", "big")))
    return bytes(it)


def damaged_document(document: Any, chance: random.Random) -> Any:
    """The same JSON document with some of its values changed, moved, added or left out."""
    it = json.loads(json.dumps(document))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = [*_places(it)]
        if not places:
            return it
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del holder[key]
            case 1:
                other, from_key = chance.choice(places)
                holder[key] = json.loads(json.dumps(other[from_key]))
            case 2 if isinstance(holder, list):
                holder.insert(0, holder[key])
            case 3 if isinstance(holder, dict):
                holder[chance.choice(ODD_TEXTS)] = holder.pop(key)
            case _:
                holder[key] = odd_value(chance, holder[key])
    return it


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    keys: Any = ()
    if isinstance(document, dict):
        keys = document
    elif isinstance(document, list):
        keys = range(len(document))
    for key in keys:
        yield document, key
        yield from _places(document[key])


def odd_value(chance: random.Random, before: Any) -> Any:
    """Another value, mostly of the same type."""
    if isinstance(before, str) and chance.random() < 0.6:
        return chance.choice((*ODD_TEXTS, before + chance.choice(ODD_TEXTS), before.upper(), before[1:]))
    if isinstance(before, int | float) and chance.random() < 0.6:
        return chance.choice((*ODD_NUMBERS, before + 1, -before))
    nested: Any = chance.choice(([], {}))
    for _ in range(chance.choice((0, 1, 3, _DEEPEST))):
        nested = chance.choice(([nested], {"a": nested}))
    return chance.choice((None, True, False, nested, chance.choice(ODD_TEXTS), chance.choice(ODD_NUMBERS)))


def damaged_json(document: Any, chance: random.Random) -> bytes:
    """The document as text, damaged as a document, as text, or both."""
    how = chance.random()
    text = json.dumps(damaged_document(document, chance) if how < 0.85 else document).encode()
    return damaged_bytes(text, chance) if how > 0.75 else text


def each(seed: int, times: int, attempt: Callable[[random.Random], None]) -> None:
    """Make some attempts, each with its own chance; a failure names the one that it was."""
    for number in range(times):
        try:
            attempt(random.Random(f"{seed} {number}"))
        except Exception as error:
            error.add_note(f'random.Random("{seed} {number}") makes this case')
            raise
