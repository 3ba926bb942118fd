"""The files of the page: formatted, and with nothing by which a peer's text could become markup."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from routesync.cli.page import SOURCE
from routesync.events.retained import bucket_name, bucket_of
from routesync.route import Address, Prefix
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


def test_a_prefix_has_the_same_text_and_the_same_bucket_as_in_the_daemon(tmp_path: Path) -> None:
    chance = random.Random(3)
    cases = []
    for number in range(4000):
        width = 4 if number % 4 == 0 else 16
        words = [chance.choice([0, 0, 0, chance.getrandbits(16), 0xFFFF]) for _ in range(width // 2)]
        address = Address(b"".join(word.to_bytes(2, "big") for word in words))
        prefix = Prefix(address, 8 * width).cut(chance.randrange(8 * width + 1))
        text = str(prefix)
        names = [bucket_name(bucket_of(text, depth), depth) for depth in (6, 7, 8, 9)]
        cases.append([str(Prefix(address, 8 * width)), prefix.length, text, names])
    for file in SOURCE.glob("*.js"):
        shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "check.js").write_text(
        """
        import { readFileSync } from "node:fs";
        import { network, parse } from "./net.js";
        import { bucketName, bucketOf } from "./topics.js";
        const found = JSON.parse(readFileSync("cases.json")).map(([host, length]) => {
          const text = network(parse(host), length);
          return [host, length, text, [6, 7, 8, 9].map((depth) => bucketName(bucketOf(text, depth), depth))];
        });
        console.log(JSON.stringify(found));
        """
    )
    done = subprocess.run(["node", "check.js"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == cases
