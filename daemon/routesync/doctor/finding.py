"""What a check says."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class Level(IntEnum):
    """How bad it is. An exit status, too, as monitoring plugins have it."""

    OK = 0
    WARN = 1
    FAIL = 2

    @property
    def label(self) -> str:
        """In lower case, as it is written."""
        return self.name.lower()


class Check(StrEnum):
    """The checks, by codes that stay (docs/doctor.md)."""

    CONFIG = "config"
    DHCP_HOST_ROUTES = "dhcp-host-routes"
    KERNEL = "kernel"
    RECEIVE_BUFFER = "receive-buffer"
    SYSCTLS = "sysctls"
    TARGET = "target"
    LOXILB_VERSION = "loxilb-version"
    SHARED_NAMESPACE = "shared-namespace"
    CAPACITY = "capacity"
    BROKER = "broker"
    BROKER_ACCESS = "broker-access"
    STATE_DIRECTORY = "state-directory"
    LEDGER = "ledger"
    ORPHANS = "orphans"
    OUTBOX = "outbox"
    DAEMON = "daemon"
    CAPABILITIES = "capabilities"
    SYSTEMD = "systemd"


class Finding(NamedTuple):
    """What one check found at one subject.

    Attributes:
        check: which check.
        level: how bad it is.
        summary: one line.
        why: what that means; empty where the summary says it all.
        remedy: what to do, one step a line; empty where there is nothing to do.
        subject: the target, route or file that it is about; empty for the host.
    """

    check: Check
    level: Level
    summary: str
    why: str = ""
    remedy: tuple[str, ...] = ()
    subject: str = ""
