"""What can go wrong on the kernel side.

KernelError           the source cannot go on: no socket, no such namespace, refused by the kernel
└── DecodeError       a message that does not follow rtnetlink(7); costs one re-dump, never the source
"""

from __future__ import annotations


class KernelError(Exception):
    """The kernel side cannot do its work; the message says why, and what to do about it."""


class DecodeError(KernelError):
    """Bytes that are no message of rtnetlink(7)."""
