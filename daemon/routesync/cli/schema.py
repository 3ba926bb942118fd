"""`routesync schema`: prints the documents that describe the event stream and the configuration to machines."""

from __future__ import annotations

from pathlib import Path

from routesync.cli.output import print_error


def documents() -> dict[str, Path]:
    """The documents by name; `make docs` writes them, and the wheel contains them in one folder."""
    packaged = Path(__file__).parents[1] / "contracts"
    if packaged.is_dir():
        return {file.stem: file for file in packaged.glob("*.json")}
    repository = Path(__file__).parents[3]
    files = (repository / "docs/events").glob("**/*.json")
    return {"config": repository / "config/routesync.schema.json"} | {file.stem: file for file in files}


def schema(which: str) -> int:
    """Print a document; return the exit status."""
    known = documents()
    if which not in known:
        print_error(f"schema {which!r} is unknown; known schemas: {', '.join(sorted(known))}")
        return 2
    print(known[which].read_text(encoding="utf-8"), end="")
    return 0
