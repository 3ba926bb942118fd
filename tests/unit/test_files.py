"""Reading files: regular ones of a sensible size, /dev/null as an empty one, and never a wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from routesync.files import UnfitFileError, read_file, require_regular


def test_a_regular_file_is_read_also_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"it")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_file(tmp_path / name) == b"it"
        require_regular(tmp_path / name)


def test_dev_null_is_an_empty_file_to_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    assert read_file(tmp_path / "link") == b""


@pytest.mark.parametrize("has_writer", [False, True])
def test_a_pipe_is_not_waited_for(tmp_path: Path, *, has_writer: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR) if has_writer else None
    for use in (read_file, require_regular):
        with pytest.raises(UnfitFileError, match=r"^not a regular file$"):
            use(pipe)
    if writer is not None:
        os.close(writer)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/tty"])
def test_a_device_is_not_read(device: str) -> None:
    with pytest.raises(OSError, match=r"not a regular file|No such device"):  # the second: no terminal
        read_file(Path(device))


def test_a_very_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(16 * 2**20)
        assert len(read_file(tmp_path / "file")) == 16 * 2**20
        file.truncate(16 * 2**20 + 1)
    with pytest.raises(UnfitFileError, match="larger than 16 MiB"):
        read_file(tmp_path / "file")


def test_what_is_missing_or_a_directory_fails_where_it_is_opened(tmp_path: Path) -> None:
    require_regular(tmp_path / "none")
    require_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
