"""What `plan` and `explain` use: one dump, with the details that the replica leaves out."""

from __future__ import annotations

import json
from typing import Any

from routesync.kernel import RouteDetails, dump_tables
from support.following import MAIN
from support.netns import Namespace


def shown_by_ip(node: Namespace, family: int) -> dict[str, RouteDetails]:
    entries: list[dict[str, Any]] = json.loads(node.ip(f"-j -d -{family} route show table main"))
    return {
        entry["dst"]: RouteDetails(
            tuple(
                sorted(
                    (name, value) for metrics in entry.get("metrics", ()) for name, value in metrics.items()
                )
            ),
            entry.get("pref"),
            entry.get("expires"),
        )
        for entry in entries
    }


async def test_the_details_of_routes_are_those_that_ip_shows(node: Namespace) -> None:
    node.batch(
        [
            "route add 10.9.0.0/24 via 192.0.2.2 mtu 1400 advmss 1300 initcwnd 20",
            "route add 10.9.1.0/24 via 192.0.2.2",
            "route add 10.9.2.0/24 via 192.0.2.2 congctl reno",
            "route add 2001:db8:9::/64 via 2001:db8:e0::2 pref high hoplimit 9",
            "route add 2001:db8:a::/64 via 2001:db8:e0::2 expires 5000",
        ]
    )
    dump = await dump_tables(tables=(MAIN,), netns=node.name)
    ours = {
        str(route.prefix): details._replace(metrics=tuple(sorted(details.metrics)))
        for route, details in dump.details.items()
    }
    theirs = shown_by_ip(node, 4) | shown_by_ip(node, 6)
    expiring = ours.pop("2001:db8:a::/64"), theirs.pop("2001:db8:a::/64")
    assert all(one.expires_s is not None and 4900 < one.expires_s <= 5000 for one in expiring)
    assert ours["2001:db8:9::/64"] == RouteDetails((("hoplimit", 9),), "high", None)
    assert dict(ours["10.9.2.0/24"].metrics)["cc_algo"] == "reno"
    del ours["10.9.2.0/24"], theirs["10.9.2.0/24"]  # ip(8) calls it `congestion`
    assert ours == theirs
