"""Every recipe of the cookbook is a configuration that loads without a warning: for root, and for the service.

A file that a recipe names is beside the configuration, or where the recipe lets systemd read it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from routesync.config import load
from support.certificates import Authority

TEXT = (Path(__file__).parents[3] / "docs" / "cookbook.md").read_text(encoding="utf-8")
ETC = "/etc/routesync"


class Recipe(NamedTuple):
    configuration: str
    credentials: dict[str, str]  # of systemd, with the files that they are read from


RECIPES = {
    title: Recipe(block, dict(re.findall(r"^    LoadCredential=(.+?):(.+)$", text, re.MULTILINE)))
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    for block in re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
}


def write_secret(file: Path, tmp_path: Path) -> None:
    if file.suffix == ".pem":
        pair = Authority(tmp_path, "authority").issue("host", alternative="DNS:host.example.net")
        content = pair.certificate.read_text() + pair.key.read_text()
    else:
        content = "secret"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(0o600)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_loads(title: str, tmp_path: Path) -> None:
    recipe = RECIPES[title]
    path = tmp_path / ETC[1:] / "routesync.toml"
    path.parent.mkdir(parents=True)
    path.write_text(recipe.configuration, encoding="utf-8")
    for name in set(re.findall(r'_file = "(.+?)"', recipe.configuration)):
        write_secret(tmp_path / recipe.credentials.get(name, f"{ETC}/{name}")[1:], tmp_path)
    assert load(path, {"SITE": "north"}).warnings == ()


@pytest.mark.parametrize("title", [title for title, recipe in RECIPES.items() if recipe.credentials])
def test_the_service_finds_everything_among_the_credentials_of_a_recipe(title: str, tmp_path: Path) -> None:
    path = tmp_path / "routesync.toml"
    path.write_text(RECIPES[title].configuration, encoding="utf-8")
    for name in RECIPES[title].credentials:
        write_secret(tmp_path / "credentials" / name, tmp_path)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert load(path, environment).warnings == ()
