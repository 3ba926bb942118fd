"""Every recipe of the cookbook is a configuration that loads without a warning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from routesync.config import load
from support.certificates import Authority

TEXT = (Path(__file__).parents[3] / "docs" / "cookbook.md").read_text(encoding="utf-8")
RECIPES = {
    title: block
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    for block in re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
}


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_loads(title: str, tmp_path: Path) -> None:
    for name in set(re.findall(r'_file = "(.+?)"', RECIPES[title])):
        file = tmp_path / name
        if file.suffix == ".pem":
            authority = Authority(tmp_path, "authority")
            pair = authority.issue("host", alternative="DNS:host.example.net")
            file.write_text(pair.certificate.read_text() + pair.key.read_text())
        else:
            file.write_text("secret")
        file.chmod(0o600)
    path = tmp_path / "routesync.toml"
    path.write_text(RECIPES[title], encoding="utf-8")
    assert load(path, {"SITE": "north"}).warnings == ()
