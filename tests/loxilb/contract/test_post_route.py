"""POST /config/route: what each kind of route is answered with, and what the kernel then holds."""

from __future__ import annotations

import pytest

from support.contract import Kernel, Target

SUCCESS = {"result": "Success"}


async def test_static_route_is_static_in_the_kernel_without_a_metric(
    target: Target, kernel: Kernel, prefix: str
) -> None:
    assert await target.post(prefix, target.gateway, protocol="static") == (200, SUCCESS)
    (route,) = kernel.routes(prefix)
    assert (route["gateway"], route["protocol"]) == (target.gateway, "static")
    assert "metric" not in route


async def test_static_ipv6_route_gets_the_kernels_metric_1024(
    target: Target, kernel: Kernel, prefix6: str, gateway6: str
) -> None:
    assert await target.post(prefix6, gateway6, protocol="static") == (200, SUCCESS)
    (route,) = kernel.routes(prefix6)
    assert (route["gateway"], route["protocol"], route["metric"]) == (gateway6, "static", 1024)


@pytest.mark.parametrize(
    "protocol", [{}, {"protocol": ""}, {"protocol": "bgp"}, {"protocol": "dhcp"}, {"protocol": "x"}]
)
async def test_any_other_protocol_becomes_boot(
    target: Target, kernel: Kernel, prefix: str, protocol: dict[str, str]
) -> None:
    assert (await target.post(prefix, target.gateway, **protocol)).status == 200
    # ip(8) leaves "boot" unsaid
    assert [route.get("protocol", "boot") for route in kernel.routes(prefix)] == ["boot"]


async def test_the_same_route_again_is_a_conflict(target: Target, prefix: str) -> None:
    await target.post(prefix, target.gateway)
    reply = await target.post(prefix, target.gateway)
    assert reply.status == 409
    assert reply.words == "file exists"
    assert reply.body["code"] == 409
    assert reply.body["fields"] is None


async def test_another_gateway_for_the_prefix_is_a_conflict_and_changes_nothing(
    target: Target, kernel: Kernel, prefix: str
) -> None:
    await target.post(prefix, target.gateway)
    reply = await target.post(prefix, target.other_gateway)
    assert (reply.status, reply.words) == (409, "file exists")
    assert [route["gateway"] for route in kernel.routes(prefix)] == [target.gateway]


async def test_an_ipv6_prefix_that_is_there_is_a_conflict(
    target: Target, prefix6: str, gateway6: str
) -> None:
    await target.post(prefix6, gateway6)
    reply = await target.post(prefix6, gateway6)
    assert (reply.status, reply.words) == (409, "file exists")


async def test_a_route_with_a_metric_is_no_obstacle(target: Target, kernel: Kernel, prefix: str) -> None:
    kernel.ip(f"route add {prefix} via {target.other_gateway} metric 100")
    assert await target.post(prefix, target.gateway) == (200, SUCCESS)
    assert [route.get("metric", 0) for route in kernel.routes(prefix)] == [0, 100]


async def test_gateway_that_is_not_on_link_is_unreachable(target: Target, prefix: str) -> None:
    reply = await target.post(prefix, "203.0.113.9")
    assert (reply.status, reply.words) == (500, "network is unreachable")


async def test_gateway_behind_another_gateway_is_unreachable(target: Target, prefix: str) -> None:
    await target.post(prefix, target.gateway)
    reply = await target.post("198.19.0.0/24", prefix.replace("0/24", "1"))
    assert (reply.status, reply.words) == (500, "network is unreachable")


async def test_gateway_whose_link_is_down_is_unreachable(target: Target, down_link: str, prefix: str) -> None:
    assert down_link
    reply = await target.post(prefix, "198.51.100.2")
    assert (reply.status, reply.words) == (500, "network is unreachable")


async def test_gateway_need_not_answer(target: Target, prefix: str) -> None:
    assert await target.post(prefix, target.other_gateway) == (200, SUCCESS)


