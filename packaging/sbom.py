"""Print a software bill of materials (CycloneDX 1.6, JSON) of what is installed in a folder, the only argument."""

from __future__ import annotations

import json
import os
import sys
import uuid
from datetime import UTC, datetime
from email.message import Message
from importlib.metadata import Distribution, distributions
from typing import Any, cast

from licences import licence_of

PROGRAM = "loxilb-routesync"


def main(folder: str) -> None:
    found = sorted((component(it) for it in distributions(path=[folder])), key=lambda it: str(it["name"]))
    (program,) = (it for it in found if it["name"] == PROGRAM)
    libraries = [it for it in found if it is not program]
    made = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    content = json.dumps(found, sort_keys=True)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # of the content, so that the same build gives the same bytes
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "timestamp": made.isoformat().replace("+00:00", "Z"),
            "component": {**program, "type": "application"},
        },
        "components": libraries,
        "dependencies": [
            {"ref": str(program["bom-ref"]), "dependsOn": [str(it["bom-ref"]) for it in libraries]}
        ],
    }
    print(json.dumps(document, indent=2))


def component(distribution: Distribution) -> dict[str, Any]:
    fields = cast("Message", distribution.metadata)  # its protocol lacks get()
    name, version = str(fields["Name"]).lower().replace("_", "-"), distribution.version
    purl = f"pkg:pypi/{name}@{version}"
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if expression := fields.get("License-Expression"):
        made["licenses"] = [{"expression": expression}]
    elif licence := licence_of(fields):
        made["licenses"] = [{"license": {"name": licence}}]
    return made


main(sys.argv[1])
