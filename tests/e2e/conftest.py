"""Servers that tests share: starting one takes as long as many tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.server import Tandem, tandem
from tests.shared_data import shared_data

StartTandem = Callable[..., Tandem]


@pytest.fixture(scope="session")
def tandem_up() -> Iterator[StartTandem]:
    """Starts `tandem up ARGUMENTS` on free ports, and answers once a request would succeed.

    The same arguments give the same server, which all tests of the session share; all are drained at its end.
    """
    servers: dict[tuple[str, ...], Tandem] = {}
    with ExitStack() as stack:

        def start(*arguments: str) -> Tandem:
            if arguments not in servers:
                servers[arguments] = stack.enter_context(tandem(*arguments))
            return servers[arguments]

        yield start


@pytest.fixture(scope="session")
def demo(tandem_up: StartTandem) -> Tandem:
    """The demonstration model on one prefill and one decode worker: what `tandem up` alone gives."""
    return tandem_up()


@pytest.fixture(scope="session")
def two_of_each(tandem_up: StartTandem) -> Tandem:
    """stories260K on two prefill and two decode workers."""
    return tandem_up("--model", str(shared_data("models", "stories260K")), "--prefill", "2", "--decode", "2")
