"""What a listener knows of a node's table by what is retained."""

from __future__ import annotations

from routesync.events.node_status import TableBucket, TableManifest
from routesync.events.retained import bucket_digest, bucket_name
from support.events import Heard, Listener


def rows(listener: Listener) -> dict[str, dict[str, object]]:
    """The table as the last message of each bucket has it."""
    last = {heard.topic: heard for heard in listener.heard if is_bucket(heard)}
    found: dict[str, dict[str, object]] = {}
    for heard in last.values():
        if heard.payload:
            routes = heard.data["routes"]
            assert isinstance(routes, list)
            found |= {row["prefix"]: row for row in routes}
    return found


def is_bucket(heard: Heard) -> bool:
    """Whether it is a part of a table."""
    return "/table/" in heard.topic and not heard.topic.endswith("/manifest")


def is_whole(listener: Listener) -> bool:
    """Whether each bucket has the epoch, sequence and digest that its manifest says."""
    last = {heard.topic: heard for heard in listener.heard if "/table/" in heard.topic and heard.payload}
    manifests = [heard for topic, heard in last.items() if topic.endswith("/manifest")]
    for manifest in manifests:
        lines = TableManifest.model_validate(manifest.data)
        for number, line in enumerate(zip(lines.sequences, lines.digests, strict=True)):
            heard = last.get(manifest.topic.replace("manifest", bucket_name(number, lines.depth)))
            if heard is None:
                return False
            bucket = TableBucket.model_validate(heard.data)
            if (bucket.sequence, bucket_digest(bucket)) != line:
                return False
            if heard.envelope["epoch"] != manifest.envelope["epoch"]:
                return False
    return bool(manifests)
