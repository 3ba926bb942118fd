"""What can go wrong at a loxilb, by what it means for the caller.

::

    LoxilbError
     ├── NotSent            the request was never sent: nothing changed
     ├── OutcomeUnknown     it may or may not have been carried out
     └── Rejected           loxilb rejected it: nothing changed
          ├── AlreadyExists       a route with that key exists (whose, it does not say)
          ├── NoSuchRoute         nothing that DELETE could remove
          ├── NextHopUnreachable  the gateway is off-link there, or its link is down
          ├── InvalidRequest      this prefix or gateway will never be accepted
          ├── Unexplained         rejected without a reason (before v0.9.8.5): only its table shows more
          └── AccessDenied        the token is wrong or missing (the message says which)

loxilb's answers are evaluated in this order: `result` first (up to v0.9.8.4 errors came with status 200), then the
status, then the kernel's error text. A 5xx with an unknown text is OutcomeUnknown.
"""

from __future__ import annotations

from typing import ClassVar


class LoxilbError(Exception):
    """Any failure of a call to a loxilb; the message names the request.

    Attributes:
        outcome: one word for counters.
    """

    outcome: ClassVar[str] = "error"


class NotSent(LoxilbError):  # noqa: N818 (a name that says what it means)
    """No connection, so the request was never sent."""

    outcome = "not-sent"


class Withheld(NotSent):
    """The server may be another one by now, so the request was not sent."""

    outcome = "withheld"


class OutcomeUnknown(LoxilbError):  # noqa: N818
    """The connection broke, the deadline passed, or the answer makes no sense."""

    outcome = "unknown"


class Rejected(LoxilbError):  # noqa: N818
    """loxilb answered, and did not do it.

    Attributes:
        status: HTTP status.
        words: loxilb's own words, mostly the kernel's.
    """

    outcome = "rejected"

    def __init__(self, request: str, status: int, words: str, remedy: str = "") -> None:
        super().__init__(f"{request}: {words} (HTTP {status})" + (f"; {remedy}" if remedy else ""))
        self.status = status
        self.words = words


class AlreadyExists(Rejected):
    """EEXIST: a route with this prefix exists at metric 0 (IPv6: 1024)."""

    outcome = "exists"


class NoSuchRoute(Rejected):
    """ESRCH: no route that DELETE could remove."""

    outcome = "absent"


class NextHopUnreachable(Rejected):
    """ENETUNREACH or EHOSTUNREACH: the gateway is not on a connected network there that is up."""

    outcome = "unreachable"


class InvalidRequest(Rejected):
    """The request itself is not acceptable, and will not become so."""

    outcome = "invalid"


class Unexplained(Rejected):
    """Up to v0.9.8.4 every error of the kernel is HTTP 200 with `{"result":"fail"}`."""

    outcome = "unexplained"


class AccessDenied(Rejected):
    """The token or login is wrong or missing; the message says which, and what to do."""

    outcome = "denied"
