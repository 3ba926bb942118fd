"""Whether a loxilb lives in our namespace, from lists of ports that may be incomplete or a moment old."""

from __future__ import annotations

import pytest

from routesync.kernel import Link
from routesync.loxilb.schema import Port
from routesync.mirror.namespace import AGREEING, Settling, Sharing, sharing


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def link(ifindex: int, name: str, *, number: int | None = None) -> Link:
    return Link(ifindex, name, 0x1043, mac(ifindex if number is None else number))


LO = Link(1, "lo", 0x10049, bytes(6))
ENS3, CNI0, VETH = link(2, "ens3"), link(3, "cni0"), link(4, "veth0")
TUN = Link(5, "tun0", 0x1043, b"")
LINKS = {it.ifindex: it for it in (LO, ENS3, CNI0, VETH)}


def port(of: Link, **changes: object) -> Port:
    return Port(of.name, of.ifindex, of.mac.hex(":"))._replace(**changes)  # type: ignore[arg-type]


ALL = [port(ENS3), port(CNI0), port(VETH)]
PSEUDO = Port("vlan3801", -1, "")
FOREIGN = Port("eth0", 2, "02:00:00:00:00:99")
FOREIGN_TOO = Port("llb0", 9, "02:00:00:00:00:98")


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        (ALL, Sharing.YES),
        ([*ALL, PSEUDO], Sharing.YES),
        ([port(ENS3)], Sharing.YES),  # it may leave links alone (--blacklist), or still be starting
        ([port(ENS3), port(CNI0, name="old-name"), port(VETH)], Sharing.YES),  # renamed since
        (
            [port(ENS3), port(CNI0, mac="02:00:00:00:00:77"), port(VETH)],
            Sharing.YES,
        ),  # a bond changed its MAC
        ([*ALL, Port("pod", 17, "02:00:00:00:00:17")], Sharing.YES),  # a pod that is gone already
        ([FOREIGN], Sharing.NO),
        ([FOREIGN, FOREIGN_TOO], Sharing.NO),
        ([port(ENS3), FOREIGN_TOO], Sharing.NO),  # equal by chance, as an ipvlan of ens3 would be
        ([port(ENS3, name="eth0"), FOREIGN_TOO], Sharing.NO),
        (
            [port(ENS3, mac="02:00:00:00:00:99")],
            Sharing.NO,
        ),  # the same name and number, as in many a container
        ([port(CNI0, ifindex=7), port(ENS3, ifindex=8)], Sharing.NO),
        ([], Sharing.UNKNOWN),
        ([PSEUDO], Sharing.UNKNOWN),
    ],
)
def test_what_a_list_of_ports_says(ports: list[Port], expected: Sharing) -> None:
    assert sharing(ports, LINKS) is expected


def test_while_our_own_links_are_not_known_nothing_is() -> None:
    assert sharing([FOREIGN], {}) is Sharing.UNKNOWN


def test_one_link_in_common_is_not_all_of_ours_in_a_namespace_that_has_only_one() -> None:
    assert sharing([port(ENS3), FOREIGN_TOO], {1: LO, 2: ENS3}) is Sharing.NO


def test_a_link_without_a_mac_proves_nothing() -> None:
    assert sharing([Port("tun0", 5, "")], {1: LO, 5: TUN}) is Sharing.NO
    assert sharing([port(ENS3), Port("tun0", 5, "")], {1: LO, 2: ENS3, 5: TUN}) is Sharing.YES


def test_a_list_counts_when_it_was_read_twice() -> None:
    settling = Settling()
    assert settling.note([], LINKS) == (Sharing.UNKNOWN, False)
    assert settling.note([], LINKS) == (Sharing.UNKNOWN, False)
    assert settling.note([port(ENS3)], LINKS) == (Sharing.YES, False)
    assert settling.note([port(ENS3), FOREIGN_TOO], LINKS) == (Sharing.NO, False)
    assert settling.note([port(ENS3), FOREIGN_TOO], LINKS) == (Sharing.NO, True)


def test_a_list_that_fills_while_it_starts_is_not_believed_half_way() -> None:
    """The first port is equal to one of ours by chance; more ports say otherwise."""
    settling = Settling()
    said = [settling.note(ports, LINKS) for ports in ([], [port(ENS3)], [port(ENS3), FOREIGN_TOO])]
    assert not any(settled for _, settled in said)


def test_ports_that_come_and_go_all_the_time_are_settled_when_they_say_the_same_often_enough() -> None:
    settling = Settling()
    said = [
        settling.note([*ALL, Port(f"pod{number}", 100 + number, "")], LINKS) for number in range(AGREEING)
    ]
    assert [settled for _, settled in said] == [False] * (AGREEING - 1) + [True]
