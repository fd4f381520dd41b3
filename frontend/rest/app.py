"""The REST app: which dialects it speaks, and what stands before all of them.

A request passes `Outermost` (ids, errors), `Authentication` and `BodyLimit`, then its endpoint. Before them may be
CORS; on its way out an answer that comes whole may be compressed. Does not know workers.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from frontend.api import Inference
from frontend.callers import KeyRing
from frontend.metrics import CONTENT_TYPE, OPENMETRICS_TYPE
from frontend.mounts import Mount
from frontend.rest.alone import alone
from frontend.rest.anthropic.dialect import anthropic_dialect
from frontend.rest.compression import Compression
from frontend.rest.console import Console
from frontend.rest.debug import DebugPages
from frontend.rest.dialect import ERRORS, Dialect, Errors, HeaderRoute, Json
from frontend.rest.docs import docs_page
from frontend.rest.errors import PREDICTED_TTFT, QUEUE_POSITION
from frontend.rest.llamacpp.dialect import llamacpp_dialect
from frontend.rest.local_names import LocalNames
from frontend.rest.middleware import OWN_ID, Authentication, BodyLimit, Outermost
from frontend.rest.ollama.dialect import ollama_dialect
from frontend.rest.ollama.models import RUNNING
from frontend.rest.openai.dialect import openai_dialect
from frontend.rest.openapi import openapi_document
from frontend.rest.tgi.dialect import tgi_dialect
from frontend.rest.usage import UsagePages
from frontend.rest.vllm import vllm_dialect

PUBLIC = frozenset({"/", "/docs", "/openapi.json", "/health", "/ready", "/metrics"})
"""Paths that probes, scrapers and readers of the documentation read without a key."""

EXPOSED = (
    "x-request-id",
    OWN_ID,
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    QUEUE_POSITION,
    PREDICTED_TTFT,
)
"""Headers of answers that pages may read."""


def dialects_of(inference: Inference, *, lenient: bool = False) -> tuple[Dialect, ...]:
    """Where two have the same path, the first one's counts; the first also has the paths that are nobody's.

    `lenient` leaves out parameters that nobody has.
    """
    return (
        openai_dialect(inference, lenient=lenient),
        vllm_dialect(inference, lenient=lenient),
        tgi_dialect(inference),
        ollama_dialect(inference),
        anthropic_dialect(inference),
        llamacpp_dialect(inference, lenient=lenient),
    )


def build_app(
    inference: Inference,
    *,
    keys: KeyRing,
    max_body_bytes: int,
    metrics: Callable[[], bytes],
    openmetrics: Callable[[], bytes] | None = None,
    lenient: bool = False,
    cors_origins: Sequence[str] = (),
    mount: Mount | None = None,
    trace_ui: str = "",
    local_only: bool = False,
) -> Starlette:
    """`metrics` is the Prometheus exposition of now, `openmetrics` the same for who asks for that; pages of
    `cors_origins` may ask from browsers; traces are looked at at `trace_ui`. `local_only` refuses pages
    of other sites, for a server that asks for no key. With `mount` it is the app of one dialect
    by itself: without what the operator reads."""
    if mount is None:
        console = Console()
        dialects = dialects_of(inference, lenient=lenient)
        document = openapi_document(dialects, guarded=not keys.is_open)
        own = [*DebugPages(inference, trace_ui).routes, *UsagePages(inference).routes, *console.routes]
        own.append(Route("/", home_of(console)))
        public = PUBLIC.union(console.public)
    else:
        dialects = alone(mount.dialect, inference, lenient=lenient)
        document = openapi_document(dialects, guarded=not keys.is_open, is_whole=False, prefix=mount.prefix)
        own, public = [], PUBLIC
    pages = Pages(inference, metrics, openmetrics, document)
    errors = ErrorsByPath(dialects)

    async def http_error(request: Request, error: Exception) -> Response:
        """Of routing and reading the body; TandemErrors go on to `Outermost`."""
        assert isinstance(error, HTTPException)
        return errors.of(request.scope).response_of(_named(error, request))

    app = Starlette(
        routes=[
            *(route for route, _ in routes_of(dialects)),
            Route("/health", pages.health),
            Route("/ready", pages.ready),
            Route("/metrics", pages.metrics),
            Route("/openapi.json", pages.openapi),
            Route("/docs", pages.docs),
            *own,
        ],
        middleware=[
            *_cors(cors_origins),
            Middleware(Outermost, errors_of=errors.of),
            *([Middleware(LocalNames, origins=cors_origins)] if local_only else []),
            Middleware(Compression),
            Middleware(Authentication, keys=keys, public=public.union(*(dialect.public for dialect in dialects))),
            Middleware(BodyLimit, max_bytes=max_body_bytes),
        ],
        exception_handlers={HTTPException: http_error},
    )
    app.router.redirect_slashes = False
    app.state.errors = errors.default
    return app


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Before everything else: what browsers ask beforehand carries no key, and they shall read errors, too.

    Without credentials: a key is a header that a page sends because it has it, not what a browser adds by itself.
    """
    if not origins:
        return []
    methods = ("GET", "POST", "DELETE")
    cors = Middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=EXPOSED
    )
    return [cors]


