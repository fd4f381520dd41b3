"""How mounts are written, and which are refused."""

import pytest

from engine.errors import ConfigError
from frontend.mounts import NAMES, Mount, parse_mounts

OTHERS = {8000: "--http-port", 50051: "--grpc-port"}


@pytest.mark.parametrize("name", NAMES)
def test_every_dialect_may_be_at_a_port_or_below_a_prefix(name: str) -> None:
    mounts = parse_mounts((f"{name}=:11434", f"{name}=/as/{name}", f"{name}=:0"), OTHERS)
    assert mounts == (Mount(name, 11434), Mount(name, prefix=f"/as/{name}"), Mount(name, 0))
    assert parse_mounts(tuple(map(str, mounts)), OTHERS) == mounts


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["gemini=:1"], "there is no dialect 'gemini', but openai, vllm, tgi, ollama, anthropic, llamacpp"),
        (["=:1"], "there is no dialect ''"),
        (["ollama"], "it must be NAME=:PORT or NAME=/PREFIX"),
        (["ollama="], "it must be"),
        (["ollama=11434"], "it must be"),
        (["ollama=:"], "it must be"),
        (["ollama=:65536"], "it must be"),
        (["ollama=:-1"], "it must be"),
        (["ollama=0.0.0.0:1"], "it must be"),
        (["ollama=/"], "it must be"),
        (["ollama=/a/"], "it must be"),
        (["ollama=//a"], "it must be"),
        (["ollama=/a//b"], "it must be"),
        (["ollama=/a/../b"], "it must be"),
        (["ollama=/."], "it must be"),
        (["ollama=/a?b"], "it must be"),
        (["ollama=/ä"], "it must be"),
        (["ollama=/a b"], "it must be"),
        (["ollama=:8000"], "port 8000 is that of --http-port"),
        (["ollama=:50051"], "port 50051 is that of --grpc-port"),
        (["ollama=:1", "openai=:1"], "port 1 is that of ollama already"),
        (["ollama=:1", "ollama=:1"], "it is given twice"),
        (["ollama=/a", "ollama=/a"], "it is given twice"),
        (["ollama=/a", "openai=/a"], "/a is ollama's already"),
        (["ollama=/a", "openai=/a/b"], "/a is ollama's already, and one may not begin with the other"),
        (["ollama=/a/b", "openai=/a"], "/a/b is ollama's already"),
    ],
)
def test_what_is_no_mount_is_refused_with_why(texts: list[str], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_mounts(texts, OTHERS)
    assert refused.value.message.startswith(f"--mount {texts[-1]}: ")
    assert why in refused.value.message
    assert refused.value.field == "mount"


def test_prefixes_that_only_begin_alike_are_two() -> None:
    assert len(parse_mounts(["ollama=/a", "openai=/ab", "tgi=/b/a", "vllm=/b/c"], OTHERS)) == 4


def test_several_may_have_a_free_port_each() -> None:
    assert len(parse_mounts(["ollama=:0", "openai=:0"], {0: "--http-port"})) == 2
