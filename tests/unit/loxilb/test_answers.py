"""What loxilb's answers mean: its result first, then the status, then the kernel's words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesync.loxilb import errors, schema
from routesync.loxilb.errors import LoxilbError
from routesync.route import Prefix, parse_address
from support.inventories import parse_inventory


def error_body(code: int, words: str) -> bytes:
    return json.dumps({"code": code, "fields": None, "message": "err", "result": words}).encode()


def test_success_is_success() -> None:
    schema.require_success("POST", 200, b'{"result":"Success"}')


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, error_body(409, "file exists"), errors.AlreadyExists),
        (500, error_body(500, "network is unreachable"), errors.NextHopUnreachable),
        (404, error_body(404, "no such process"), errors.NoSuchRoute),
        (404, error_body(404, "no such device"), errors.InvalidRequest),
        (400, error_body(400, "invalid argument"), errors.InvalidRequest),
        (400, error_body(400, "invalid CIDR address: x"), errors.InvalidRequest),
        (422, b'{"code":602,"message":"attribute.gateway in body is required"}', errors.InvalidRequest),
        (415, b'{"code":415,"message":"unsupported media type"}', errors.InvalidRequest),
        (
            500,
            error_body(500, "gateway, source, and destination ip are not the same IP family"),
            errors.InvalidRequest,
        ),
        (500, b'{"code":500,"message":"invalid token"}', errors.AccessDenied),
        (401, b'{"code":401,"message":"unauthenticated"}', errors.AccessDenied),
        (500, error_body(500, "something else"), errors.OutcomeUnknown),
        (502, b"<html>bad gateway</html>", errors.OutcomeUnknown),
        (200, b"", errors.OutcomeUnknown),
        (200, b"<html>a captive portal</html>", errors.OutcomeUnknown),
        (200, b"[]", errors.OutcomeUnknown),
    ],
)
def test_each_answer_has_its_meaning(status: int, body: bytes, kind: type[LoxilbError]) -> None:
    with pytest.raises(kind) as caught:
        schema.require_success("POST 10.0.0.0/8", status, body)
    assert "POST 10.0.0.0/8" in str(caught.value)


def test_before_0_9_8_5_a_failure_comes_as_200_and_says_nothing_of_its_cause() -> None:
    with pytest.raises(errors.LoxilbError):
        schema.require_success("POST", 200, b'{"result":"fail"}')


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_at_all_is_anything_but_success_or_an_error_of_the_tree(status: int, body: bytes) -> None:
    try:
        schema.require_success("POST", status, body)
    except LoxilbError:
        pass
    else:
        assert json.loads(body)["result"] == "Success"


def test_an_inventory_is_read_row_by_row_and_odd_rows_are_counted() -> None:
    body = json.dumps(
        {
            "routeAttr": [
                {
                    "destinationIPNet": "10.1.0.0/24",
                    "flags": "Ind",
                    "gateway": "192.168.10.1",
                    "protocol": "static",
                },
                {
                    "destinationIPNet": "10.2.0.0/24",
                    "flags": "Ind",
                    "gateway": "192.0.2.1, 192.0.2.2",
                    "protocol": "186",
                },
                {"destinationIPNet": "2001:db8::/32", "gateway": "2001:db8::1", "protocol": 4},
                {"destinationIPNet": "192.168.10.0/24", "flags": "Self"},
                {"destinationIPNet": "10.3.0.0/40"},
                {"gateway": "10.0.0.1"},
                {"destinationIPNet": "nonsense", "gateway": "x"},
                17,
            ]
        }
    ).encode()
    inventory = parse_inventory(body, "GET")
    assert inventory.unreadable == 4
    assert inventory.first_unreadable == '{"destinationIPNet": "10.3.0.0/40"}'
    assert inventory.rows[Prefix.parse("10.1.0.0/24")].gateways == (parse_address("192.168.10.1"),)
    assert len(inventory.rows[Prefix.parse("10.2.0.0/24")].gateways) == 2
    assert inventory.rows[Prefix.parse("2001:db8::/32")].protocol == "4"
    assert inventory.rows[Prefix.parse("192.168.10.0/24")].gateways == ()


def test_rows_that_say_the_same_of_their_prefixes_are_one() -> None:
    row = {"flags": "Ind", "gateway": "192.168.10.1", "protocol": "static"}
    body = json.dumps(
        {"routeAttr": [row | {"destinationIPNet": f"10.{n}.0.0/16"} for n in range(9)]}
    ).encode()
    rows = parse_inventory(body, "GET").rows
    assert len(rows) == 9
    assert len({id(row) for row in rows.values()}) == 1


def test_a_table_is_read_in_steps_of_so_many_rows() -> None:
    rows = [{"destinationIPNet": f"10.{n >> 8}.{n & 255}.0/24"} for n in range(3 * schema.ROWS_A_SLICE)]
    body = json.dumps({"routeAttr": rows}).encode()
    assert len(list(schema.read_inventory(body, "GET"))) == 3
    assert len(parse_inventory(body, "GET").rows) == len(rows)


def test_the_sample_of_an_unreadable_row_is_short_and_harmless() -> None:
    body = b'{"routeAttr":[ {"destinationIPNet":\n"\\u001b[2J\xe2\x80\xae' + b"x" * 9000 + b'"},{"a":1} ]}'
    inventory = parse_inventory(body, "GET")
    assert inventory.unreadable == 2
    assert inventory.first_unreadable.startswith('{"destinationIPNet": "\\u001b[2J\\u202exxx')
    assert len(inventory.first_unreadable) <= 101


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"routeAttr":{}}',
        b'{"routeAttr":"x"}',
        b"\xff",
        b'{"routeAttr":[]',
        b'{"routeAttr":[}',
        b'{"routeAttr":[{}{}]}',
        b'{"routeAttr":[]}}',
        b'{"routeAttr" []}',
        b'{"routeAttr":[],5}',
        b"{5:[]}",
    ],
)
def test_a_body_that_is_no_inventory_is_an_unknown_outcome(body: bytes) -> None:
    with pytest.raises(errors.OutcomeUnknown):
        parse_inventory(body, "GET")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["routeAttr", "portAttr", "destinationIPNet", "gateway", "flags", "portName", "osId"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_is_an_error_of_the_tree(document: object) -> None:
    body = json.dumps(document).encode()
    for parse in (parse_inventory, schema.parse_ports):
        try:
            parse(body, "GET")
        except LoxilbError:
            continue


def test_ports_are_read_with_what_identifies_a_link() -> None:
    body = json.dumps(
        {
            "portAttr": [
                {
                    "portName": "eth0",
                    "portSoftwareInformation": {"osId": 2},
                    "portHardwareInformation": {"macAddress": "AA:bb:cc:00:11:22"},
                },
                {"portName": "vlan3801", "portSoftwareInformation": {"osId": -1}},
            ]
        }
    ).encode()
    assert schema.parse_ports(body, "GET") == (
        schema.Port("eth0", 2, "aa:bb:cc:00:11:22"),
        schema.Port("vlan3801", -1, ""),
    )


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["a", "routeAttr\u00e9", "z"]), _json), st.lists(_json), st.booleans())
def test_the_rows_of_a_table_are_those_that_json_reads(
    others: dict[str, object],
    rows: list[object],
    indented: bool,  # noqa: FBT001 (drawn)
) -> None:
    keys = sorted([*others, "routeAttr"])
    text = json.dumps({key: others.get(key, rows) for key in keys}, indent=1 if indented else None)
    assert [value for value, _, _ in schema._elements(text, "routeAttr")] == rows
    assert [json.loads(text[begin:end]) for _, begin, end in schema._elements(text, "routeAttr")] == rows
