"""Words for numbers."""

from __future__ import annotations

from pathlib import Path

from routesync.names import PROTOCOLS, Names, read_rt_file, scope_name, type_name


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_files_of_iproute2_are_read() -> None:
    text = "#\n# reserved\n#\n0\tunspec\n0x10 dhcp  # by lease\n 77 mine\nnonsense\nx y\n300\n\n"
    assert read_rt_file(text) == {"unspec": 0, "dhcp": 16, "mine": 77}


def test_built_in_names_are_there_without_iproute2(tmp_path: Path) -> None:
    names = Names.of_host([tmp_path / "nix"])
    assert names == Names()
    assert names.protocols["dhcp"] == 16
    assert names.tables["main"] == 254


def test_names_of_the_host_are_added(tmp_path: Path) -> None:
    write(tmp_path, "share/rt_protos", "77 mine\n")
    write(tmp_path, "share/rt_tables.d/vrf.conf", "1001 blue\n")
    write(tmp_path, "share/rt_tables.d/README", "1002 red\n")
    write(tmp_path, "etc/rt_protos", "78 mine\n")
    names = Names.of_host([tmp_path / "share", tmp_path / "etc"])
    assert names.protocols["mine"] == 78
    assert names.table(1001) == "blue"
    assert "red" not in names.tables


def test_a_file_takes_no_built_in_name_away(tmp_path: Path) -> None:
    write(tmp_path, "rt_protos.d/frr.conf", "186 bgp\n196 static\n")
    names = Names.of_host([tmp_path])
    assert names.protocols["static"] == 4
    assert names.protocol(196) == "zstatic"


def test_files_that_are_no_text_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "rt_protos").write_bytes(b"\xff\xfe 77 mine\n78 yours\n")
    (tmp_path / "rt_tables").mkdir()
    assert Names.of_host([tmp_path]).protocols == {"yours": 78, **PROTOCOLS}


def test_numbers_without_a_name_are_their_digits() -> None:
    names = Names()
    assert (names.protocol(16), names.protocol(77)) == ("dhcp", "77")
    assert (names.table(254), names.table(1001)) == ("main", "1001")
    assert (scope_name(253), scope_name(7)) == ("link", "7")
    assert (type_name(1), type_name(99)) == ("unicast", "99")
