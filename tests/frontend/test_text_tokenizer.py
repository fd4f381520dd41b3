"""Encoding and decoding against the original vectors and against transformers."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, InvalidRequest
from frontend.text.pieces import PieceDecoder
from frontend.text.tokenizer import LONG_CHARS, Tokenizer
from tests.frontend.text_samples import MODELS, VOCABULARIES, library, texts, tokenizer, unpack, vectors
from tests.shared_data import shared_data


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_vector_is_encoded_and_decoded_as_by_the_original(name: str) -> None:
    subject = tokenizer(name)
    for text, ids in vectors(name):
        assert subject.encode(text, add_special_tokens=False) == ids
        assert subject.decode(ids) == text


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_is_read_as_transformers_reads_it(name: str) -> None:
    assert_like_transformers(shared_data("models", name))


@pytest.mark.parametrize("name", VOCABULARIES)
def test_special_tokens_are_found_wherever_they_are_named(name: str, tmp_path: Path) -> None:
    unpack(name, tmp_path)
    bos = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).id_to_token(1)
    dump(tmp_path / "special_tokens_map.json", {"bos_token": {"content": bos, "lstrip": False, "rstrip": False}})
    dump(tmp_path / "tokenizer_config.json", {"eos_token": "the", "pad_token": None, "add_prefix_space": False})
    subject = Tokenizer.load(tmp_path)

    assert (subject.bos_token, subject.eos_token) == (bos, "the")
    assert_like_transformers(tmp_path)
    the = subject.encode("the", add_special_tokens=False)[-1]
    assert the in subject.special_ids
    assert subject.decode([the]) == ""


def test_added_tokens_of_the_configuration_are_special(tmp_path: Path) -> None:
    unpack("gpt-2", tmp_path)
    spec = {"content": "Hello", "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    dump(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": {"15496": spec}})

    assert 15496 in Tokenizer.load(tmp_path).special_ids
    assert_like_transformers(tmp_path)


def test_flags_add_tokens_where_no_post_processor_does(tmp_path: Path) -> None:
    unpack("llama-spm", tmp_path)
    flags = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    dump(tmp_path / "tokenizer_config.json", flags)
    subject = Tokenizer.load(tmp_path)

    assert subject.encode("Hello", add_special_tokens=True) == [1, 15043, 2]
    assert subject.encode("Hello", add_special_tokens=False) == [15043]


def test_flags_do_not_add_tokens_a_second_time() -> None:
    subject = tokenizer("stories260K")  # add_bos_token, and a post-processor that adds <s>
    assert subject.encode("Once", add_special_tokens=True) == [1, 403]
    assert subject.encode("<s> Once", add_special_tokens=False)[0] == 1


@pytest.mark.parametrize("name", [*VOCABULARIES, *MODELS])
def test_tokens_know_where_they_stand(name: str) -> None:
    subject = tokenizer(name)
    for text in texts():
        spans = subject.spans(text, add_special_tokens=False)
        assert [span.token_id for span in spans] == subject.encode(text, add_special_tokens=False)
        assert all(0 <= span.start <= span.stop <= len(text) for span in spans)
        told = set().union(*(range(span.start, span.stop) for span in spans))
        assert all(text[place].isspace() for place in set(range(len(text))) - told)  # white space may be left out


def test_what_was_added_to_a_text_stands_nowhere(tmp_path: Path) -> None:
    unpack("llama-spm", tmp_path)
    flags = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    dump(tmp_path / "tokenizer_config.json", flags)
    assert Tokenizer.load(tmp_path).spans("Hello") == [(1, 0, 0), (15043, 0, 5), (2, 0, 0)]
    assert tokenizer("stories260K").spans("Once")[0] == (1, 0, 0)


def test_words_are_the_vocabularys_own() -> None:
    assert tokenizer("llama-spm").word(15043) == library("llama-spm").id_to_token(15043)
    assert tokenizer("gpt-2").word(999_999) == ""


def test_the_configuration_is_told_without_paths_and_with_texts(tmp_path: Path) -> None:
    unpack("gpt-2", tmp_path)
    config = {"tokenizer_class": "T", "name_or_path": "/somewhere", "eos_token": {"content": "!", "special": True}}
    dump(tmp_path / "tokenizer_config.json", config)
    dump(tmp_path / "special_tokens_map.json", {"bos_token": "<s>"})
    assert Tokenizer.load(tmp_path).config == {"tokenizer_class": "T", "eos_token": "!", "bos_token": "<s>"}


@pytest.mark.parametrize("name", [*VOCABULARIES, *MODELS])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ids_decode_as_the_library_does(name: str, data: st.DataObject) -> None:
    subject = tokenizer(name)
    ids = data.draw(st.lists(st.integers(0, subject.vocab_size + 3), max_size=12))
    for skip in (True, False):
        if is_utf8(subject, ids):
            assert subject.decode(ids, skip) == library(name).decode(ids, skip_special_tokens=skip)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 50_256), max_size=12))
def test_byte_level_pieces_that_are_not_utf8_are_replaced_as_the_library_does(ids: list[int]) -> None:
    assert tokenizer("gpt-2").decode(ids) == library("gpt-2").decode(ids)


def test_faulty_byte_tokens_leave_their_neighbours_alone() -> None:
    subject = tokenizer("llama-spm")
    ids = subject.encode("🦙", add_special_tokens=False)[1:]
    assert subject.decode([*ids, 3 + 0xFF, *ids]) == "🦙\ufffd🦙"


def test_token_bytes_are_exact() -> None:
    for name in (*VOCABULARIES, "stories260K"):
        subject = tokenizer(name)
        for text in texts():
            if "</s>" in text:  # a space follows special tokens
                continue
            data = b"".join(map(subject.token_bytes, subject.encode(text, add_special_tokens=False)))
            assert data.removeprefix(b" " * subject.max_lead_spaces).decode() == text
    assert tokenizer("gpt-2").token_text(50256) == "<|endoftext|>"
    assert tokenizer("llama-spm").token_bytes(3 + 0xE2) == b"\xe2"
    assert tokenizer("llama-spm").token_text(3 + 0xE2) == "\ufffd"


@pytest.mark.parametrize("unknown", [-1, 999_999, 2**40])
def test_unknown_ids_have_no_text(unknown: int) -> None:
    assert tokenizer("gpt-2").token_bytes(unknown) == b""
    assert tokenizer("gpt-2").decode([15496, unknown]) == "Hello"


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("length", [LONG_CHARS, LONG_CHARS + 1])
def test_a_long_text_is_encoded_as_the_library_encodes_it(name: str, length: int) -> None:
    text = ("What is a KV cache? äöü 漢字 🙂\n\t" * length)[:length]
    assert (
        tokenizer(name).encode(text, add_special_tokens=False)
        == library(name).encode(text, add_special_tokens=False).ids
    )


@pytest.mark.parametrize("text", ["\ud800", "half a pair \udc00 inside", "\ud800" * (LONG_CHARS + 1)])
def test_half_a_surrogate_pair_is_the_callers_fault(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        tokenizer("gpt-2").encode(text, add_special_tokens=True)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"version": "1.0"}'])
def test_a_missing_or_broken_file_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_file_that_makes_the_library_panic_is_named(tmp_path: Path) -> None:
    merged = {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "continuing_subword_prefix": "longer"}
    dump(tmp_path / "tokenizer.json", {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", **merged}})
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    unpack("gpt-2", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_a_file_that_cuts_or_pads_is_not_obeyed(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(shared_data("models", "stories260K", "tokenizer.json")))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path).encode("Once upon a time", add_special_tokens=True)) == 5


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        tokenizers.decoders.Metaspace(),
        tokenizers.decoders.Metaspace(prepend_scheme="never"),
        tokenizers.decoders.Sequence([tokenizers.decoders.ByteLevel()]),
        tokenizers.decoders.Sequence([tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback()]),
    ],
)
def test_other_decoders(decoder: tokenizers.decoders.Decoder | None) -> None:
    words = ["▁Once", "▁upon", "<0x41>", "Ġa", "time"]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(zip(words, range(5), strict=True)), "time"))
    if decoder is not None:
        backend.decoder = decoder
    pieces = PieceDecoder.parse(json.loads(backend.to_str())["decoder"])
    data = b"".join(map(pieces.piece, words)).decode()
    assert data[pieces.max_lead_spaces :] == backend.decode([0, 1, 2, 3, 4])


def test_a_decoder_whose_pieces_depend_on_neighbours_is_refused() -> None:
    for spec in ({"type": "CTC"}, {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1}]}):
        with pytest.raises(ConfigError, match="cannot be streamed"):
            PieceDecoder.parse(spec)


def assert_like_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    subject = Tokenizer.load(folder)
    for text in texts():
        for add in (True, False):
            ids = subject.encode(text, add_special_tokens=add)
            assert ids == reference.encode(text, add_special_tokens=add)
            for skip in (True, False):
                plain = reference.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
                assert subject.decode(ids, skip) == plain


def is_utf8(subject: Tokenizer, ids: list[int]) -> bool:
    try:
        b"".join(map(subject.token_bytes, ids)).decode()
    except UnicodeDecodeError:
        return False
    return True


def dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
