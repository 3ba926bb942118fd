"""`routesync doctor`: what is wrong here, why, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import typer

from routesync.cli.output import Page, print_object
from routesync.doctor import Finding, Level, diagnose, worst
from routesync.doctor.gather import gather

COLOURS: Final[Mapping[Level, str]] = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(
    config: Path | None, usual: Path, state: Path, *, as_json: bool, contact: bool, verbose: bool
) -> None:
    """Run all checks. Exit status: 0 all is well, 1 there are warnings, 2 something fails."""
    findings = diagnose(gather(config, usual, state, contact=contact))
    if as_json:
        print_object(_as_json(findings))
    else:
        _show(findings, verbose=verbose)
    raise typer.Exit(int(worst(findings)))


def _show(findings: list[Finding], *, verbose: bool) -> None:
    page = Page()
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        page.line(
            (f"{finding.level.label:4}", COLOURS[finding.level]),
            (f"  {finding.check:{width}}  ", "dim"),
            finding.summary,
            hang=width + 8,
        )
        if finding.level is not Level.OK or verbose:
            if finding.why:
                page.line((f"      {finding.why}", "dim"), hang=6)
            for step in finding.remedy:
                page.line(f"      -> {step}", hang=9)
    counts = {level: sum(1 for finding in findings if finding.level is level) for level in Level}
    said = ", ".join(f"{counts[level]} {level.label}" for level in Level)
    page.line((said, COLOURS[worst(findings)]))


def _as_json(findings: list[Finding]) -> dict[str, object]:
    return {
        "level": worst(findings).label,
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.label,
                "subject": finding.subject or None,
                "summary": finding.summary,
                "why": finding.why or None,
                "remedy": list(finding.remedy),
            }
            for finding in findings
        ],
    }
