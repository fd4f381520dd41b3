"""Every sampling field is checked, by name, and filled in when it is not given."""

from dataclasses import replace

import pytest

from engine.errors import ContextOverflow, InvalidRequest
from engine.sequence import SamplingParams
from frontend.checks import MAX_LOGIT_BIAS, MAX_STOP_CHARS, MAX_STOP_STRINGS, ModelLimits, check_token_ids, resolve
from frontend.request import GenerateRequest

LIMITS = ModelLimits(vocab_size=100, max_context=64, eos_token_ids=frozenset((2, 3)))
NAN, INF = float("nan"), float("inf")


def params(limits: ModelLimits = LIMITS, prompt_tokens: int = 10, **fields: object) -> SamplingParams:
    return resolve(GenerateRequest(prompt="x", **fields), prompt_tokens, limits)  # type: ignore[arg-type]


def test_what_is_not_given_is_filled_in() -> None:
    assert replace(params(), seed=0) == SamplingParams(
        max_tokens=54, seed=0, stop_token_ids=frozenset((2, 3)), temperature=1.0
    )


def test_generation_config_goes_before_the_documented_defaults_and_after_the_request() -> None:
    limits = replace(LIMITS, defaults={"temperature": 0.25, "top_k": 7.0, "top_p": 0.5, "repetition_penalty": 1.5})
    made = params(limits, top_p=0.75)
    assert (made.temperature, made.top_k, made.top_p, made.repetition_penalty) == (0.25, 7, 0.75, 1.5)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.0, 1e-9, 2, 2.0], [-0.001, 2.001, NAN, INF, -INF, 10**400]),
        ("top_p", [0, 1e-9, 1], [-1e-9, -1, 1.001, NAN, INF, -INF]),
        ("min_p", [0, 0.5, 1], [-0.001, 1.001, NAN, INF]),
        ("repetition_penalty", [0.01, 1, 100], [0, 1e-300, 0.001, -1, 100.1, NAN, INF]),
        ("presence_penalty", [-2, 0, 2], [-2.001, 2.001, NAN, INF, -INF]),
        ("frequency_penalty", [-2, 0, 2], [-2.001, 2.001, NAN, INF, -INF]),
        ("top_k", [-1, 0, 1, 2**31 - 1], [-2, 2**31, 10**30]),
        ("max_tokens", [1, 54], [0, -1, 55, 10**30]),
        ("min_tokens", [0, 54], [-1, 55]),
        ("logprobs", [0, 20], [-1, 21]),
        ("stop_token_ids", [(), (0, 99)], [(-1,), (100,), (0, 10**30)]),
        ("stop", [(), ("a",) * MAX_STOP_STRINGS, ("a" * MAX_STOP_CHARS,)], [("",), ("a",) * 17, ("a" * 1001,)]),
        (
            "logit_bias",
            [{}, {0: -100, 99: 100.0}, dict.fromkeys(range(100), 1.0)],
            [{-1: 1.0}, {100: 1.0}, {1: NAN}, {1: INF}, {1: 100.1}, {1: -101}],
        ),
    ],
)
def test_each_field_has_its_range(field: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        params(**{field: value})
    for value in bad:
        with pytest.raises(InvalidRequest) as refused:
            params(**{field: value})
        assert refused.value.field == field, value
        assert len(refused.value.message) < 1000


def test_too_many_biases_are_refused() -> None:
    limits = replace(LIMITS, vocab_size=5000)
    params(limits, logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS), 1.0))
    with pytest.raises(InvalidRequest, match="1024"):
        params(limits, logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1.0))


def test_values_are_as_the_sampler_wants_them() -> None:
    made = params(top_k=-1, logit_bias={5: 1, 3: -2}, temperature=1, seed=-1)
    assert (made.top_k, made.logit_bias, made.seed) == (0, ((3, -2), (5, 1)), 2**64 - 1)
    assert isinstance(made.temperature, float)
    assert params(top_k=1000).top_k == 100
    assert params(seed=2**64 + 5).seed == 5
    assert [(made.top_k, made.top_p) for made in (params(top_p=0), params(top_p=0, top_k=7))] == [(1, 1.0)] * 2


def test_a_seed_is_drawn_where_none_is_given() -> None:
    drawn = {params().seed for _ in range(10)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_end_of_text_ids_end_the_answer_unless_ignored() -> None:
    assert params(stop_token_ids=(7,)).stop_token_ids == {2, 3, 7}
    assert params(stop_token_ids=(7,), ignore_eos=True).stop_token_ids == {7}


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "field"), [(64, None, "prompt"), (100, 1, "prompt"), (63, 2, "max_tokens")]
)
def test_prompt_and_answer_must_fit_the_context(prompt_tokens: int, max_tokens: int | None, field: str) -> None:
    with pytest.raises(ContextOverflow) as refused:
        params(prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    assert refused.value.field == field


def test_the_last_place_of_the_context_is_used() -> None:
    assert params(prompt_tokens=63).max_tokens == 1
    assert params(prompt_tokens=63, max_tokens=1).max_tokens == 1


def test_token_ids_are_named_by_their_position() -> None:
    check_token_ids((0, 99), 100, "prompt")
    with pytest.raises(InvalidRequest, match=r"prompt\[1\] is 100") as refused:
        check_token_ids((0, 100), 100, "prompt")
    assert refused.value.field == "prompt"
