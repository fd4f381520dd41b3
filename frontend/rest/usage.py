"""What was used, by key and model: as JSON, and as Prometheus scrapes it.

Both are behind the keys: what somebody uses is for nobody else to see, so that it is not among the open `/metrics`. A
key is told its own, the operator's all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frontend.accounts import UsageReport, Used
from frontend.api import Inference
from frontend.metrics import CONTENT_TYPE
from frontend.rest.describe import content, json, operation
from frontend.rest.dialect import Json
from frontend.rest.middleware import CALLER

COUNTERS = (
    ("requests", "Requests that workers took, and that have ended."),
    ("prompt_tokens", "Prompt tokens of those."),
    ("cached_tokens", "Prompt tokens of those that were not recomputed."),
    ("completion_tokens", "Output tokens of those."),
)
"""By attribute of `Used`."""
SCHEMAS = (UsageReport,)


class UsagePages:
    """Read with GET."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    @property
    def routes(self) -> list[Route]:
        return [Route("/usage", self.usage), Route("/usage/metrics", self.metrics)]

    async def usage(self, request: Request) -> Response:
        report = self._inference.accounts.report(request.scope[CALLER])
        return Response(msgspec.json.encode(report), media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        registry = CollectorRegistry()
        registry.register(_Counted(self._inference.accounts.report(request.scope[CALLER]).used))
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})


@dataclass(frozen=True, slots=True, eq=False)
class _Counted(Collector):
    """As counters."""

    used: Sequence[Used]

    def collect(self) -> Iterable[Metric]:
        for attribute, text in COUNTERS:
            counters = CounterMetricFamily(f"tandem_key_{attribute}", text, labels=("key", "model"))
            for each in self.used:
                counters.add_metric((each.key, each.model), getattr(each, attribute))
            yield counters


def operations(error: str) -> dict[str, Json]:
    """The paths, as OpenAPI has them; `error` names the schema of errors."""
    answer = json("UsageReport")
    text = content("text/plain", {"type": "string"})
    return {
        "/usage": {
            "get": operation("What this key has used of each model; an operator's: all", answer, 401, error=error)
        },
        "/usage/metrics": {"get": operation("The same, for Prometheus", text, 401, error=error)},
    }
