"""`routesync fleet --page`: the page of a fleet as files for any web server."""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Final

from routesync.cli.check import may_exist
from routesync.cli.output import EX_USAGE, fail

SOURCE: Final = Path(__file__).parents[1] / "page"
MQTT_JS: Final = "mqtt.js"
"""In the folder of the page where the packaging has fetched it (packaging/page/fetch); never in the repository."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src ws: wss:; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def write_page(directory: Path, *, mqtt_js: Path | None, websockets: str | None, root: str) -> None:
    """Write index.html and a folder `page`, and say where to go on.

    Args:
        directory: made if it is missing; files of an earlier version are replaced.
        mqtt_js: mqtt.js as one ES module; None: the one that this installation has.
        websockets: URL of the broker's WebSockets, which the page connects to at once; None: the visitor enters it.
        root: root of all topics.
    """
    library = mqtt_js or SOURCE / MQTT_JS
    if not may_exist(library):
        what = f"{library}: no such file" if mqtt_js else "this installation has no mqtt.js"
        fail(
            f"{what}; `npm install mqtt` brings it, then name it: --mqtt-js node_modules/mqtt/dist/mqtt.esm.js"
        )
    if websockets is not None and not websockets.startswith(("ws://", "wss://")):
        fail(
            f"--websockets {websockets}: a browser connects to ws:// or wss://, such as wss://broker.example:8884",
            EX_USAGE,
        )
    index = (SOURCE / "index.html").read_text(encoding="utf-8")
    settings = {"source": "fleet", "broker": websockets or "", "root": root}
    attributes = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in settings.items())
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}" />'
    index = index.replace('data-source="node"', attributes).replace(
        '<meta charset="utf-8" />', f'<meta charset="utf-8" />\n    {policy}'
    )
    parts = directory / "page"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        for file in SOURCE.iterdir():
            if file.suffix in {".js", ".css", ".svg"} and file.name != MQTT_JS:
                shutil.copyfile(file, parts / file.name)
        shutil.copyfile(library, parts / MQTT_JS)
        (directory / "index.html").write_text(index, encoding="utf-8")
    except OSError as error:
        fail(f"{error.filename or directory}: {error.strerror}")
    print(
        f"{directory}: written; serve it with any web server. The broker needs a WebSockets listener (docs/page.md)"
    )
