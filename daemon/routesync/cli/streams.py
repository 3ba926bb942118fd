"""Standard input, output and errors as a command may find them: closed, full, in another encoding, unread."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

EX_PIPE: Final = 141
"""Nothing reads the output any more: the status that a shell shows for SIGPIPE, which ends most programs then."""
_UNWRITABLE: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def standard_streams() -> Iterator[None]:
    """Run a command in the block: it can print any text, and ends with one line where its output cannot be written."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for good
    out = sys.stdout
    codecs.register_error("json", _escaped)
    for stream in (out, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json")
    try:
        try:
            yield
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # typer catches it and ends with 1
                raise end.__context__ from None
            raise
        finally:
            out.flush()
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                print(f"routesync: the output cannot be written: {error.strerror}", file=sys.stderr)
        null = os.open(os.devnull, os.O_WRONLY)
        for number in (
            1,
            2,
        ):  # for what is left in buffers: Python writes it at exit, and reports that it cannot
            os.dup2(null, number)
        raise SystemExit(EX_PIPE if error.errno == errno.EPIPE else 1) from None


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What the encoding lacks, as JSON writes it: so that JSON stays valid."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
