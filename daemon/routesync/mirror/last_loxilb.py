"""Which loxilb a target was when it was last met: what is owned is owned there.

Routes are noted by the target's name. If its URL is changed and leads to another loxilb, the same routes there are
another writer's, such as those of a second node with the same next hop. A URL alone may change (a name instead of an
address), and so may a loxilb alone (its container is recreated, and has none of our routes): both must.

It is a file in the state directory, as a pause is; where that cannot be read or written, nothing is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from routesync.files import read_file
from routesync.loxilb.errors import NotSent


class Loxilb(NamedTuple):
    """A loxilb as a target meets it."""

    url: str
    instance: str | None  # None: not known

    def is_other_than(self, last: Loxilb) -> bool:
        return last.url != self.url and last.instance != self.instance


class LastLoxilb:
    """The loxilb that a target was.

    Args:
        directory: the state directory; None: it is known for as long as the process lives.
        target: the target's name.
    """

    def __init__(self, directory: Path | None, target: str) -> None:
        self._path = directory / f"loxilb-{target}" if directory is not None else None
        self._last: Loxilb | None = None
        self._written: Loxilb | None = None

    def replaced_by(self, now: Loxilb) -> bool:
        """Whether the loxilb that is met now is another one. Blocks for the disk."""
        if self._last is None:
            self._last = self._written = self._read()
        return self._last is not None and now.instance is not None and now.is_other_than(self._last)

    def note(self, now: Loxilb) -> None:
        """Note the loxilb that is met now; from then on all that is owned is owned in it. Blocks for the disk.

        What cannot be written is tried again by the next call.
        """
        if now.instance is None or now == self._written:
            return
        self._last = now
        try:
            if self._path is not None:
                draft = self._path.with_name(f".{self._path.name}")  # a full disk must not empty the file
                draft.unlink(missing_ok=True)  # to open a pipe would wait for its reader
                draft.write_text(f"{now.url}\n{now.instance}\n", encoding="utf-8")
                draft.replace(self._path)
                self._written = now
        except OSError:
            pass  # the ledger has the same disk, and says so

    def _read(self) -> Loxilb | None:
        if self._path is None:
            return None
        try:
            url, instance = read_file(self._path).decode().splitlines()
        except (OSError, ValueError):
            return None
        return Loxilb(url, instance)


class RequiredLoxilb(LastLoxilb):
    """The loxilb that a target was, where no other one will do: a URL that a person gives may be wrong."""

    def replaced_by(self, now: Loxilb) -> bool:
        """False.

        Raises:
            NotSent: it is another one.
        """
        if super().replaced_by(now):
            assert self._last is not None  # noqa: S101 (as it is known to be another one)
            raise NotSent(
                f"{now.url} leads to another loxilb than {self._last.url}, the last one of this name; nothing in it is "
                "owned"
            )
        return False
