"""What llama.cpp's clients send: what it comes to, and what is refused, by the name of the parameter at fault."""

from typing import Any

import msgspec
import pytest

from engine.errors import InvalidRequest, Unsupported
from frontend.fields import UnknownParameter, UnsupportedParameter
from frontend.infill import MAX_CHARS
from frontend.request import GenerateRequest, Grammar, GrammarKind, TokenPrompt
from frontend.rest.llamacpp import samplers
from frontend.rest.llamacpp.parse import Ask, parse_completion, parse_infill
from frontend.rest.llamacpp.request_types import DETAILS, OFF, LlamaCompletionRequest
from tests.frontend.fake_inference import MODEL, FakeInference


class FimInference(FakeInference):
    """Of a model with tokens for infilling, and one that texts begin with."""

    TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")

    def tokenize(self, model: Any, text: Any, *, add_special_tokens: bool = True) -> list[int]:
        if text in self.TOKENS:
            return [300 + self.TOKENS.index(text)]
        return [1] * add_special_tokens + super().tokenize(model, text)


async def completion(**fields: object) -> Ask:
    return await parse_completion(msgspec.json.encode({"prompt": "hi", **fields}), FakeInference())


async def only(**fields: object) -> GenerateRequest:
    (generation,) = (await completion(**fields)).generations
    return generation


# -- what is taken -----------------------------------------------------------------------------------------------------


async def test_defaults_are_llama_cpps_and_not_the_models() -> None:
    bare = await only()
    assert bare.seed is not None
    assert bare == GenerateRequest(
        prompt="hi",
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=pytest.approx(0.05**1.25),  # type: ignore[arg-type]
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=bare.seed,
    )


async def test_null_is_the_same_as_nothing() -> None:
    nulls = dict.fromkeys({*LlamaCompletionRequest.__struct_fields__, *OFF, *DETAILS} - {"prompt", "seed"})
    assert await only(**nulls, seed=5) == await only(seed=5)


async def test_what_asks_for_nothing_is_taken() -> None:
    plain = await only(seed=5)
    for name, values in OFF.items():
        for value in values:
            assert await only(**{name: value}, seed=5) == plain, name
    details = dict.fromkeys(DETAILS, 3)
    assert await only(**details, seed=5) == plain


async def test_sampling_is_handed_on() -> None:
    generation = await only(
        model=MODEL,
        temperature=1,
        top_k=3,
        top_p=0.5,
        min_p=0.2,
        repeat_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=9,
        n_predict=7,
        ignore_eos=True,
        n_probs=4,
    )
    assert generation == GenerateRequest(
        prompt="hi",
        model=MODEL,
        temperature=1,
        top_k=3,
        top_p=0.5,
        min_p=0.2,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=9,
        max_tokens=7,
        ignore_eos=True,
        logprobs=4,
    )
    assert (await only(n_probs=0)).logprobs is None
    assert (await only(stop="a")).stop == ("a",)
    assert (await only(stop=["a", "", "b"])).stop == ("a", "b")
    assert (await only(stop="")).stop == ()


@pytest.mark.parametrize("name", ["n_predict", "max_completion_tokens", "max_tokens"])
async def test_lengths(name: str) -> None:
    ask = await completion(**{name: 5})
    assert (ask.generations[0].max_tokens, ask.names["max_tokens"]) == (5, name)
    assert (await only(**{name: -1})).max_tokens is None
    assert (await only(**{name: 0})).max_tokens == 1
    with pytest.raises(InvalidRequest) as raised:
        await completion(**{name: -2})
    assert raised.value.field == name


async def test_other_names_for_the_same() -> None:
    assert (await completion(logprobs=3)).names["logprobs"] == "logprobs"
    assert (await only(logprobs=3, n_probs=3)).logprobs == 3
    assert len((await completion(n=3)).generations) == 3
    for fields, name in (
        ({"n_predict": 1, "max_tokens": 2}, "max_tokens"),
        ({"n_probs": 1, "logprobs": 2}, "logprobs"),
        ({"n_cmpl": 1, "n": 2}, "n"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            await completion(**fields)
        assert raised.value.field == name


async def test_seeds_have_32_bits() -> None:
    assert (await only(seed=2**32 + 3)).seed == 3
    assert (await only(seed=-2)).seed == 2**32 - 2
    for random in (-1, 2**32 - 1, None):
        drawn = {(await only(seed=random)).seed for _ in range(4)}
        assert len(drawn) > 1
        assert all(seed is not None and 0 <= seed < 2**32 for seed in drawn)
    assert [each.seed for each in (await completion(seed=4, n_cmpl=3)).generations] == [4, 5, 6]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", [""]),
        ("a", ["a"]),
        ([5, 6], [TokenPrompt((5, 6))]),
        ([5, "bc", 6], [TokenPrompt((5, 98, 99, 6))]),
        (["a", "b"], ["a", "b"]),
        ([[5, 6], "b", [7, "c"]], [TokenPrompt((5, 6)), "b", TokenPrompt((7, 99))]),
        ({"prompt_string": "a"}, ["a"]),
        ([{"prompt_string": "a", "multimodal_data": []}, {"prompt_string": [5, "b"]}], ["a", TokenPrompt((5, 98))]),
    ],
)
async def test_prompts(prompt: object, prompts: list[object]) -> None:
    ask = await completion(prompt=prompt, n_cmpl=2, seed=1)
    assert [each.prompt for each in ask.generations] == [prompt for prompt in prompts for _ in range(2)]


