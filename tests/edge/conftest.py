"""Proxies to test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.edge.proxies import PROXIES, AsyncProxy, Change, Frontend, Start


@pytest.fixture(params=list(PROXIES))
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Starts nginx, and Envoy, before two frontends; `change` is by the proxy's name."""

    def start(frontends: Sequence[Frontend], change: Mapping[str, Change] | None = None) -> AsyncProxy:
        return PROXIES[request.param](tmp_path, frontends, (change or {}).get(request.param, {}))

    return start
