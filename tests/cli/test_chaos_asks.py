import random
from dataclasses import replace

import pytest

from cli.chaos.asks import PATIENT, Dialect, Kind, Served, choose_behavior, make_asks

SERVED = Served("fake", max_context=2048, vocab=500, has_chat=True)


def test_a_seed_is_a_set_of_asks() -> None:
    assert make_asks(3, 40, SERVED) == make_asks(3, 40, SERVED)
    assert make_asks(3, 40, SERVED) != make_asks(4, 40, SERVED)


def test_there_are_all_kinds_in_all_dialects_streamed_and_whole() -> None:
    asks = make_asks(0, 96, SERVED)
    assert {ask.kind for ask in asks} == set(Kind)
    assert {ask.dialect for ask in asks} == set(Dialect)
    assert {ask.stream for ask in asks} == {True, False}
    assert [ask.number for ask in asks] == list(range(96))


def test_no_answer_is_left_to_chance() -> None:
    for ask in make_asks(1, 200, SERVED):
        assert ask.fields["temperature"] == 0.0 or "seed" in ask.fields


@pytest.mark.parametrize("max_context", [64, 128, 512, 4096])
def test_every_ask_fits_the_context(max_context: int) -> None:
    for ask in make_asks(2, 100, replace(SERVED, max_context=max_context)):
        max_tokens = ask.fields["max_tokens"]
        assert isinstance(max_tokens, int)
        assert 1 <= max_tokens <= max_context // 4
        if isinstance(ask.prompt, tuple):
            assert len(ask.prompt) + max_tokens <= max_context
            assert max(ask.prompt) < SERVED.vocab


def test_a_model_without_a_template_is_not_chatted_with() -> None:
    asks = make_asks(0, 60, replace(SERVED, has_chat=False))
    assert Dialect.CHAT not in {ask.dialect for ask in asks}


def test_clients_differ_in_patience() -> None:
    rng = random.Random(0)
    behaviors = [(ask, choose_behavior(rng, ask)) for ask in make_asks(0, 300, SERVED)]
    assert any(behavior == PATIENT for _, behavior in behaviors)
    assert any(behavior.max_pieces for _, behavior in behaviors)
    assert any(behavior.hang_up_s is not None for _, behavior in behaviors)
    late = [ask for ask, behavior in behaviors if behavior.deadline_s is not None]
    assert {ask.dialect for ask in late} == {Dialect.GRPC}, "REST has no deadlines"
