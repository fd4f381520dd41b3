"""What the frontend's options mean where one value is not just one value."""

from pathlib import Path

import pytest

from engine.errors import ConfigError
from frontend.__main__ import load_models
from frontend.config import FrontendConfig, by_model


def config(*arguments: str) -> FrontendConfig:
    return FrontendConfig(_cli_parse_args=arguments)  # type: ignore[call-arg]


def test_one_model_and_what_stands_beside_it() -> None:
    (model,) = load_models(config("--served-model-name", "m", "--model-aliases", "gpt-4,m", "--accept-any-model"))
    assert (model.name, model.aliases, model.takes_any_name, model.fallback) == ("m", {"gpt-4"}, True, ())
    (demo,) = load_models(config())
    assert (demo.name, demo.aliases, demo.takes_any_name) == ("tandem-demo", frozenset(), False)


def test_a_folder_may_have_a_comma_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert config("--model", str(folder)).model == (str(folder),)
    assert (
        config("--model", "a=/x,b=/y").model == config("--model", "a=/x", "--model", "b=/y").model == ("a=/x", "b=/y")
    )


def test_several_models_and_whose_what_is() -> None:
    given = ("--model", "big=", "--model", "small=", "--accept-any-model", "--tool-parser", "hermes")
    aliases = ("--model-aliases", "gpt-4,gpt-4o", "--model-aliases", "small=gpt-4o-mini,mini")
    big, small = load_models(config(*given, *aliases, "--fallback", "small=big", "--fallback", "big=small"))
    assert (big.name, big.aliases, big.fallback, big.takes_any_name) == ("big", {"gpt-4", "gpt-4o"}, ("small",), True)
    assert (small.name, small.aliases, small.fallback) == ("small", {"gpt-4o-mini", "mini"}, ("big",))
    assert not small.takes_any_name
    assert big.families.tools is not None, "what is said of a model's text is the first's"


def test_values_belong_to_the_name_before_them() -> None:
    found = by_model(["a", "y=b", "c", "x=d"], ["x", "y"], "model_aliases")
    assert found == {"x": ("a", "d"), "y": ("b", "c")}
    with pytest.raises(ConfigError, match="--model-aliases: there is no model 'z'"):
        by_model(["z=a"], ["x", "y"], "model_aliases")
