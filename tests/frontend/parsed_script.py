"""Scripts of answers that were taken apart, for `fake_inference`."""

from collections.abc import Sequence

from frontend.events import Delta, Finish, Finished, Usage
from frontend.parsed import merged
from frontend.text.parsers.families import Families
from tests.frontend.fake_inference import EOS, TIMING, Step, logprobs_of

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def parsed(
    *pieces: str, tools: str = "hermes", reasoning: str = "none", prompt_end: str = "", cut: bool = False
) -> list[Step]:
    """What a model that says these pieces comes to, one Delta each; `cut` by its length, or at the end of its text."""
    parser = Families.of("", tools, reasoning).parser([WEATHER], prompt_end)
    assert parser is not None
    steps: list[Step] = []
    num_tokens = num_thoughts = 0
    has_calls = False
    for position, piece in enumerate(pieces, 1):
        ids = tuple(piece.encode())
        num_thoughts += len(ids) if parser.thinking else 0
        events = parser.push(piece) + (parser.finish() if position == len(pieces) else [])
        delta = merged(events, Delta("", ids, num_tokens, tuple(logprobs_of(token) for token in ids)))
        has_calls = has_calls or bool(delta.calls)
        num_tokens += len(ids)
        steps.append(delta)
    reason = Finish.LENGTH if cut else Finish.TOOL_CALLS if has_calls else Finish.STOP
    usage = Usage(0, num_tokens, 1, num_thoughts if parser.reasons else None)
    return [*steps, Finished(reason, None if cut else EOS, usage, TIMING)]


def split(text: str, size: int = 3) -> Sequence[str]:
    """As tokens might come."""
    return [text[start : start + size] for start in range(0, len(text), size)]
