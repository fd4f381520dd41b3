"""Whether a known vulnerability is in what constraints.txt pins, as OSV (https://osv.dev) knows: `make check-audit`.

Sends the names and versions of packages, nothing else. Where the service is not reachable the audit is skipped, and
says so: a check must not need a network. Exit status 1 is for vulnerabilities alone.
"""

import json
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SERVICE = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 20.0
PINS = Path(__file__).resolve().parent.parent / "constraints.txt"
ACCEPTED: Mapping[str, str] = {}
"""Ids of advisories that do not concern us, and why they do not."""


def pinned(text: str) -> list[tuple[str, str]]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [(name, version) for name, _, version in (line.partition("==") for line in lines) if version]


def known(pins: Sequence[tuple[str, str]], service: str) -> dict[tuple[str, str], list[str]]:
    """Ids of advisories by package. Raises OSError when there is no answer, ValueError when it makes no sense."""
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pins]
    body = json.dumps({"queries": queries}).encode()
    request = urllib.request.Request(service, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        results: list[dict[str, Any]] = json.load(response)["results"]
    if len(results) != len(pins):
        raise ValueError(f"{len(results)} answers to {len(pins)} questions")
    return {pin: [vuln["id"] for vuln in result.get("vulns", ())] for pin, result in zip(pins, results, strict=True)}


def main(service: str = SERVICE) -> int:
    pins = pinned(PINS.read_text())
    try:
        found = known(pins, service)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"dependency audit SKIPPED, nothing was checked: no answer from {service}: {error}")
        return 0
    unaccepted = {pin: [name for name in names if name not in ACCEPTED] for pin, names in found.items()}
    for (package, version), names in unaccepted.items():
        if names:
            print(f"{package} {version}: {', '.join(names)}", file=sys.stderr)
    if any(unaccepted.values()):
        return 1
    print(f"dependency audit: no known vulnerability in {len(pins)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
