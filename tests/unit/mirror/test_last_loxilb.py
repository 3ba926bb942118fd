"""Which loxilb a target was last: another one only if the URL and the loxilb both changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from routesync.loxilb.errors import NotSent
from routesync.mirror.last_loxilb import LastLoxilb, Loxilb, RequiredLoxilb
from support.disks import fill, small_disk

A, B = (
    Loxilb("http://192.0.2.1:11111", "5a0f3c9d1b2e4f60"),
    Loxilb("http://lb.example.net:11111", "0123456789abcdef"),
)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("met", "is_another"),
    [
        (A, False),
        (B, True),
        (A._replace(url=B.url), False),
        (A._replace(instance=B.instance), False),
        (B._replace(instance=None), False),
    ],
)
def test_both_have_to_change(tmp_path: Path, met: Loxilb, is_another: bool, restart: bool) -> None:  # noqa: FBT001
    last = LastLoxilb(tmp_path, "edge")
    assert not last.replaced_by(A)
    last.note(A)
    for _ in range(2):  # until it is noted
        if restart:
            last = LastLoxilb(tmp_path, "edge")
        assert last.replaced_by(met) is is_another
    last.note(met)
    assert not last.replaced_by(met)


@pytest.mark.parametrize("content", [b"", b"http://192.0.2.1", b"a\nb\nc\n", b"\xff\xfe\n\n"])
def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "loxilb-edge").write_bytes(content)
    last = LastLoxilb(tmp_path, "edge")
    assert not last.replaced_by(A)
    last.note(A)
    assert LastLoxilb(tmp_path, "edge").replaced_by(B)


def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("loxilb-edge", ".loxilb-edge"):
        os.mkfifo(tmp_path / name)
    last = LastLoxilb(tmp_path, "edge")
    assert not last.replaced_by(A)
    last.note(A)
    assert LastLoxilb(tmp_path, "edge").replaced_by(B)


def test_a_directory_that_cannot_be_written_costs_only_the_next_run(tmp_path: Path) -> None:
    last = LastLoxilb(tmp_path / "gone", "edge")
    last.note(A)
    assert last.replaced_by(B)


@pytest.mark.root
def test_a_full_disk_leaves_the_one_that_was_noted(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as state:
        LastLoxilb(state, "edge").note(A)
        fill(state)
        LastLoxilb(state, "edge").note(B)
        assert LastLoxilb(state, "edge").replaced_by(B)


@pytest.mark.root
def test_what_a_full_disk_refused_is_noted_once_it_has_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as state:
        LastLoxilb(state, "edge").note(A)
        full, last = fill(state), LastLoxilb(state, "edge")
        assert last.replaced_by(B)
        last.note(B)
        full.unlink()
        assert not last.replaced_by(B)
        last.note(B)
        assert not LastLoxilb(state, "edge").replaced_by(B)


def test_where_no_other_will_do_another_one_is_refused(tmp_path: Path) -> None:
    LastLoxilb(tmp_path, "edge").note(A)
    required = RequiredLoxilb(tmp_path, "edge")
    for _ in range(2):
        with pytest.raises(
            NotSent, match=r"lb\.example\.net:11111 leads to another loxilb than http://192\.0\.2\.1"
        ):
            required.replaced_by(B)
    assert not required.replaced_by(A)
    assert not RequiredLoxilb(tmp_path, "edge").replaced_by(A._replace(url=B.url))
    assert not RequiredLoxilb(tmp_path, "new").replaced_by(B)
