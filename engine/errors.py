"""The errors of Tandem, one small tree; foreign errors are translated into these once, at the boundary.

    TandemError
    ├── InvalidRequest         the caller's fault: a field is missing, malformed or out of range
    │   └── ContextOverflow    prompt (plus asked-for tokens) does not fit the model's context
    ├── UnknownModel           no worker serves the model that the request names
    ├── UnknownRequest         no answer is kept of the request that is to be resumed
    ├── Unsupported            a well-formed request for something this server does not do
    ├── Unauthenticated        the key is missing or wrong
    ├── PermissionDenied       the key is right, but not for this
    ├── Overloaded             no room now; retry after `retry_after_s`
    ├── Unavailable            draining, or the workers that the request needs are gone
    ├── DeadlineExceeded       the caller's deadline passed
    ├── Poisoned               workers keep dying of this very request
    ├── ConfigError            a process was started with a configuration or model it cannot serve
    ├── TransferFailed         KV blocks did not reach their ticket
    └── ProtocolError          a peer broke the wire contract: unknown frame, wrong layout, stale fence

`CODES` is the one table from these to gRPC and HTTP status; dialects add only their own body.
"""

from dataclasses import dataclass
from typing import Literal

Limit = Literal["queue", "queue_timeout", "ttft_slo", "deadline", "key_requests", "key_tokens"]
"""What a request may be refused for that is sound: room in the queue, its time to wait there, the operator's objective,
the caller's deadline, or what its own key may ask in a minute."""
KEY_LIMITS: frozenset[Limit] = frozenset({"key_requests", "key_tokens"})
"""Those of the caller's own key: nobody else's doing."""


USAGE_STATUS = 2
"""Of a process that ends with a ConfigError, or whose options make no sense, as argparse has it: to start it again
cannot help."""
MAX_RETRY_AFTER_S = 7 * 24 * 3600.0
"""More is not told: a key's limits may make it longer than what protobuf can say."""


class TandemError(Exception):
    """Root of the tree; an instance of exactly this class is a bug of ours."""

    reason = "INTERNAL"
    """Stable machine-readable word, sent as google.rpc.ErrorInfo.reason."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """Name of the request field at fault, as the caller spells it."""


class InvalidRequest(TandemError):
    reason = "INVALID_REQUEST"


class ContextOverflow(InvalidRequest):
    reason = "CONTEXT_LENGTH_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        prompt_tokens: int | None = None,
        max_context: int | None = None,
    ) -> None:
        super().__init__(message, field=field)
        self.prompt_tokens = prompt_tokens
        """None where they were not counted."""
        self.max_context = max_context
        """Of the model; None where that is not what the request does not fit."""


class UnknownModel(TandemError):
    reason = "MODEL_NOT_FOUND"


class UnknownRequest(TandemError):
    reason = "REQUEST_NOT_FOUND"


class Unsupported(TandemError):
    reason = "UNSUPPORTED"


class Unauthenticated(TandemError):
    reason = "UNAUTHENTICATED"


class PermissionDenied(TandemError):
    reason = "PERMISSION_DENIED"


class Overloaded(TandemError):
    reason = "OVERLOADED"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        limit: Limit = "queue",
        queue_position: int | None = None,
        predicted_ttft_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.limit: Limit = limit
        """Which limit there is no room within."""
        self.retry_after_s = min(retry_after_s, MAX_RETRY_AFTER_S)
        self.queue_position = queue_position
        """How many requests wait before this one; None where that is not why."""
        self.predicted_ttft_s = predicted_ttft_s


class Unavailable(TandemError):
    reason = "UNAVAILABLE"


class DeadlineExceeded(TandemError):
    reason = "DEADLINE_EXCEEDED"


class Poisoned(TandemError):
    reason = "POISONED"


class ConfigError(TandemError):
    reason = "CONFIG"


class TransferFailed(TandemError):
    reason = "TRANSFER_FAILED"

    def __init__(self, message: str, *, field: str | None = None, why: Literal["lost", "refused", "stalled"] = "lost"):
        super().__init__(message, field=field)
        self.why = why
        """lost: the connection or the peer is; refused: the peer did not want the blocks; stalled: it took nothing."""


class ProtocolError(TandemError):
    reason = "PROTOCOL"


@dataclass(frozen=True, slots=True)
class Codes:
    """The status of one kind of error: gRPC's numeric code and HTTP's."""

    grpc: int
    http: int


CODES: dict[type[TandemError], Codes] = {
    InvalidRequest: Codes(grpc=3, http=400),
    ContextOverflow: Codes(grpc=3, http=400),
    UnknownModel: Codes(grpc=5, http=404),
    UnknownRequest: Codes(grpc=5, http=404),
    Unsupported: Codes(grpc=12, http=501),
    Unauthenticated: Codes(grpc=16, http=401),
    PermissionDenied: Codes(grpc=7, http=403),
    Overloaded: Codes(grpc=8, http=429),
    Unavailable: Codes(grpc=14, http=503),
    DeadlineExceeded: Codes(grpc=4, http=504),
    Poisoned: Codes(grpc=9, http=422),
    ConfigError: Codes(grpc=9, http=500),
    TransferFailed: Codes(grpc=14, http=503),
    ProtocolError: Codes(grpc=13, http=500),
    TandemError: Codes(grpc=13, http=500),
}


def codes(error: TandemError) -> Codes:
    """The status of `error`: its own class's row, or its nearest ancestor's."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
