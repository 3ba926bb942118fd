"""The documents name files and headings that exist, and the picture in ARCHITECTURE.md shows the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daemon" / "routesync"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md")
LINKING = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/*.md"))
)
PARTS = sorted(
    path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
)
THIRD_PARTIES = {
    "aiohttp": {"control"},
    "aiomqtt": {"events", "doctor"},
    "paho": {"events"},
    "httptools": {"loxilb"},
    "prometheus_client": {"service"},
    "pyroute2": {"kernel"},
    "typer": {"cli"},
    "rich": {"cli"},
}
UNDRAWN = {"__init__", "__main__"}


def exists(named: str, document: str) -> bool:
    """Whether a path or glob leads somewhere from the root, the package, the tests, or the document's own folder."""
    bases = (ROOT, PACKAGE, ROOT / "tests", (ROOT / document).parent)
    return any(next(base.glob(named.rstrip("/")), None) is not None for base in bases)


def named_paths(text: str) -> set[str]:
    """What is in backticks or behind a link and looks like a path: a folder with a slash, or a file."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`([^`\s]+)`", prose)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose) if "://" not in link]
    paths = {name for name in quoted if re.fullmatch(r"[\w.*/-]+(/|\.(py|md|toml|json|txt))", name)}
    return paths | set(links)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    paths = named_paths(text)
    assert paths, "no path was found: the pattern is wrong"
    assert [path for path in sorted(paths) if not exists(path, document)] == []


def anchors(document: Path) -> set[str]:
    """What `#…` may name in a document: its headings, as GitHub writes them."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", LINKING)
def test_every_link_leads_to_a_file_and_a_heading_of_it(document: str) -> None:
    prose = re.sub(r"^```.*?^```", "", (ROOT / document).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        to = (ROOT / document).parent / path if path else ROOT / document
        if "://" not in link and not (to.exists() and (not anchor or anchor in anchors(to))):
            wrong.append(link)
    assert wrong == []


def applies_to() -> list[str]:
    """The globs in the first column of the last table of ARCHITECTURE.md, relative to the package or to the root."""
    rows = ARCHITECTURE.split("\n## What applies where\n")[1].split("\n## ")[0].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    return [glob for cell in cells for glob in re.findall(r"`([^`]+)`", cell)]


def test_every_file_of_the_package_is_in_the_table_and_the_table_names_nothing_else() -> None:
    globs = applies_to()
    assert [glob for glob in globs if not exists(glob, "ARCHITECTURE.md")] == []
    covered = {path for glob in globs for path in PACKAGE.glob(glob)}
    files = {path for path in PACKAGE.rglob("*.py") if path.stem not in UNDRAWN}
    missing = [path for path in files if path not in covered and not covered & set(path.parents)]
    assert sorted(str(path.relative_to(PACKAGE)) for path in missing) == []


def rows_of_the_picture() -> dict[str, int]:
    """Each part of the package that is drawn, with the number of its line; remarks are behind a `#`."""
    picture = ARCHITECTURE.split("```text\n")[1].split("```")[0]
    found: dict[str, int] = {}
    for number, line in enumerate(picture.splitlines()):
        for word in re.findall(r"\w+", line.partition("#")[0]):
            assert word in PARTS, f"{word} is no part of the package"
            assert word not in found, f"{word} is drawn twice"
            found[word] = number
    return found


@cache
def imports() -> frozenset[tuple[str, str]]:
    """Each import: the part of the package that imports, and the module with its dots."""
    return frozenset(imported())


def imported() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        importer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                yield from ((importer, f"{node.module}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((importer, alias.name) for alias in node.names)


def test_every_part_is_drawn() -> None:
    assert set(PARTS) - UNDRAWN == set(rows_of_the_picture())


def test_every_import_goes_down_in_the_picture() -> None:
    rows = rows_of_the_picture()
    found = {
        (importer, module.split(".")[1]) for importer, module in imports() if module.startswith("routesync.")
    }
    drawn = {(one, other) for one, other in found if one != other and {one, other} <= set(rows)}
    assert len(drawn) > 20, "the imports were not found"
    assert {(one, other) for one, other in drawn if rows[one] >= rows[other]} == set()


def test_a_library_is_imported_by_the_parts_that_are_made_for_it() -> None:
    for library, parts in THIRD_PARTIES.items():
        importers = {importer for importer, module in imports() if module.split(".")[0] == library}
        assert importers <= parts, library
