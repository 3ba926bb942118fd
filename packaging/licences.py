"""The licence of a library, by its metadata."""

from __future__ import annotations

from email.message import Message
from typing import Final

_CLASSIFIERS: Final = {
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
}
"""For those that have nothing but a classifier."""


def licence_of(fields: Message) -> str | None:
    """Its licence, as an SPDX expression where the library has one; None: it names none."""
    if expression := fields.get("License-Expression"):
        return str(expression)
    if licence := (fields.get("License") or "").strip().partition("\n")[0]:
        return licence
    named = (it.rpartition(" :: ")[2] for it in fields.get_all("Classifier", ()) if it.startswith("License"))
    return next((_CLASSIFIERS[it] for it in named if it in _CLASSIFIERS), None)
