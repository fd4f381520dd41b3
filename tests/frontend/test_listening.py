"""Where a frontend listens: addresses of both kinds, and over which of them it is reached."""

import socket

import pytest

from frontend.__main__ import _listening


@pytest.mark.parametrize(
    ("host", "reached"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1")]
)
def test_addresses_of_both_kinds(host: str, reached: str) -> None:
    if ":" in host and not _has_6():
        pytest.skip("this machine has no IPv6")
    with _listening(host, 0, "http_port") as listening:
        socket.create_connection((reached, listening.getsockname()[1]), 5).close()


def _has_6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
