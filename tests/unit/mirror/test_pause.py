"""A pause outlives a restart by a file in the state directory; where that fails, the operator learns it."""

from __future__ import annotations

from pathlib import Path

from routesync.mirror.pause import Pause


def test_it_is_found_again_until_it_ends(tmp_path: Path) -> None:
    first = Pause(tmp_path, "edge")
    assert first.since is None
    assert first.begin() is None
    assert Pause(tmp_path, "edge").since is not None
    assert Pause(tmp_path, "core").since is None
    assert first.end() is None
    assert Pause(tmp_path, "edge").since is None


def test_what_cannot_be_written_pauses_all_the_same_and_is_said(tmp_path: Path) -> None:
    pause = Pause(tmp_path / "gone", "edge")
    assert (pause.begin() or "").endswith("the pause would not survive a restart of the daemon")
    assert pause.since is not None


def test_what_cannot_be_removed_ends_all_the_same_and_is_said(tmp_path: Path) -> None:
    pause = Pause(tmp_path, "edge")
    assert pause.path is not None
    pause.path.mkdir()  # which unlink(2) refuses to remove, for root, too
    assert (pause.end() or "").endswith("would come back with a restart: remove the file")
    assert pause.since is None
