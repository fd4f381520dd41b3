"""What was heard of an answer, and how it differs from the right one. Pure."""

from dataclasses import dataclass

LOGPROB_TOLERANCE = 1e-3
"""Batches of other sizes add in another order."""
SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One answer, whole or as far as it came."""

    text: str = ""
    tokens: tuple[int, ...] | None = None
    """Ids, where the API tells them."""
    gap: str | None = None
    """Where a message did not begin at the token after the one before, if the API tells positions."""
    num_tokens: int | None = None
    """As the server's usage counts them."""
    finish: str | None = None
    """None: the answer's end was not heard."""
    logprobs: tuple[float, ...] = ()
    request_id: str = ""


def difference(right: Heard, heard: Heard) -> str | None:
    """How a whole answer is not the right one; None if it is."""
    if heard.text != right.text:
        return _where(right.text, heard.text)
    if heard.gap is not None:
        return heard.gap
    if heard.tokens != right.tokens:
        return "the text is right, but its tokens are others"
    if heard.finish != right.finish:
        return f"it ended by {heard.finish!r} instead of {right.finish!r}"
    if heard.num_tokens != right.num_tokens:
        return f"{heard.num_tokens} tokens are counted instead of {right.num_tokens}"
    if len(heard.logprobs) != len(right.logprobs):
        return f"{len(heard.logprobs)} log-probabilities instead of {len(right.logprobs)}"
    apart = max((abs(a - b) for a, b in zip(heard.logprobs, right.logprobs, strict=True)), default=0.0)
    return f"log-probabilities are up to {apart:.2g} apart" if apart > LOGPROB_TOLERANCE else None


def beginning_differs(right: Heard, heard: Heard) -> str | None:
    """How an answer that was broken off is not the beginning of the right one; None if it is."""
    if not right.text.startswith(heard.text):
        return _where(right.text, heard.text)
    if heard.gap is not None:
        return heard.gap
    if heard.tokens is not None and right.tokens is not None and heard.tokens != right.tokens[: len(heard.tokens)]:
        return "the text is right so far, but its tokens are others"
    return None


def _where(right: str, heard: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(right, heard, strict=False)) if a != b), min(len(right), len(heard)))
    return f"from character {at} on it is {heard[at : at + SHOWN]!r} instead of {right[at : at + SHOWN]!r}"
