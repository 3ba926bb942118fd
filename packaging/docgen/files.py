"""All generated files, by their names in the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from docgen import chart, config_schema, configuration, contract, events, metrics
from routesync.control import openapi
from routesync.control.api import CALLS

ROOT: Final = Path(__file__).parents[2]
MARKER: Final = "<!-- `make docs` writes all that follows; the text above is written by hand. -->\n"


def files() -> dict[str, str]:
    made = {
        "config/routesync.schema.json": config_schema.json_schema_text(),
        "docs/cli.md": _cli(),
        "docs/configuration.md": _below_marker("docs/configuration.md", configuration.markdown()),
        "docs/control/openapi.json": openapi.text(CALLS),
        "docs/events.md": _below_marker("docs/events.md", events.markdown()),
        "docs/events/asyncapi.json": _json(contract.asyncapi()),
        "packaging/helm/routesync/Chart.yaml": chart.chart_text(_read("packaging/helm/routesync/Chart.yaml")),
        "packaging/helm/routesync/values.schema.json": chart.values_schema_text(),
        "docs/metrics.md": _below_marker("docs/metrics.md", metrics.markdown()),
    }
    for type_name, schema in contract.schemas().items():
        made[f"docs/events/schemas/{type_name}.json"] = _json(schema)
    return made


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _below_marker(name: str, generated: str) -> str:
    written, _, _ = _read(name).partition(MARKER)
    return f"{written}{MARKER}\n{generated}"


def _cli() -> str:
    command = [sys.executable, "-m", "typer", "routesync.cli.app", "utils", "docs", "--name", "routesync"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip() + "\n"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"
