"""Findings as a page for a terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from cli.doctor.findings import Finding, Level

MARKS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.FAILURE: ("✗", "red")}


def report(findings: Sequence[Finding]) -> Group:
    """One line each, and below what is wrong what to change."""
    lines: list[Text] = []
    for finding in findings:
        mark, style = MARKS[finding.level]
        lines.append(Text(f"{mark} ", style).append(f"{finding.area:<9}", "bold").append(finding.says, "default"))
        if finding.change:
            lines.append(Text(f"            → {finding.change}", "cyan"))
    return Group(*lines, Text(), _total(findings))


def _total(findings: Sequence[Finding]) -> Text:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    if counts[Level.FAILURE]:
        return Text(f"{counts[Level.FAILURE]} in the way, {counts[Level.WARNING]} to look at", "bold red")
    if counts[Level.WARNING]:
        return Text(f"nothing in the way, {counts[Level.WARNING]} to look at", "bold yellow")
    return Text("all is well", "bold green")
