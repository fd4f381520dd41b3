from dataclasses import replace

import pytest

from cli.chaos.answers import Heard, beginning_differs, difference

RIGHT = Heard(
    text="a cache of keys",
    tokens=(4, 5, 6),
    num_tokens=3,
    finish="stop",
    logprobs=(-0.5, -1.0, -0.25),
    request_id="r-1",
)


def test_the_same_answer_is_no_difference() -> None:
    assert difference(RIGHT, replace(RIGHT, request_id="r-2", logprobs=(-0.5001, -1.0, -0.25))) is None


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        (
            replace(RIGHT, text="a cache of cache of keys"),
            "from character 11 on it is 'cache of keys' instead of 'keys'",
        ),
        (replace(RIGHT, text="a cache"), "from character 7 on it is '' instead of ' of keys'"),
        (replace(RIGHT, gap="a message begins at token 2, after 1 tokens"), "begins at token 2"),
        (replace(RIGHT, tokens=(4, 5, 7)), "its tokens are others"),
        (replace(RIGHT, finish="length"), "it ended by 'length' instead of 'stop'"),
        (replace(RIGHT, num_tokens=4), "4 tokens are counted instead of 3"),
        (replace(RIGHT, logprobs=(-0.5,)), "1 log-probabilities instead of 3"),
        (replace(RIGHT, logprobs=(-0.5, -1.0, -0.35)), "up to 0.1 apart"),
    ],
)
def test_what_differs_is_told(heard: Heard, told: str) -> None:
    assert told in (difference(RIGHT, heard) or "")


def test_a_beginning_is_right_as_far_as_it_goes() -> None:
    assert beginning_differs(RIGHT, Heard()) is None
    assert beginning_differs(RIGHT, Heard(text="a ca", tokens=(4,))) is None
    assert beginning_differs(RIGHT, RIGHT) is None


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        (Heard(text="a key"), "from character 2 on"),
        (Heard(text="a ca", tokens=(5,)), "its tokens are others"),
        (Heard(text="a ca", tokens=(4,), gap="a gap"), "a gap"),
        (Heard(text=RIGHT.text + " and"), "from character 15 on it is ' and' instead of ''"),
    ],
)
def test_a_beginning_of_something_else_is_told(heard: Heard, told: str) -> None:
    assert told in (beginning_differs(RIGHT, heard) or "")
