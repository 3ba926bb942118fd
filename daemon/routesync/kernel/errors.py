"""What can go wrong on the kernel side.

KernelError           the source cannot go on: no socket, no such namespace, refused by the kernel
├── DecodeError       a message that does not follow rtnetlink(7); costs one resync, never the source
└── NotPermittedError the kernel lets us change nothing; following its routes is not concerned
"""

from __future__ import annotations


class KernelError(Exception):
    """The kernel side cannot do its work; the message says why, and what to do about it."""


class DecodeError(KernelError):
    """Bytes that are no message of rtnetlink(7)."""


class NotPermittedError(KernelError):
    """A change that needs a privilege which we lack."""
