"""Which models options mean, and what they are called."""

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.source import Source, sources


def test_one_model_is_named_as_before(tmp_path: Path) -> None:
    assert sources([]) == sources([""]) == [Source("tandem-demo", "")]
    assert sources(["/models/llama"]) == [Source("llama", "/models/llama")]
    assert sources(["org/llama"], "mine") == [Source("mine", "org/llama")]
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert sources([str(odd)]) == [Source("a=b", str(odd))]


def test_several_models_and_their_names() -> None:
    assert sources(["big=/models/llama", "org/tiny", "demo="]) == [
        Source("big", "/models/llama"),
        Source("tiny", "org/tiny"),
        Source("demo", ""),
    ]
    assert [source.name for source in sources(["/a", "/b"], "first")] == ["first", "b"]
    assert sources(["x=/a"], "x") == [Source("x", "/a")]


@pytest.mark.parametrize(
    ("given", "served", "message"),
    [
        (["/a/m", "/b/m"], "", "two models are called 'm': name one with --model NAME=FOLDER"),
        (["=/a"], "", "--model =/a has no name before ="),
        (["x=/a"], "y", "--model x=/a cannot be called 'y', too"),
    ],
)
def test_names_that_make_no_sense_are_refused(given: list[str], served: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sources(given, served)
