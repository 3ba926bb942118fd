"""What a caller is told when a call fails: problem details of RFC 9457."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

CONTENT_TYPE: Final = "application/problem+json"
TYPE_ROOT: Final = "urn:routesync:problem"


class Problem(BaseModel):
    """Why a call failed (RFC 9457)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str = Field(
        description="`urn:routesync:problem:` and a stable name.",
        examples=["urn:routesync:problem:unknown-target"],
    )
    title: str = Field(description="The same for all problems of a type.", examples=["No such target"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(
        description="What is wrong this time, and what to do.",
        examples=["there is no target lb-3; there are: lb-1, lb-2"],
    )

    @property
    def name(self) -> str:
        """The stable name in the type."""
        return self.type.removeprefix(f"{TYPE_ROOT}:")


TITLES: Final = {
    "bad-request": (400, "The request cannot be understood"),
    "not-permitted": (403, "Not permitted"),
    "not-found": (404, "No such call"),
    "unknown-target": (404, "No such target"),
    "wrong-method": (405, "Another method is needed"),
    "conflict": (409, "Not as things stand"),
    "rejected": (422, "The configuration does not hold; the one before stays in force"),
    "too-large": (413, "The request is too large"),
    "internal": (500, "The daemon failed at this"),
    "busy": (503, "Too many ask at once"),
    "not-ready": (503, "Not ready"),
    "unavailable": (503, "Not available now"),
}
"""The problems there are: their HTTP status and their title, by their stable name."""


class ProblemError(Exception):
    """A call that fails, and why; `name` is one of `TITLES`."""

    def __init__(self, name: str, detail: str) -> None:
        self.problem = make(name, detail)
        super().__init__(detail)


def make(name: str, detail: str) -> Problem:
    """Make the problem of this name."""
    status, title = TITLES[name]
    return Problem(type=f"{TYPE_ROOT}:{name}", title=title, status=status, detail=detail)