@pytest.mark.parametrize("gateway", ["", "garbage", "192.168.10.1/24", "0.0.0.0", "fe80::1%eth0"])
async def test_gateway_that_is_no_address_is_no_device(target: Target, prefix: str, gateway: str) -> None:
    reply = await target.post(prefix, gateway)
    assert (reply.status, reply.words) == (404, "no such device")


async def test_broadcast_gateway_is_invalid(target: Target, prefix: str) -> None:
    reply = await target.post(prefix, target.broadcast)
    assert (reply.status, reply.words) == (400, "invalid argument")


async def test_link_local_ipv6_gateway_is_invalid(target: Target, prefix6: str) -> None:
    reply = await target.post(prefix6, "fe80::1")
    assert (reply.status, reply.words) == (400, "invalid argument")


async def test_missing_gateway_is_refused_before_the_kernel(target: Target, prefix: str) -> None:
    reply = await target.ask("POST", "/config/route", json={"destinationIPNet": prefix})
    assert reply == (422, {"code": 602, "message": "gateway in body is required"})


@pytest.mark.parametrize(
    "text", ["198.18.0.0/33", "198.18.0.0", "198.18.0.0/", "garbage", "", "2001:db8::/129"]
)
async def test_malformed_prefix_is_an_invalid_cidr(target: Target, text: str) -> None:
    reply = await target.post(text, target.gateway)
    assert (reply.status, reply.words) == (400, f"invalid CIDR address: {text}")


@pytest.mark.parametrize(
    "body", [b'{"destinationIPNet":7,"gateway":"192.168.10.1"}', b"[]", b"{", b"not JSON"]
)
async def test_wrong_types_and_bad_json_are_bad_requests(target: Target, body: bytes) -> None:
    reply = await target.ask("POST", "/config/route", data=body, headers={"Content-Type": "application/json"})
    assert reply.status == 400
    assert reply.body["code"] == 400


async def test_another_content_type_is_unsupported(target: Target, prefix: str) -> None:
    body = f'{{"destinationIPNet":"{prefix}","gateway":"{target.gateway}"}}'
    reply = await target.ask("POST", "/config/route", data=body, headers={"Content-Type": "text/plain"})
    assert reply.status == 415


async def test_host_bits_are_masked_away(target: Target, kernel: Kernel, prefix: str) -> None:
    assert await target.post(prefix.replace("0/24", "5/24"), target.gateway) == (200, SUCCESS)
    assert len(kernel.routes(prefix)) == 1


async def test_families_are_not_mixed(target: Target, prefix: str, prefix6: str) -> None:
    for reply in (await target.post(prefix, "fd00:10::1"), await target.post(prefix6, target.gateway)):
        assert reply.status == 500
        assert reply.words == "gateway, source, and destination ip are not the same IP family"


async def test_loopback_as_gateway_is_taken_and_never_shown(target: Target, prefix: str) -> None:
    assert await target.post(prefix, "127.0.0.1") == (200, SUCCESS)
    await target.settled("198.19.1.0/24")
    assert await target.row(prefix) is None


async def test_connected_network_is_a_conflict(target: Target) -> None:
    reply = await target.post(target.connected, target.gateway)
    assert (reply.status, reply.words) == (409, "file exists")


async def test_repeated_post_shows_that_the_kernel_lost_the_route(
    target: Target, kernel: Kernel, prefix: str
) -> None:
    await target.post(prefix, target.gateway)
    kernel.ip(f"route del {prefix}")
    assert await target.post(prefix, target.gateway) == (200, SUCCESS)
    assert (await target.post(prefix, target.gateway)).status == 409


async def test_harmful_prefixes_are_taken_all_the_same(target: Target, gateway6: str) -> None:
    for harmful, gateway in (
        (f"{target.neighbour}/32", target.other_gateway),
        ("224.0.5.0/24", target.gateway),
        ("ff05::/64", gateway6),
    ):
        assert await target.post(harmful, gateway) == (200, SUCCESS)
        assert await target.delete(harmful) == (200, SUCCESS)
