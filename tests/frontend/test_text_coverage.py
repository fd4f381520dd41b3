"""How much text a token can stand for: never too little said, and nothing where it may be any amount."""

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.hub import DEMO_MODEL
from frontend.text.coverage import MOST_COMPOSED
from frontend.text.tokenizer import Tokenizer
from tests.frontend.text_samples import model_folder, texts, tokenizer

Spec = dict[str, Any]
KNOWN = ("gpt-2", "llama-spm", "stories260K")
BOUNDED = (*KNOWN, "demo", "composing", "replacing")


@cache
def subject(name: str) -> Tokenizer:
    match name:
        case "demo":
            return Tokenizer.load(DEMO_MODEL)
        case "composing":
            return changed("gpt-2", lambda spec: spec.update(normalizer={"type": "NFC"}))
        case "replacing":
            steps = [replace(" ", "▁"), replace("eee", "ee"), {"type": "Lowercase"}]
            return changed("llama-spm", lambda spec: spec.update(normalizer=sequence("normalizers", steps)))
        case _:
            return tokenizer(name)


def changed(name: str, change: Callable[[Spec], None]) -> Tokenizer:
    """A tokenizer whose file says something else."""
    with model_folder(name) as folder, TemporaryDirectory() as made:
        spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(spec)
        (Path(made) / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
        return Tokenizer.load(Path(made))


def replace(old: str, new: str) -> Spec:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def sequence(parts: str, steps: list[Spec]) -> Spec:
    return {"type": "Sequence", parts: steps}


def holds(name: str, text: str) -> bool:
    most = subject(name).most_chars(len(subject(name).encode(text, add_special_tokens=False)))
    return most is not None and len(text) <= most


HARD = (
    " ",
    "\n",
    "\t",
    "=",
    "-",
    "漢",
    "🦙",
    "\0",
    "\x07",
    "e",
    "E",
    "e\u0301",
    "α\u0313\u0300\u0345",
    "<s>",
    "\u0301",
)  # noqa: RUF001


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_fewer_tokens_than_that(name: str) -> None:
    for text in (*texts(), *(part * times for part in HARD for times in (1, 2, 3, 100, 5000))):
        assert holds(name, text)


@pytest.mark.parametrize("name", BOUNDED)
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(st.one_of(st.sampled_from(HARD), st.text(max_size=4)), st.integers(1, 60))))
def test_nor_has_any_other(name: str, parts: list[tuple[str, int]]) -> None:
    assert holds(name, "".join(part * times for part, times in parts))


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_the_longest_entry(name: str) -> None:
    with model_folder(name) as folder:
        vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert tokenizer(name).max_chars_per_token == max(map(len, vocab))
    assert tokenizer(name).most_chars(10) == 10 * max(map(len, vocab))


def test_an_added_token_may_be_the_longest() -> None:
    token = {"id": 50257, "content": "x" * 300, "single_word": False, "lstrip": False, "rstrip": False}
    made = changed("gpt-2", lambda spec: spec["added_tokens"].append({**token, "normalized": False, "special": True}))
    assert made.encode("x" * 300, add_special_tokens=False) == [50257]
    assert made.max_chars_per_token == 300


def test_unicode_composes_no_more_than_that() -> None:
    assert max(len(unicodedata.normalize("NFD", chr(code))) for code in range(0x110000)) == MOST_COMPOSED
    assert subject("composing").max_chars_per_token == MOST_COMPOSED * tokenizer("gpt-2").max_chars_per_token


def test_where_a_run_of_unknown_characters_is_one_token_nothing_is_said() -> None:
    assert len(tokenizer("babyllama105").encode("漢" * 1000, add_special_tokens=False)) < 4
    assert tokenizer("babyllama105").max_chars_per_token is None
    assert tokenizer("babyllama105").most_chars(10) is None


def set_normalizer(**step: object) -> Callable[[Spec], None]:
    return lambda spec: spec.update(normalizer=sequence("normalizers", [step, {"type": "NFC"}]))


def set_pre_tokenizer(**step: object) -> Callable[[Spec], None]:
    steps = [step, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]
    return lambda spec: spec.update(pre_tokenizer=sequence("pretokenizers", steps))


def set_model(**fields: object) -> Callable[[Spec], None]:
    return lambda spec: spec["model"].update(fields)


def strip_beside(side: str) -> Callable[[Spec], None]:
    return lambda spec: spec["added_tokens"][0].update({side: True})


def forget_a_byte(spec: Spec) -> None:
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in spec["model"]["merges"]]
    spec["model"]["merges"] = [merge for merge in merges if "ÿ" not in "".join(merge)]
    del spec["model"]["vocab"]["ÿ"]


@pytest.mark.parametrize(
    "change",
    [
        set_normalizer(type="Strip", strip_left=True, strip_right=True),
        set_normalizer(type="StripAccents"),
        set_normalizer(type="Nmt"),
        set_normalizer(type="Replace", pattern={"Regex": " +"}, content=" "),
        set_normalizer(type="Replace", pattern={"String": " "}, content=""),
        set_normalizer(
            type="BertNormalizer", clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=False
        ),
        set_pre_tokenizer(type="WhitespaceSplit"),
        set_pre_tokenizer(type="BertPreTokenizer"),
        set_pre_tokenizer(type="Split", pattern={"String": " "}, behavior="Removed", invert=False),
        set_pre_tokenizer(type="Sequence", pretokenizers=[{"type": "Whitespace"}]),
        lambda spec: spec.update(pre_tokenizer=None),
        set_model(continuing_subword_prefix="##"),
        set_model(end_of_word_suffix="</w>"),
        strip_beside("lstrip"),
        strip_beside("rstrip"),
        forget_a_byte,
    ],
)
def test_where_text_may_be_lost_nothing_is_said(change: Callable[[Spec], None]) -> None:
    def changes(spec: Spec) -> None:
        spec["model"]["merges"] = []
        change(spec)

    assert changed("gpt-2", changes).max_chars_per_token is None


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": False},
        {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}]},
    ],
)
def test_what_only_splits_loses_nothing(step: Spec) -> None:
    made = changed("gpt-2", set_pre_tokenizer(**step))
    assert made.max_chars_per_token == tokenizer("gpt-2").max_chars_per_token


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_unknown_characters_count_one_by_one_where_they_are_not_fused(byte_fallback: bool) -> None:
    fused = changed("llama-spm", set_model(byte_fallback=byte_fallback))
    single = changed("llama-spm", set_model(byte_fallback=byte_fallback, fuse_unk=False))
    assert (fused.max_chars_per_token is None) != byte_fallback
    assert single.max_chars_per_token == tokenizer("llama-spm").max_chars_per_token
    assert len(single.encode("\ue000" * 99, add_special_tokens=False)) >= 99


def test_words_and_pieces_of_them_may_be_any_length() -> None:
    def words(spec: Spec) -> None:
        spec["model"] = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
        spec["added_tokens"] = []

    assert changed("gpt-2", words).max_chars_per_token is None
