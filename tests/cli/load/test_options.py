import pytest

from cli.load.options import parse_goodput
from engine.errors import ConfigError


def test_limits_are_read_from_one_word_or_several() -> None:
    assert parse_goodput(["ttft:200 tpot:50", "e2el:1e3"]) == {"ttft": 200, "tpot": 50, "e2el": 1000}


@pytest.mark.parametrize("word", ["ttft", "ttft:", "ttft:-1", "ttft:nan", "itl:5", "ttft=5"])
def test_other_limits_are_refused_by_name(word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_goodput([word])
