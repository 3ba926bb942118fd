"""What releases of loxilb do differently, read from their sources by tag and, for 0.9.1, seen on a running one."""

from __future__ import annotations

import re
from typing import NamedTuple, Self


class Release(NamedTuple):
    """A release by its number; the properties say what it does."""

    number: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a number such as 0.9.8.4.

        Raises:
            ValueError: the text is no such number.
        """
        if re.fullmatch(r"v?\d+(\.\d+)+", text) is None:
            raise ValueError(f"{text!r} is no release like 0.9.1 or 0.9.8.4")
        return cls(tuple(int(part) for part in text.removeprefix("v").split(".")))

    def __str__(self) -> str:
        return ".".join(map(str, self.number))

    @property
    def tells_errors_by_status(self) -> bool:
        """Before, every error of the kernel is 200 with `{"result":"fail"}`."""
        return self.number >= (0, 9, 8, 5)

    @property
    def requires_gateway(self) -> bool:
        """Before, a POST without a gateway gets as far as the kernel."""
        return self.number >= (0, 9, 8, 4)

    @property
    def tells_version(self) -> bool:
        """Before, there is no /version."""
        return self.number >= (0, 9, 8)

    @property
    def ignores_other_tables(self) -> bool:
        """Before, its ears take in routes of every table."""
        return self.number >= (0, 9, 8)

    @property
    def knows_ipv6_default(self) -> bool:
        """Before, it takes ::/0 for 0.0.0.0/0."""
        return self.number >= (0, 9, 7)

    @property
    def notices_new_gateway(self) -> bool:
        """Before, an entry keeps its first gateway when the kernel replaces it by one other."""
        return self.number >= (0, 9, 7)

    @property
    def honours_static(self) -> bool:
        """Before, `protocol` is not read and the kernel's is always boot."""
        return self.number >= (0, 9, 5)

    @property
    def names_protocols(self) -> bool:
        """Before, GET gives the protocol's number, and none at all for 0."""
        return self.number >= (0, 9, 5)

    @property
    def knows_ecmp(self) -> bool:
        """Before, a route of several hops does not exist for it."""
        return self.number >= (0, 9, 5)

    @property
    def knows_interface_routes(self) -> bool:
        """Before, a host route without a gateway becomes `Self` and cuts off the neighbour that it leads to."""
        return self.number >= (0, 9, 2)


MAIN = Release((0, 9, 8, 8))
