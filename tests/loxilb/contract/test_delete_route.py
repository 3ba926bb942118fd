"""DELETE /config/route/destinationIPNet/{address}/{length}: it takes whatever comes first, or nothing."""

from __future__ import annotations

import pytest

from support.contract import Kernel, Target

SUCCESS = {"result": "Success"}


async def test_own_route_goes(target: Target, kernel: Kernel, prefix: str) -> None:
    await target.post(prefix, target.gateway, protocol="static")
    assert await target.delete(prefix) == (200, SUCCESS)
    assert kernel.routes(prefix) == []


async def test_absent_route_is_no_such_process(target: Target, prefix: str) -> None:
    reply = await target.delete(prefix)
    assert (reply.status, reply.words) == (404, "no such process")


@pytest.mark.parametrize("how", ["proto bgp", "proto dhcp metric 100", "proto 77 metric 4000"])
async def test_anyones_route_goes_whatever_its_protocol_and_metric(
    target: Target, kernel: Kernel, prefix: str, how: str
) -> None:
    kernel.ip(f"route add {prefix} via {target.gateway} {how}")
    assert await target.delete(prefix) == (200, SUCCESS)
    assert kernel.routes(prefix) == []


async def test_ecmp_route_goes_whole(target: Target, kernel: Kernel, prefix: str) -> None:
    kernel.ip(f"route add {prefix} nexthop via {target.gateway} nexthop via {target.other_gateway}")
    assert await target.delete(prefix) == (200, SUCCESS)
    assert kernel.routes(prefix) == []


async def test_ipv6_ecmp_route_goes_whole(
    target: Target, kernel: Kernel, prefix6: str, gateway6: str
) -> None:
    kernel.ip(f"-6 route add {prefix6} nexthop via {gateway6} nexthop via {gateway6}1")
    assert await target.delete(prefix6) == (200, SUCCESS)
    assert kernel.routes(prefix6) == []


async def test_blackhole_goes(target: Target, kernel: Kernel, prefix: str) -> None:
    kernel.ip(f"route add blackhole {prefix}")
    assert await target.delete(prefix) == (200, SUCCESS)


async def test_default_route_goes(target: Target, kernel: Kernel) -> None:
    if kernel.routes("0.0.0.0/0"):
        pytest.skip("this loxilb has a default route that it may need")
    kernel.ip(f"route add default via {target.gateway} metric 100")
    assert await target.delete("0.0.0.0/0") == (200, SUCCESS)


async def test_dhcp_host_route_stays(target: Target, kernel: Kernel) -> None:
    host = f"{target.gateway}/32"
    kernel.ip(f"route add {host} dev {kernel.device} proto dhcp scope link metric 100")
    try:
        reply = await target.delete(host)
        assert (reply.status, reply.words) == (404, "no such process")
        assert len(kernel.routes(host)) == 1
    finally:
        kernel.ip(f"route del {host}")


async def test_connected_route_stays(target: Target, kernel: Kernel) -> None:
    reply = await target.delete(target.connected)
    assert (reply.status, reply.words) == (404, "no such process")
    assert len(kernel.routes(target.connected)) == 1


@pytest.mark.parametrize("how", ["tos 0x10", "table 100"])
async def test_route_with_tos_or_of_another_table_is_not_found(
    target: Target, kernel: Kernel, prefix: str, how: str
) -> None:
    kernel.ip(f"route add {prefix} via {target.gateway} {how}")
    try:
        assert (await target.delete(prefix)).status == 404
    finally:
        kernel.ip(f"route del {prefix} {how}")


async def test_of_several_metrics_the_lowest_goes_first(target: Target, kernel: Kernel, prefix: str) -> None:
    for metric in (300, 100, 200):
        kernel.ip(f"route add {prefix} via {target.gateway} metric {metric}")
    left = []
    while await target.delete(prefix) == (200, SUCCESS):
        left.append([route["metric"] for route in kernel.routes(prefix)])
    assert left == [[200, 300], [300], []]


async def test_foreign_route_that_replaced_ours_is_taken(target: Target, kernel: Kernel, prefix: str) -> None:
    await target.post(prefix, target.gateway, protocol="static")
    kernel.ip(f"route replace {prefix} via {target.other_gateway} proto bgp")
    assert (await target.post(prefix, target.gateway, protocol="static")).status == 409
    assert await target.delete(prefix) == (200, SUCCESS)
    assert kernel.routes(prefix) == []


async def test_foreign_ipv6_route_of_lower_metric_is_taken_instead_of_ours(
    target: Target, kernel: Kernel, prefix6: str, gateway6: str
) -> None:
    await target.post(prefix6, gateway6, protocol="static")
    kernel.ip(f"-6 route add {prefix6} via {gateway6}1 proto bgp metric 20")
    assert (await target.post(prefix6, gateway6, protocol="static")).status == 409
    assert await target.delete(prefix6) == (200, SUCCESS)
    assert [route["gateway"] for route in kernel.routes(prefix6)] == [gateway6]


@pytest.mark.parametrize("written", ["2001:db8:ffff::/48", "2001%3Adb8%3Affff%3A%3A/48"])
async def test_colons_in_the_path_work_raw_and_encoded(target: Target, gateway6: str, written: str) -> None:
    await target.post("2001:db8:ffff::/48", gateway6)
    assert await target.delete(written) == (200, SUCCESS)


async def test_malformed_address_is_an_invalid_cidr(target: Target) -> None:
    reply = await target.delete("garbage/24")
    assert (reply.status, reply.words) == (400, "invalid CIDR address: garbage/24")


async def test_length_that_is_no_number_is_unprocessable(target: Target) -> None:
    assert (await target.delete("198.18.0.0/x")).status == 422