def routes_of(dialects: Sequence[Dialect]) -> list[tuple[Route, Errors]]:
    """Every dialect's routes, in the order in which they are tried, and how errors of theirs are told."""
    routes = [(route, dialect.errors) for dialect in dialects for route in dialect.routes]
    return sorted(routes, key=lambda each: not isinstance(each[0], HeaderRoute))


class ErrorsByPath:
    """Whose words an error is told in, before and after routing alike."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self.default = dialects[0].errors
        self._routes = routes_of(dialects)

    def of(self, scope: Scope) -> Errors:
        if chosen := scope.get(ERRORS):
            return chosen  # type: ignore[no-any-return]
        matching = (errors for route, errors in self._routes if route.matches(scope)[0] is not Match.NONE)
        return next(matching, self.default)


class Pages:
    """What can be read with GET of any server, whatever it speaks."""

    def __init__(
        self,
        inference: Inference,
        metrics: Callable[[], bytes],
        openmetrics: Callable[[], bytes] | None,
        document: Json,
    ) -> None:
        self._inference = inference
        self._metrics = metrics
        self._openmetrics = openmetrics
        self._openapi = msgspec.json.encode(document)
        self._docs = docs_page(document)

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        readiness = self._inference.readiness(request.query_params.get("model"))
        return _json(readiness, 200 if readiness.ready else 503)

    async def metrics(self, request: Request) -> Response:
        accepted = (part.partition(";")[0].strip() for part in request.headers.get("accept", "").split(","))
        if self._openmetrics is not None and "application/openmetrics-text" in accepted:
            return Response(self._openmetrics(), headers={"Content-Type": OPENMETRICS_TYPE, "Vary": "Accept"})
        return Response(self._metrics(), headers={"Content-Type": CONTENT_TYPE, "Vary": "Accept"})

    async def openapi(self, request: Request) -> Response:
        return Response(self._openapi, media_type="application/json")

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(self._docs)


def home_of(console: Console) -> Callable[[Request], Awaitable[Response]]:
    async def home(request: Request) -> Response:
        """The console for who asks for a page. Ollama's clients do not, and look for these words."""
        if "text/html" in request.headers.get("accept", ""):
            return await console.page.answer(request)
        return PlainTextResponse(RUNNING, headers={"Vary": "Accept"})

    return home


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _named(error: HTTPException, request: Request) -> HTTPException:
    match error.status_code:
        case 404:
            error.detail = f"there is no {request.url.path} here"
        case 405:
            error.detail = f"{request.url.path} does not take {request.method}"
    return error
