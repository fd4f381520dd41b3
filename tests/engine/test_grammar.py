"""Where an answer stands in its grammar is a function of the grammar and the answer's tokens, whoever asks."""

import json
import random
import shutil
from pathlib import Path

import pytest

from engine import grammar as grammar_module
from engine.errors import InvalidRequest, Unsupported
from engine.grammar import MAX_GRAMMAR_BYTES, Grammars, GrammarState
from engine.hub import DEMO_MODEL
from tests.shared_data import shared_data

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TEXTS = {
    "json": json.dumps({"grammars": [{"json_schema": PERSON}]}),
    "lark": 'start: "yes" | "no, " /[a-z]{3,9}/',
    "recursive": 'start: list\nlist: "[" (item ("," item)*)? "]"\nitem: list | /[0-9]/',
}


def stories() -> Grammars:
    return Grammars(shared_data("models", "stories260K"), 512, (1, 2))


def demo() -> Grammars:
    return Grammars(DEMO_MODEL, 4096, (2, 0))


def allowed(state: GrammarState) -> list[int]:
    bias = state.matcher.compute_logit_bias()
    return [token for token, value in enumerate(bias) if value]


def walk(
    grammars: Grammars, text: str, rng: random.Random, longest: int = 60
) -> tuple[list[int], list[list[int]], bool]:
    """A random answer, what was allowed before each of its tokens, and whether it is complete."""
    state = grammars.start(text)
    tokens: list[int] = []
    masks: list[list[int]] = []
    while len(tokens) < longest:
        masks.append(allowed(state))
        assert not state.error
        tokens.append(rng.choice(masks[-1]))
        if state.take(tokens[-1]):
            return tokens, masks, True
    return tokens, masks, False


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("grammars", [stories, demo])
def test_whoever_replays_the_tokens_allows_the_same(grammars: object, text: str) -> None:
    first, second = grammars(), grammars()  # type: ignore[operator]
    for seed in range(4):
        tokens, masks, _ = walk(first, text, random.Random(seed))
        for end in range(0, len(tokens), 3):
            assert allowed(second.start(text, tokens[:end])) == masks[end]


def test_an_answer_is_complete_when_nothing_may_follow() -> None:
    grammars = demo()
    complete = 0
    for seed in range(20):
        tokens, _, ended = walk(grammars, TEXTS["lark"], random.Random(seed))
        answer = grammars.tokenizer.decode_str([token for token in tokens if token not in (0, 2)])
        assert ended
        assert answer == "yes" or answer.startswith("no, ")
        complete += answer == "yes" or len(answer) == 13  # longer words may not be, shorter ones end with a token
    assert complete


def test_end_of_text_is_allowed_only_where_the_grammar_accepts() -> None:
    grammars = demo()
    state = grammars.start("start: /[0-9]{2,3}/")
    digit = grammars.tokenizer.tokenize_str("1")[0]
    assert not {0, 2} & set(allowed(state))
    assert not state.take(digit)
    assert not {0, 2} & set(allowed(state))
    assert not state.take(digit)
    assert set(allowed(state)) > {0, 2}
    assert state.take(digit)


def test_states_of_one_grammar_know_nothing_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "_MAX_COPIES", 2)
    monkeypatch.setattr(grammar_module, "_MAX_KEPT", 1)
    grammars, alone = demo(), demo()
    states = [grammars.start(TEXTS["lark"]) for _ in range(5)]
    grammars.start(TEXTS["json"])
    yes, no = grammars.tokenizer.tokenize_str("y")[0], grammars.tokenizer.tokenize_str("n")[0]
    states[0].take(yes)
    states[1].take(no)
    assert allowed(states[0]) == allowed(alone.start(TEXTS["lark"], [yes]))
    assert allowed(states[1]) == allowed(alone.start(TEXTS["lark"], [no]))
    assert allowed(states[2]) == allowed(states[4]) == allowed(alone.start(TEXTS["lark"]))
    states[2].take(grammars.tokenizer.tokenize_str("#")[0])
    assert states[2].error
    assert not states[3].error


def test_what_is_no_grammar_is_refused_in_words() -> None:
    grammars = demo()
    with pytest.raises(InvalidRequest, match="not"):
        grammars.start(json.dumps({"grammars": [{"json_schema": {"not": {}}}]}))
    with pytest.raises(InvalidRequest, match="unknown"):
        grammars.start("start: unknown")
    with pytest.raises(InvalidRequest, match="at most"):
        grammars.start("start: " + "a" * MAX_GRAMMAR_BYTES)
    with pytest.raises(InvalidRequest, match="surrogate"):
        grammars.start("start: \ud800")
    with pytest.raises(InvalidRequest, match="tokens so far"):
        grammars.start(TEXTS["lark"], [5, 5, 5])


def test_a_vocabulary_that_cannot_spell_an_answer_leads_nowhere() -> None:
    state = Grammars(shared_data("models", "babyllama105"), 105, (1, 2)).start('start: "{"')
    for token in allowed(state):  # what its tokenizer has for unknown text
        assert not state.take(token)
    assert state.error


def test_special_tokens_are_known_by_number() -> None:
    assert demo().special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def test_models_that_no_grammar_can_follow(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="end-of-text"):
        Grammars(DEMO_MODEL, 4096, ()).start("start: /a/")
    with pytest.raises(Unsupported, match="tokenizer"):
        Grammars(tmp_path, 4096, (0,)).start("start: /a/")
    spec = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"decoder": None}))
    with pytest.raises(Unsupported, match="tokenizer"):
        Grammars(tmp_path, 4096, (0,)).start("start: /a/")


def test_logits_may_be_longer_or_shorter_than_the_tokenizers_vocabulary(tmp_path: Path) -> None:
    shutil.copy(DEMO_MODEL / "tokenizer.json", tmp_path)
    sizes = [Grammars(tmp_path, size, (0,)).start("start: /a/").mask_bytes for size in (4000, 4096, 5000)]
    assert sizes == [500, 512, 628]
