"""What HTTP says of an error in every dialect: its status and its headers. The body is the dialect's.

Knows the one table of status codes (`engine.errors`). Does not know where errors come from.
"""

import math
import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException

from engine.errors import CODES, Overloaded, TandemError, Unauthenticated, Unsupported, codes

QUEUE_POSITION, PREDICTED_TTFT = "x-tandem-queue-position", "x-tandem-predicted-ttft-ms"


def rename(error: TandemError, names: Mapping[str, str]) -> None:
    """Where `names` has the field that is at fault: call it so, in the message, too, if that begins with it or it is no
    ordinary word."""
    ours = error.field or ""
    if (theirs := names.get(ours, ours)) != ours:
        error.field = theirs
        start = "" if "_" in ours else "^"
        error.message = re.sub(rf"{start}(?<![\w.]){re.escape(ours)}(?!\w)", lambda _: theirs, error.message)


def status_of(error: Exception) -> int:
    if isinstance(error, HTTPException):
        return error.status_code
    return codes(error).http if isinstance(error, TandemError) else CODES[TandemError].http


def message_of(error: Exception) -> str:
    """Of an exception that is not ours, nothing but that there was one."""
    match error:
        case TandemError():
            return error.message[:1000]
        case HTTPException():
            return error.detail
        case _:
            return "internal error"


def headers_of(error: Exception) -> dict[str, str]:
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    match error:
        case Overloaded():
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
            headers["Retry-After-Ms"] = str(math.ceil(error.retry_after_s * 1e3))  # OpenAI's clients read it first
            if error.queue_position is not None:  # few dialects' bodies have a place for these
                headers[QUEUE_POSITION] = str(error.queue_position)
            if error.predicted_ttft_s is not None:
                headers[PREDICTED_TTFT] = str(round(error.predicted_ttft_s * 1e3))
        case Unauthenticated():
            headers["WWW-Authenticate"] = "Bearer"
        case Unsupported():
            headers["x-should-retry"] = "false"  # OpenAI's clients repeat what fails with 5xx
    return headers
