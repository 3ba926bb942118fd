"""Print Debian's copyright file for the package with the libraries in a folder, the only argument."""

from __future__ import annotations

import sys
from email.message import Message
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parents[1]))
from licences import licence_of  # beside the folder of this one

HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: routesync
Comment:
 The package brings the Python libraries that routesync was tested with. Their
 licence texts are beside them, in the .dist-info folders.

Files: *
Copyright: 2026 The routesync authors
License: Apache-2.0
"""
TEXTS = {"Apache-2.0": "On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0."}


def main(folder: str) -> None:
    print(HEAD)
    used = {"Apache-2.0"}
    for it in sorted(distributions(path=[folder]), key=lambda it: it.name.lower()):
        fields = cast("Message", it.metadata)  # its protocol lacks get()
        if it.name == "loxilb-routesync":
            continue
        files = [*top_level(Path(folder), it.name), f"{it.name.replace('-', '_')}-{it.version}.dist-info"]
        licence = (licence_of(fields) or "see its files").replace(" ", "-")
        used.add(licence)
        author = (
            fields.get("Author")
            or fields.get("Author-email")
            or fields.get("Maintainer")
            or f"authors of {it.name}"
        )
        print("Files:" + "".join(f"\n usr/lib/routesync/{name}*" for name in files))
        print(f"Copyright: {' '.join(author.split())}\nLicense: {licence}\n")
    for licence in sorted(used):
        text = TEXTS.get(
            licence, "The full text is in the .dist-info folder of each library in /usr/lib/routesync."
        )
        print(f"License: {licence}\n {text}\n")


def top_level(folder: Path, name: str) -> list[str]:
    """The folders that a library consists of: those of its own name, where it does not say."""
    known = {"attrs": ["attr", "attrs"], "markdown-it-py": ["markdown_it"], "paho-mqtt": ["paho"]}
    names = known.get(name.lower(), [name.lower().replace("-", "_")])
    missing = [it for it in names if not list(folder.glob(f"{it}*"))]
    if missing:
        sys.exit(
            f"packaging/deb/copyright: {name} has no {missing} in {folder}; name its folders in this file"
        )
    return names


main(sys.argv[1])
