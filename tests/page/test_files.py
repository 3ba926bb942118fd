"""The files of the page: formatted, and with nothing by which a peer's text could become markup."""

from __future__ import annotations

import re
import subprocess

import pytest

from routesync.cli.page import SOURCE
from support.npm import installed

FILES = sorted(
    file for file in SOURCE.iterdir() if file.suffix in {".js", ".css", ".html"} and file.name != "mqtt.js"
)


def test_they_are_formatted() -> None:
    prettier = installed("prettier") / "bin" / "prettier.cjs"
    done = subprocess.run(
        ["node", prettier, "--print-width", "110", "--check", *FILES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\nprettier --print-width 110 --write formats them"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_text_can_become_markup_or_code(file: str) -> None:
    text = SOURCE.joinpath(file).read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\bon\w+=\"", text
    )
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)  # no request to the outside