async def test_only_a_text_that_comes_first_begins_the_prompt() -> None:
    body = msgspec.json.encode({"prompt": [["a", 5, "b"], [5, "a"]]})
    prompts = [each.prompt for each in (await parse_completion(body, FimInference())).generations]
    assert prompts == [TokenPrompt((1, 97, 5, 98)), TokenPrompt((5, 97))]


@pytest.mark.parametrize(
    ("bias", "result"),
    [
        ({"5": 1.5, "6": False, "7": -3}, {5: 1.5, 6: -100, 7: -3}),
        ([[5, 1.5], [6, False], [7, -3]], {5: 1.5, 6: -100, 7: -3}),
        ([["ab", 2], ["b", 1], [97, False]], {97: -100, 98: 3}),
        ({"ab": 2, "98": 1}, {97: 2, 98: 3}),
        ([["12", 2]], {49: 2, 50: 2}),
        ([], {}),
    ],
)
async def test_logit_bias(bias: object, result: dict[int, float]) -> None:
    assert (await only(logit_bias=bias)).logit_bias == result


async def test_grammars() -> None:
    gbnf = 'root ::= "a"'
    ask = await completion(grammar=gbnf)
    assert (ask.generations[0].grammar, ask.names["grammar"]) == (Grammar(GrammarKind.LARK, gbnf), "grammar")
    ask = await completion(json_schema={"type": "null"}, grammar="")
    schema = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "null"}')
    assert (ask.generations[0].grammar, ask.names["grammar"]) == (schema, "json_schema")
    assert (await only(grammar="")).grammar is None
    with pytest.raises(InvalidRequest) as raised:
        await completion(grammar=gbnf, json_schema={})
    assert raised.value.field == "json_schema"


# -- penalties and samplers --------------------------------------------------------------------------------------------


async def test_penalties_cover_the_whole_text_or_nothing() -> None:
    assert (await only(repeat_penalty=1.5, repeat_last_n=-1)).repetition_penalty == 1.5
    off = await only(repeat_penalty=1.5, presence_penalty=1, frequency_penalty=1, repeat_last_n=0)
    assert (off.repetition_penalty, off.presence_penalty, off.frequency_penalty) == (1, 0, 0)
    await only(repeat_last_n=64, repeat_penalty=1.0, presence_penalty=0)  # which is no penalty
    for penalty in ("repeat_penalty", "presence_penalty", "frequency_penalty"):
        with pytest.raises(UnsupportedParameter) as raised:
            await only(**{penalty: 1.5}, repeat_last_n=64)
        assert raised.value.field == "repeat_last_n"


async def test_samplers_that_are_not_named_are_off() -> None:
    everything = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.25, "repeat_penalty": 2}
    none = await only(samplers=[], **everything)
    assert (none.temperature, none.top_k, none.top_p, none.min_p, none.repetition_penalty) == (1, 0, 1, 0, 1)
    for name, field in (("top_k", "top_k"), ("nucleus", "top_p"), ("penalties", "repetition_penalty")):
        one = await only(samplers=[name], **everything)
        assert {key for key in ("top_k", "top_p", "repetition_penalty") if getattr(one, key) != getattr(none, key)} == {
            field
        }


async def test_min_p_keeps_what_it_keeps_before_the_temperature() -> None:
    """Checked on probabilities: those that survive min_p at temperature 1 survive the number at the other one."""
    probabilities = [0.4, 0.2, 0.1, 0.021, 0.019, 0.01]
    for temperature in (0.2, 0.8, 1.7):
        min_p = (await only(temperature=temperature, min_p=0.05, samplers=["min_p", "temperature"])).min_p
        assert min_p is not None
        tempered = [p ** (1 / temperature) for p in probabilities]
        assert [p >= min_p * tempered[0] for p in tempered] == [p >= 0.05 * 0.4 for p in probabilities]
        assert (await only(temperature=temperature, min_p=0.05, samplers="tm")).min_p == 0.05
    assert (await only(temperature=0)).min_p == 0.05


