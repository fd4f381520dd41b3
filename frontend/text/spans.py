"""Where the tokens of a text stand in it."""

from typing import NamedTuple


class Span(NamedTuple):  # there is one for every token of a text
    """A token, and the characters of the text that it stands for: from `start` to before `stop`."""

    token_id: int
    start: int
    stop: int
