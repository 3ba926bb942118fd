"""Configurations of the documentation, damaged: settings or problems, no traceback; and `check` shows the truth."""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from routesync.config import ConfigError, Loaded, Problem, load
from routesync.config.effective import effective, toml
from routesync.names import Names
from support.damage import ODD_NUMBERS, ODD_TEXTS, damaged_bytes, each

ROOT: Final = Path(__file__).parents[3]
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - many files, and no disk is to wait for


def _texts() -> list[str]:
    files = [*(ROOT / "config").rglob("*.toml"), *(ROOT / "docs").glob("*.md")]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    blocks = [
        block
        for file, text in texts.items()
        for block in re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]
    return [text for file, text in texts.items() if file.suffix == ".toml"] + blocks


TEXTS: Final = _texts()
LINES: Final = [line for text in TEXTS for line in text.splitlines() if line and not line.startswith("#")]
VALUE: Final = re.compile(r'"[^"\n]*"|\b\d+\b|\btrue\b|\bfalse\b|\[[^\[\]\n]*\]')


def _odd(chance: random.Random) -> str:
    texts = ["'" + text.replace("'", "").replace("\n", "").replace("\0", "") + "'" for text in ODD_TEXTS]
    return chance.choice(
        (*texts, *map(repr, ODD_NUMBERS), "[]", "{}", "true", "1979-05-27", "[1, 'a']", '"""\n"""')
    )


def damaged_file(chance: random.Random) -> bytes:
    """One of them with lines or values changed, or bytes."""
    lines = chance.choice(TEXTS).splitlines()
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        at = chance.randrange(len(lines) + 1)
        match chance.randrange(5):
            case 0:
                lines.insert(at, chance.choice(LINES))
            case 1:
                del lines[at : at + 1]
            case _ if at < len(lines):
                found = [*VALUE.finditer(lines[at])]
                if found:
                    value = chance.choice(found)
                    other = chance.choice([*VALUE.finditer(chance.choice(LINES))] or [value])
                    new = other.group() if chance.random() < 0.5 else _odd(chance)
                    lines[at] = lines[at][: value.start()] + new + lines[at][value.end() :]
    content = "\n".join(lines).encode("utf-8", "replace")
    return damaged_bytes(content, chance) if chance.random() < 0.3 else content


def _shown(loaded: Loaded) -> list[tuple[object, object]]:
    return [(setting.path, setting.value) for setting in effective(loaded)]


def attempt(chance: random.Random) -> None:
    content = damaged_file(chance)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        file = Path(directory) / "routesync.toml"
        file.write_bytes(content)
        problems: tuple[Problem, ...] = ()
        try:
            loaded = load(file, {}, Names())
        except ConfigError as error:
            problems = error.problems
        else:
            _require_shown_truly(loaded, file)
            return
        assert problems
        for problem in problems:
            text = str(problem)
            text.encode()
            assert "\n" not in text
            assert problem.line is None or 1 <= problem.line <= content.count(b"\n") + 1


def _require_shown_truly(loaded: Loaded, file: Path) -> None:
    """What `check` prints is a configuration that means the same."""
    shown = effective(loaded)
    if not any(setting.secret for setting in shown):
        file.write_text(toml(shown), encoding="utf-8")
        assert _shown(load(file, {}, Names())) == _shown(loaded)


@given(st.integers(0, 2**32))
def test_a_damaged_file_gives_settings_or_problems(seed: int) -> None:
    each(seed, 2, attempt)
