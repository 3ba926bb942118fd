"""Models that a generator makes of the AsyncAPI document parse every message, for Python and TypeScript."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from demo.topology import MIRRORED_TABLE
from docgen.contract import asyncapi
from support.npm import installed
from support.waiting import eventually_sync
from support.world import world

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
Message = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the generated models are."""
    installed("@asyncapi/modelina", HERE)
    made = tmp_path_factory.mktemp("models")
    document = made / "asyncapi.json"
    document.write_text(json.dumps(asyncapi()))
    subprocess.run(["node", HERE / "generate.mjs", document, made], check=True)
    return made


@pytest.fixture(scope="module")
def python(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_models", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks for what models name
    spec.loader.exec_module(module)
    return module


@cache
def names() -> dict[str, str]:
    """CloudEvents type to the name of its model."""
    messages = asyncapi()["components"]["messages"].values()
    return {message["name"]: message["payload"]["$ref"].rpartition("/")[2] for message in messages}


def parse(folder: Path, python: ModuleType, messages: Iterable[Message]) -> None:
    """Parse them by both; what is written again is the same, so no field is unknown to the models."""
    lines: list[str] = []
    for message in messages:
        name = names()[message["type"]]
        read = getattr(python, name).model_validate(message)
        assert without_null(read.model_dump(mode="json")) == without_null(message)
        assert read.additional_properties is None
        assert read.data.additional_properties is None
        lines.append(json.dumps([name, message]))
    command = ["node", str(HERE / "parse.mjs"), str(folder)]
    done = subprocess.run(command, input="\n".join(lines), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def test_each_message_has_a_model_of_its_own(folder: Path, python: ModuleType) -> None:
    generated = {name for name in vars(python) if name.endswith("Message")}
    assert generated == {*names().values()}
    assert len(generated) == len(names())
    assert "class Anonymous" not in (folder / "models.py").read_text() + (folder / "models.ts").read_text()


def test_the_examples_are_parsed(folder: Path, python: ModuleType) -> None:
    messages = asyncapi()["components"]["messages"].values()
    parse(folder, python, [message["examples"][0]["payload"] for message in messages])


def test_what_a_daemon_publishes_is_parsed(folder: Path, python: ModuleType, tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    routes = [f"10.1.{number}.0/24" for number in range(40)]
    with world(tmp_path) as scene, scene.listening("#", recorded):
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        scene.node.batch([f"route add {prefix} via 192.168.10.1" for prefix in routes])
        scene.mirror_holds([*MIRRORED_TABLE, *(f"{prefix} via 192.168.10.1" for prefix in routes)])
        scene.run("pause", "edge")
        scene.run("resume", "edge")
        scene.node.batch([f"route del {prefix}" for prefix in routes])
        scene.mirror_holds(MIRRORED_TABLE)
        assert scene.stop() == 0
        eventually_sync(lambda: b'"offline"' in recorded.read_bytes(), what="the last status")
    messages = [json.loads(line) for line in recorded.read_bytes().splitlines() if line]
    kinds = {message["type"] for message in messages}
    assert {"io.routesync.status.v1", "io.routesync.table.v1", "io.routesync.route.withdrawn.v1"} <= kinds
    parse(folder, python, messages)
