"""Patterns of strings: found in the texts in which Python finds them, and in those alone."""

import json
import re

import pytest

from engine.errors import InvalidRequest
from frontend.schemas.formats import FORMATS
from frontend.schemas.regex import json_text, terminal, whole
from tests.spelling import Bytes

TEXTS = ["", "a", "b", "ab", "ba", "aab", "abc", "a b", "A", "0", "10", "a1_", "-", "\n", "a\n", "\t", '"', 'a"b', "\\"]
TEXTS += [
    "é",
    "aé",
    "🎈",
    "a🎈b",
    "/",
    "a/b",
    "\x00",
    "\x7f",
    "]",
    "^",
    "$",
    "variables",
    "variables1",
    "..",
    "a.b",
    ".b",
]
PATTERNS = [
    *(
        "",
        "a",
        "^a",
        "b$",
        "^ab$",
        "a|b",
        "^(?:a|b)$",
        "^a|b$",
        "(^a)|(b$)",
        "a+b",
        "^a*$",
        "^a?b?$",
        "a{2}",
        "^.{1,2}$",
    ),
    *(
        ".",
        "^.$",
        "^[ab]+$",
        "[^ab]",
        "^[^ab]*$",
        r"\d",
        r"^\w+$",
        r"\s",
        r"^\S+$",
        r"\D",
        r"^[\w.]+$",
        r"[^\s\w]",
        "^\\W$",
    ),
    *(
        '"',
        r"^\\$",
        r"\n",
        r"\t",
        r"[\x00-\x1f]",
        r"\u00e9",
        r"^\x61",
        "é",
        "^[^a]$",
        r"\/",
        "[]a]",
        r"[\]]",
        r"^\^$",
        r"\$",
    ),
    *(
        "^(?!a)",
        "^(?!variables$).+$",
        r"^(?!\.{1,2}$)(?!.*\/).+$",
        "^(?=a).{2}$",
        "(?!a)",
        "^(a|(b|c))+$",
        "a{1,}",
        "^(|a)$",
    ),
    *("^(?:(?!a)b|ab)", "^[a-c]{2,3}?$", "(?<name>a)b", r"^[-a]$", r"[\b]", "^$", "$", "^"),
]


def python(pattern: str) -> re.Pattern[str]:
    """The same in Python: whose $ is also before a last line's end, and whose dot knows fewer of them."""
    text = re.sub(r"(?<!\\)\$", r"\\Z", pattern)
    return re.compile(text.replace("(?<name>", "(?P<name>").replace("[]a]", r"(?!)"), re.ASCII)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_found_where_python_finds_it(pattern: str) -> None:
    if pattern == "(?!a)":
        with pytest.raises(InvalidRequest, match="look-around"):
            terminal(pattern)
        return
    grammar = Bytes(f"start: T\nT: {terminal(pattern)}")
    opposite = Bytes(f"start: T\nT: S & ~({terminal(pattern)})\nS: {terminal('')}")
    expected = [text for text in TEXTS if python(pattern).search(text)]
    assert [text for text in TEXTS if grammar.accepts(json_text(text))] == expected
    assert [text for text in TEXTS if not opposite.accepts(json_text(text))] == expected


def test_the_text_of_a_string_is_json_and_the_only_one() -> None:
    grammar = Bytes(f"start: T\nT: {terminal('')}")
    for text in TEXTS:
        assert json.loads(json_text(text)) == text
        assert grammar.accepts(json_text(text))
    for other in (r'"\u0061"', r'"\/"', r'"\u000A"', r'"\u000a"', '"a', '"\n"', r'"\ud83c\udf88"'):
        assert not grammar.accepts(other)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "not closed"),
        (")", "not opened"),
        ("[a", "not closed"),
        ("*", "nothing to repeat"),
        ("a**", "nothing to repeat"),
        ("a{2,1}", "repeated"),
        (r"\b", "boundary"),
        (r"(a)\1", "refers back"),
        ("(?<!a)b", "look-around"),
        ("a(?=b)", "look-around"),
        ("a^b", "^ or $"),
        ("(^a)+", "repeats"),
        (r"\p{Greek}", "Greek"),
        ("(?i)a", "unknown kind"),
        ("[b-a]", "range"),
        (r"\u12", "hexadecimal"),
        (r"\q", "means nothing"),
        ("(" * 200, "deeply"),
        ("(" + "|".join(["^a"] * 300) + ")", "too many"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(pattern: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        terminal(pattern)


def test_properties_of_unicode_are_general_categories() -> None:
    any_char, capital, plain = (
        Bytes(f"start: T\nT: {terminal(pattern)}")
        for pattern in (r"^[\p{Letter}\P{L}]$", r"^\p{Lu}\p{Letter}*$", r"^[^\p{Cc}]$")
    )
    assert [text for text in TEXTS if len(text) == 1 and not any_char.accepts(json_text(text))] == []
    assert [text for text in ("Aé", "É", "a", "A1", "") if capital.accepts(json_text(text))] == ["Aé", "É"]
    assert plain.accepts('"a"')
    assert not plain.accepts(r'"\n"')


FORMATTED = {
    "date": (
        ["2024-02-29", "1999-12-31", "2000-02-29"],
        ["2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "24-1-1"],
    ),
    "date-time": (
        ["2024-02-29T23:59:59Z", "1990-12-31t10:00:00.5+01:30"],
        ["2024-01-01 10:00:00Z", "2024-01-01T10:00:00"],
    ),
    "duration": (["P1Y2M3D", "PT1H", "P1W", "P1DT1M"], ["P", "PT", "1D", "P1H", "P1W1D"]),
    "email": (["a.b+c@example.org"], ["a@", "@b", "a b@c", "a..b@c"]),
    "hostname": (["example.org", "a-b.c1"], ["-a", "a-", "a..b", "a_b", "a" * 64]),
    "ipv4": (["127.0.0.1", "255.255.255.255"], ["256.0.0.1", "1.2.3", "01.2.3.4", "127.0.0.0.1"]),
    "ipv6": (
        ["::1", "1::", "::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::8"],
        ["1::2::3", "12345::", "1:2:3:4:5:6:7", ":1"],
    ),
    "iri": (["http://ƒøø.ßår/?∂éœ=πîx#πîüx"], ["//x", "/a", "http://a b"]),
    "iri-reference": (["/âππ", "#ƒräg", ""], ["\\\\W", "a b"]),
    "json-pointer": (["", "/a/b~1~0", "/"], ["a", "/~", "/~2"]),
    "relative-json-pointer": (["0", "1/a", "2#"], ["/a", "01", "-1", "1##"]),
    "time": (["08:30:06Z", "08:30:06.28-08:00"], ["24:00:00Z", "08:30:06", "8:30:06Z"]),
    "uri": (["http://a.b/c?d#e", "urn:a:b", "mailto:a@b", "http://[::1]:80/"], ["//a", "a b:c", "http://[1]/", "a"]),
    "uri-reference": (["../a", "?q", "#f", "//h/p", "a:b", ""], ["\\a", "1:b c", "#a#b"]),
    "uuid": (
        ["2eb8aa08-aa98-11ea-b4aa-73b441d16380"],
        ["2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08-aa98-11ea-b4aa-73b441d1638"],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_what_they_should_be(name: str) -> None:
    good, bad = FORMATTED[name]
    grammar = Bytes(f"start: T\nT: {whole(FORMATS[name])}")
    assert [text for text in good if not grammar.accepts(json_text(text))] == []
    assert [text for text in bad if grammar.accepts(json_text(text))] == []
