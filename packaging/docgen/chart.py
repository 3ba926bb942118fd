"""The schema of the chart's values: `config` is the configuration file, so that Helm refuses what `check` would."""

from __future__ import annotations

import json
import re
from typing import Any

from docgen import config_schema
from routesync import __version__

_TEXT = {"type": "string"}
_MAP = {"type": "object"}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def values_schema_text() -> str:
    config: dict[str, Any] = json.loads(config_schema.json_schema_text())
    definitions = config.pop("$defs")
    for unused in ("$schema", "title"):
        config.pop(unused)
    config["properties"].pop("mode")  # a value of its own
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the routesync chart",
        **_object(
            mode={"enum": ["mirror", "observe", "guard", "withdraw"]},
            config=config,
            credentials=_TEXT,
            image=_object(
                repository=_TEXT,
                tag=_TEXT,
                digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            ),
            imagePullSecrets={"type": "array", "items": _MAP},
            statePath={"type": "string", "pattern": "^/."},
            runtimePath={"type": "string", "pattern": "^/."},
            metrics=_object(
                enabled=_FLAG,
                address=_TEXT,
                port={"type": "integer", "minimum": 1, "maximum": 65535},
                podMonitor=_FLAG,
                rules=_FLAG,
                dashboard=_FLAG,
                labels=_TEXTS,
            ),
            resources=_MAP,
            nodeSelector=_TEXTS,
            tolerations={"type": "array", "items": _MAP},
            affinity=_MAP,
            priorityClassName=_TEXT,
            podAnnotations=_TEXTS,
            podLabels=_TEXTS,
            terminationGracePeriodSeconds={"type": "integer", "minimum": 1},
        ),
        "$defs": definitions,
    }
    document["properties"]["global"] = {}  # Helm's own, where the chart is part of another one
    return json.dumps(document, indent=2) + "\n"


def chart_text(written: str) -> str:
    """Chart.yaml with the program's version."""
    return re.sub(r"^(version|appVersion): .*$", rf"\1: {__version__}", written, flags=re.MULTILINE)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}
