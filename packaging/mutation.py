"""Change the code in small ways and see whether a test notices: `make mutation PARTS='policy table'`, by default all.

mutmut wants the code in a folder src that is not installed, so each part gets a scratch tree in build/mutation. The
tests that run are those of the part. What no test notices must be explained in tests/mutation.md; this fails when more
than 5 % of a part's mutants survive without.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
BUILD: Final = ROOT / "build" / "mutation"
EXPLAINED: Final = ROOT / "tests" / "mutation.md"
MOST_UNEXPLAINED: Final = 0.05
COPIED: Final = ("tests", "config", "docs", "examples", "packaging", "systemd", "CHANGELOG.md", "README.md")


class Part(NamedTuple):
    """What is changed, and the tests that should notice."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


PARTS: Final = {
    "policy": Part(("policy/*.py",), ("tests/unit/policy",)),
    "eligibility": Part(
        ("mirror/eligibility.py",),
        ("tests/unit/mirror/test_eligibility.py", "tests/unit/mirror/test_target_settings.py"),
    ),
    "update": Part(
        ("kernel/update.py",), ("tests/unit/kernel/test_update.py", "tests/unit/kernel/test_fib.py")
    ),
    "table": Part(("table.py", "best_routes.py"), ("tests/unit/test_table.py",)),
    "state": Part(
        ("mirror/state.py",),
        ("tests/unit/mirror/test_state.py", "tests/unit/mirror/test_state_machine.py"),
    ),
}
CONFIGURATION: Final = """

[tool.mutmut]
source_paths = ["src"]
only_mutate = {files}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutation"]
also_copy = {copied}
"""


def run(name: str, part: Part) -> tuple[int, list[str]]:
    """Try all mutants of a part; return their number, and of each that survived the line that it changed."""
    tree = BUILD / name
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    shutil.copytree(ROOT / "daemon", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for copied in COPIED:
        source, copy = ROOT / copied, tree / copied
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copyfile(source, copy)
    project = (ROOT / "pyproject.toml").read_text()
    project = project.replace('pythonpath = ["tests"', 'pythonpath = ["src", "tests"')
    files = [f"src/routesync/{file}" for file in part.files]
    settings = CONFIGURATION.format(
        files=json.dumps(files), tests=json.dumps(part.tests), copied=json.dumps(COPIED)
    )
    (tree / "pyproject.toml").write_text(project + settings)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    mutmut = str(Path(sys.executable).with_name("mutmut"))
    subprocess.run([mutmut, "run"], cwd=tree, env=environment, check=True)
    results = subprocess.run(
        [mutmut, "results", "--all", "true"],
        cwd=tree,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    outcomes = dict(re.findall(r"(\S+): (killed|survived|timeout|no tests|suspicious)", results))
    survivors: list[str] = []
    for mutant, outcome in outcomes.items():
        if outcome in ("survived", "no tests"):
            shown = subprocess.run(
                [mutmut, "show", mutant],
                cwd=tree,
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            changed = re.findall(r"^\+(?!\+\+)\s*(.+)$", shown, re.MULTILINE)
            survivors.append(changed[0] if changed else mutant)
    counts = {outcome: list(outcomes.values()).count(outcome) for outcome in sorted(set(outcomes.values()))}
    print(f"{name}: {len(outcomes)} mutants, {counts}")
    return len(outcomes), survivors


def main() -> int:
    """Try the parts that are named, by default all; return 1 where too many survivors are unexplained."""
    text = EXPLAINED.read_text()
    status = 0
    for name in sys.argv[1:] or PARTS:
        mutants, survivors = run(name, PARTS[name])
        unexplained = [line for line in survivors if line not in text]
        print(f"{name}: {len(survivors)} survived, {len(unexplained)} of them unexplained:")
        print("".join(f"  {line}\n" for line in unexplained))
        if len(unexplained) > MOST_UNEXPLAINED * mutants:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