async def test_the_order_of_samplers() -> None:
    assert (await completion(samplers=list(samplers.DEFAULT))).chain == (await completion()).chain
    assert (await completion(samplers="edskypmxt")).chain == (await completion()).chain
    assert (await completion(samplers=["Top-K", "typ_p", "temp"])).chain.names == ("top_k", "typ_p", "temperature")
    for wrong in (["top_p", "top_k"], ["top_k", "penalties"], "mp"):
        with pytest.raises(UnsupportedParameter) as raised:
            await completion(samplers=wrong)
        assert raised.value.field == "samplers"
    for unknown in (["top_k", "magic"], "kz"):
        with pytest.raises(InvalidRequest) as bad:
            await completion(samplers=unknown)
        assert bad.value.field == "samplers[1]"
    with pytest.raises(UnsupportedParameter, match="infill"):
        await completion(samplers=["infill"])
    with pytest.raises(InvalidRequest, match="twice"):
        await completion(samplers=["temp", "temperature"])


# -- what is refused ---------------------------------------------------------------------------------------------------

ON: dict[str, object] = {
    "adaptive_target": 0.5,
    "cache_prompt": False,
    "dry_multiplier": 0.8,
    "dynatemp_range": 0.5,
    "id_slot": 0,
    "lora": [{"id": 0, "scale": 1}],
    "min_keep": 2,
    "mirostat": 2,
    "n_indent": 4,
    "post_sampling_probs": True,
    "return_progress": True,
    "sse_ping_interval": 5,
    "t_max_predict_ms": 100,
    "top_n_sigma": 1,
    "typical_p": 0.5,
    "xtc_probability": 0.5,
}


@pytest.mark.parametrize("name", [*ON, *sorted(set(OFF) - set(ON))])
async def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        await completion(**{name: ON.get(name, "on")})
    assert raised.value.field == name


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"best_of": 1}, "best_of"),
    ],
)
async def test_what_nobody_knows_is_refused_by_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(UnknownParameter) as raised:
        await completion(**fields)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, [2]]}, "prompt"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 9, "n_cmpl": 16}, "prompt"),
        ({"temperature": "hot"}, "temperature"),
        ({"n_cmpl": 0}, "n_cmpl"),
        ({"n": 17}, "n"),
        ({"logit_bias": [[5, True]]}, "logit_bias"),
        ({"logit_bias": [["a" * 1001, 1]]}, "logit_bias"),
        ({"logit_bias": [[5]]}, "logit_bias[0]"),
        ({"logit_bias": [[5, 1]] * 1025}, "logit_bias"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"timings_per_token": True, "stream": True}, "timings_per_token"),
        ({"response_fields": "content"}, "response_fields"),
        ({"n_predict": 2**31}, "n_predict"),
        ({"prompt": [1, "a" * (MAX_CHARS + 1)]}, "prompt"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await completion(**fields)
    assert raised.value.field == field


# -- infill ------------------------------------------------------------------------------------------------------------


async def infill(inference: FakeInference, **fields: object) -> GenerateRequest:
    body = msgspec.json.encode({"input_prefix": "ab", "input_suffix": "cd", **fields})
    (generation,) = (await parse_infill(body, inference)).generations
    return generation


async def test_infilling_asks_for_what_stands_between() -> None:
    begin, prefix, suffix, middle, repository, file = 1, 300, 301, 302, 303, 304
    generation = await infill(
        FimInference(), prompt="e", input_extra=[{"text": "x", "filename": "f"}, {"text": "y"}], n_predict=3
    )
    assert generation.max_tokens == 3
    assert generation.prompt == TokenPrompt(
        (
            *(begin, repository, *b"myproject\n"),
            *(file, *b"f\nx", file, *b"tmp\ny", file, *b"filename\n"),
            *(prefix, *b"abe", suffix, *b"cd", middle),
        )
    )


async def test_models_that_know_less_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FimInference, "TOKENS", ("▁<PRE>", "▁<SUF>", "▁<MID>"))
    extra = [{"text": "x", "filename": "f"}]
    prompt = (await infill(FimInference(), input_extra=extra)).prompt
    assert prompt == TokenPrompt((1, *b"\n\n--- snippet ---\n\nx", 300, *b"ab", 301, *b"cd", 302))


async def test_a_model_without_such_tokens_cannot_infill() -> None:
    with pytest.raises(Unsupported, match="infill is not supported by this model"):
        await infill(FakeInference())
    for fields, field in (({"input_prefix": None}, "input_prefix"), ({"prompt": 5}, "prompt")):
        with pytest.raises(InvalidRequest) as raised:
            await infill(FimInference(), **fields)
        assert raised.value.field == field
