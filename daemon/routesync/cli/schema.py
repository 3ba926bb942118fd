"""`routesync schema`: the contracts, for machines: of the event stream, and of the configuration."""

from __future__ import annotations

import json

from routesync.cli.output import print_error
from routesync.config.schema import json_schema_text
from routesync.events.contract import asyncapi, schemas


def schema(which: str) -> int:
    """Print a document; return the exit status."""
    known = schemas()
    if which == "config":
        print(json_schema_text(), end="")
    elif which == "asyncapi" or which in known:
        print(json.dumps(asyncapi() if which == "asyncapi" else known[which], indent=2))
    else:
        print_error(
            f"schema {which!r} is unknown; there are asyncapi, config and: {', '.join(sorted(known))}"
        )
        return 2
    return 0
