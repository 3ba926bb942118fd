"""Change the code in small ways and see whether anything notices: `make mutation PARTS='policy table'`, by default all.

mutmut wants the code in a folder src that is not installed, so each part gets a scratch tree in build/mutation. A
change is noticed by mypy, with the project's settings, or by the tests of the part, the fast ones first. What nothing
notices must be explained in the part's section of tests/mutation.md, by the changed line; this fails when more than 5 %
of a part's mutants survive without.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
BUILD: Final = ROOT / "build" / "mutation"
EXPLAINED: Final = ROOT / "tests" / "mutation.md"
MOST_UNEXPLAINED: Final = 0.05
CHILDREN: Final = "2"
"""More would not be faster on two cores, and the time limits are by the clock."""
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
    "table": Part(
        ("table.py", "best_routes.py"), ("tests/unit/test_table.py", "tests/unit/test_best_routes.py")
    ),
    "state": Part(
        ("mirror/state.py",),
        # not the state machine: each mutant that survives would cost another minute
        ("tests/unit/mirror/test_state.py", "tests/unit/mirror/test_state_details.py"),
    ),
}
CONFIGURATION: Final = """

[tool.mutmut]
source_paths = ["src"]
only_mutate = {files}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile=mutation", "--assert=plain"]
type_check_command = [{python}, "-m", "mypy", "--output=json", "--cache-dir=../../mypy", "src/routesync"]
also_copy = {copied}
"""
ADAPTED: Final = (
    ('pythonpath = ["tests"', 'pythonpath = ["src", "tests"'),
    ('mypy_path = ["daemon"', 'mypy_path = ["src"'),
    ("[tool.mypy]", "[tool.mypy]\nwarn_unused_ignores = false"),  # mutmut's own lines have some
    ('"ignore-without-code", ', ""),
)
"""What is otherwise in the scratch tree's pyproject.toml."""


def prepare(tree: Path, part: Part) -> None:
    """Make the scratch tree of a part."""
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
    for here, there in ADAPTED:
        project = project.replace(here, there)
    settings = CONFIGURATION.format(
        files=json.dumps([f"src/routesync/{file}" for file in part.files]),
        tests=json.dumps(part.tests),
        python=json.dumps(sys.executable),
        copied=json.dumps(COPIED),
    )
    (tree / "pyproject.toml").write_text(project + settings)


def mutmut(tree: Path, *arguments: str) -> str:
    """Run mutmut in a scratch tree; return its output."""
    command = (str(Path(sys.executable).with_name("mutmut")), *arguments)
    capture = subprocess.PIPE if arguments[0] != "run" else None
    return subprocess.run(command, cwd=tree, check=True, stdout=capture, text=True).stdout


def places(tree: Path, part: Part, mutants: Iterable[str]) -> list[str]:
    """Of each mutant the function and the changed line, as tests/mutation.md has them."""
    source = tree / "mutants" / "src"
    functions: dict[str, list[str]] = {}  # each mutant is a copy of its function, and so is the original
    for file in (path for pattern in part.files for path in source.glob(f"routesync/{pattern}")):
        module, text = ".".join(file.relative_to(source).with_suffix("").parts), file.read_text()
        module = module.removesuffix(".__init__")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{module}.{node.name}"] = lines[node.lineno : node.end_lineno]
    found = []
    for mutant in mutants:
        mangled = mutant.rsplit("__mutmut_", 1)[0]  # module.xǁClassǁmethod, or module.x_function
        pairs = zip_longest(functions[mutant], functions[f"{mangled}__mutmut_orig"], fillvalue="")
        changed = next((line.strip() for line, before in pairs if line != before), "its parameters")
        function = mangled.rsplit(".", 1)[1].removeprefix("x_").rsplit("ǁ", 1)[-1]
        found.append(f"{function}: {changed}")
    return found


def run(name: str, part: Part) -> tuple[int, list[str]]:
    """Try all mutants of a part; return their number, and the place of each that survived."""
    tree = BUILD / name
    prepare(tree, part)
    mutmut(tree, "run", "--max-children", CHILDREN)
    outcomes = dict(re.findall(r"(\S+__mutmut_\d+): (.+)", mutmut(tree, "results", "--all", "true")))
    print(f"{name}: {len(outcomes)} mutants: {dict(Counter(outcomes.values()))}")
    noticed = {"killed", "timeout", "caught by type check"}
    survivors = (mutant for mutant, outcome in outcomes.items() if outcome not in noticed)
    return len(outcomes), places(tree, part, survivors)


def explained(name: str) -> set[str]:
    """The lines of a part's section of tests/mutation.md."""
    sections = EXPLAINED.read_text().split("\n## ")
    return {line.strip() for it in sections if it.startswith(f"{name}\n") for line in it.splitlines()}


def main() -> int:
    """Try the parts that are named, by default all; return 1 where too many survivors are unexplained."""
    status = 0
    for name in sys.argv[1:] or PARTS:
        mutants, survivors = run(name, PARTS[name])
        unexplained = [it for it in survivors if it not in explained(name)]
        share = len(unexplained) / mutants
        print(f"{name}: {len(survivors)} survived, {len(unexplained)} ({share:.1%}) unexplained:")
        print("".join(f"{line}\n" for line in unexplained))
        if share > MOST_UNEXPLAINED:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
