"""`routesync schema`: the contract of the event stream, for machines."""

from __future__ import annotations

import json

from routesync.cli.output import complain
from routesync.events.contract import asyncapi, schemas


def schema(which: str) -> int:
    """Print the AsyncAPI document, or the JSON Schema of one type's data; return the exit status."""
    known = schemas()
    if which != "asyncapi" and which not in known:
        complain(f"schema {which!r} is unknown; there are asyncapi and: {', '.join(sorted(known))}")
        return 2
    print(json.dumps(asyncapi() if which == "asyncapi" else known[which], indent=2))
    return 0
