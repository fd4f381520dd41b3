"""What a caller has left of its limits, in the headers that OpenAI's clients read."""

import math

from frontend.callers import Allowance, Left


def limit_headers(allowance: Allowance) -> dict[str, str]:
    """None where there are no limits."""
    headers: dict[str, str] = {}
    for name, left in (("requests", allowance.requests), ("tokens", allowance.tokens)):
        if left is not None:
            headers |= _headers(name, left)
    return headers


def _headers(name: str, left: Left) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{name}": str(math.floor(left.limit)),
        f"x-ratelimit-remaining-{name}": str(math.floor(left.left)),
        f"x-ratelimit-reset-{name}": _duration(left.full_in_s),
    }


def _duration(seconds: float) -> str:
    """As OpenAI writes them: 20ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1e3)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60}s"
