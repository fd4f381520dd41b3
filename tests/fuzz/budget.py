"""How long fuzzing goes on: for a few examples within `make test`, or for TANDEM_FUZZ_MINUTES (`make fuzz`)."""

import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

MINUTES = float(os.environ.get("TANDEM_FUZZ_MINUTES", "0"))
ROUND = 1_000
"""Examples of one run of Hypothesis, which remembers what it has tried."""

Example = TypeVar("Example")


def fuzz(name: str, examples: SearchStrategy[Example], check: Callable[[Example], None], *, quick: int) -> None:
    """Give `check` so many examples, or new ones until the time is up. One that fails is shrunk and shown."""
    began, num_examples = time.monotonic(), 0

    def counted(example: Example) -> None:
        nonlocal num_examples
        num_examples += 1
        check(example)

    rules = settings(
        max_examples=ROUND if MINUTES else quick,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    while not num_examples or time.monotonic() - began < MINUTES * 60:
        seed(secrets.randbits(64))(rules(given(examples)(counted)))()
    if MINUTES:
        sys.stdout.write(f"{name}: {num_examples} examples in {(time.monotonic() - began) / 60:.1f} minutes\n")
