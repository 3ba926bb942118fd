"""Write manual pages and completion below a directory, laid out as below /usr/share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from routesync.cli.manual import completion, man

PAGES: Final[Mapping[str, Callable[[date], str]]] = {
    "man/man1/routesync.1": man.program_page,
    "man/man5/routesync.toml.5": man.configuration_page,
}
COMPLETION: Final[Mapping[str, Callable[[], str]]] = {
    "bash-completion/completions/routesync": completion.bash,
    "zsh/vendor-completions/_routesync": completion.zsh,
    "fish/vendor_completions.d/routesync.fish": completion.fish,
}


def write(directory: Path, day: date) -> None:
    """Write all of them; the day is that of the manual pages."""
    made = {name: make(day) for name, make in PAGES.items()}
    made |= {name: make() for name, make in COMPLETION.items()}
    for name, text in made.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    epoch = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())  # reproducible-builds.org
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "build/share")
    write(where, datetime.fromtimestamp(epoch, UTC).date())
