"""A prompt that is too long whatever its tokens are is refused before it is tokenized; one that may fit is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from engine.errors import ContextOverflow, InvalidRequest
from engine.hub import DEMO_MODEL
from engine.telemetry import Telemetry
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.catalogue import Catalogue
from frontend.fleet import Fleet
from frontend.inference import FleetInference
from frontend.metrics import FrontendMetrics
from frontend.model import LoadedModel
from frontend.observer import Observer
from frontend.prompt import encode, tokens_of
from frontend.request import Chat, TokenPrompt
from frontend.router import Policy
from frontend.served import Served
from frontend.text.parsers.families import Families, ToolFamily
from frontend.text.template import ChatTemplate
from frontend.text.tokenizer import Tokenizer
from frontend.tools import NO_TOOLS
from tests.frontend.test_rest_app import error_of, rest_client
from tests.frontend.text_samples import tokenizer

CONTEXT = 100
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel.load(DEMO_MODEL, "m", None)


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is tokenized from now on."""
    seen: list[str] = []
    original = Tokenizer.encode

    def encode(self: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
        seen.append(text)
        return original(self, text, add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", encode)
    return seen


def longest(model: LoadedModel, num_tokens: int = CONTEXT - 1) -> int:
    most = model.tokenizer.most_chars(num_tokens)
    assert most is not None
    return most


def templated(model: LoadedModel, source: str) -> LoadedModel:
    return replace(model, template=ChatTemplate({"default": source}, {}))


def said(*contents: str) -> Chat:
    return Chat(tuple({"role": "user", "content": content} for content in contents))


async def test_what_may_fit_is_tokenized_and_one_character_more_is_not(
    model: LoadedModel, tokenized: list[str]
) -> None:
    text = "x" * longest(model)
    assert len(await encode(model, text, CONTEXT)) >= CONTEXT - 1
    with pytest.raises(ContextOverflow, match=f"context is {CONTEXT}") as refused:
        await encode(model, text + "x", CONTEXT)
    assert refused.value.field == "prompt"
    assert tokenized == [text]


async def test_a_text_of_the_longest_tokens_fits(model: LoadedModel) -> None:
    token = max((model.tokenizer.token_text(i) for i in range(model.tokenizer.vocab_size)), key=len)
    assert len(token) == model.tokenizer.max_chars_per_token
    assert len(await encode(model, token * (CONTEXT - 1), CONTEXT)) == CONTEXT - 1


async def test_of_a_conversation_what_the_template_makes_of_it_counts(model: LoadedModel, tokenized: list[str]) -> None:
    model = templated(model, "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}{{ m.name }};{% endfor %}")
    room = longest(model) - len("user:;")
    assert await encode(model, said(" " * (2 * room) + "x" * room), CONTEXT)
    named = {"role": "user", "content": "x" * (room - 9), "name": "n" * 10}
    for chat in (said("x" * (room + 1)), said(*["x"] * (room // 4)), Chat((named,))):
        with pytest.raises(ContextOverflow):
            await encode(model, chat, CONTEXT)
    assert len(tokenized) == 1


async def test_rendering_ends_where_it_is_too_long(model: LoadedModel) -> None:
    model = templated(model, "{% for m in messages %}{{ m.content }}{% endfor %}{{ 1 / 0 }}")
    with pytest.raises(ContextOverflow):
        await encode(model, said(*["x" * 50] * longest(model)), CONTEXT)
    with pytest.raises(InvalidRequest, match="refuses"):
        await encode(model, said("x"), CONTEXT)


async def test_where_a_token_may_stand_for_anything_nothing_is_refused_by_its_length(model: LoadedModel) -> None:
    tokenizer = Tokenizer.load(DEMO_MODEL)
    tokenizer.max_chars_per_token = None
    text = "x" * (longest(model) + 1)
    assert len(await encode(replace(model, tokenizer=tokenizer), text, CONTEXT)) > CONTEXT


async def test_tokens_are_counted_not_measured_and_who_only_asks_for_tokens_gets_them(model: LoadedModel) -> None:
    assert len(await encode(model, TokenPrompt((1,) * 5000), CONTEXT)) == 5000
    text = "x" * (longest(model) + 1)
    assert len(tokens_of(model, text, add_special_tokens=True)) > CONTEXT


async def test_a_prompt_that_is_to_be_truncated_may_be_of_any_length_and_its_end_counts(model: LoadedModel) -> None:
    text = "x" * (longest(model) + 1)
    whole = tokens_of(model, text)
    assert await encode(model, text, CONTEXT, truncate=5) == whole[-5:]
    assert await encode(model, text, CONTEXT, truncate=len(whole) + 5) == whole
    assert await encode(model, TokenPrompt((1, 2, 3)), CONTEXT, truncate=2) == [2, 3]
    chat = said("x" * (longest(model) + 1))
    assert await encode(model, chat, CONTEXT, truncate=5) == tokens_of(model, chat)[-5:]


async def test_special_tokens_are_added_to_texts_and_to_conversations_that_ask_for_them(model: LoadedModel) -> None:
    stories = replace(templated(model, "{{ messages[0].content }}"), tokenizer=tokenizer("stories260K"))
    bare = stories.tokenizer.encode("Once", add_special_tokens=False)
    assert await encode(stories, "Once", CONTEXT) == [1, *bare]
    assert await encode(stories, "Once", CONTEXT, add_special_tokens=False) == bare
    assert await encode(stories, said("Once"), CONTEXT) == bare
    assert await encode(stories, said("Once"), CONTEXT, add_special_tokens=True) == [1, *bare]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (COMPLETIONS, lambda text: {"prompt": text}, "prompt"),
        (COMPLETIONS, lambda text: {"prompt": [text], "stream": True}, "prompt"),
        (CHAT, lambda text: {"messages": [{"role": "user", "content": text}]}, "messages"),
        (CHAT, lambda text: {"messages": [{"role": "user", "content": text[:4096]}] * 4096}, "messages"),
    ],
)
async def test_over_rest(
    model: LoadedModel, tokenized: list[str], path: str, fields: Callable[[str], dict[str, object]], param: str
) -> None:
    """As many characters as a body holds."""
    attempts = Attempts(Fleet((), ()), Admission(10, 10_000), Policy(), 0.1)
    observer = Observer(Telemetry(), FrontendMetrics(CollectorRegistry()))
    inference = FleetInference(Catalogue([Served(model, attempts, max_attempts=1)]), attempts.fleet, observer)
    text = "All work and no play. " * ((15 << 20) // 22)
    async with rest_client(inference, max_body_bytes=20 << 20) as client:
        response = await client.post(path, json={"model": "m", "max_tokens": 1, **fields(text)})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert all(len(seen) <= longest(model, model.limits.max_context) for seen in tokenized)


# -- conversations with tools ------------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hi"}


def text_of(model: LoadedModel, source: str, chat: Chat) -> str:
    """What the template makes of it, out of its tokens."""
    return model.tokenizer.decode(tokens_of(templated(model, source), chat))


def test_the_template_is_told_of_tools_documents_and_variables(model: LoadedModel) -> None:
    source = "{{ tools[0].function.name }} {{ documents[0].title }} {{ enable_thinking }} {{ add_generation_prompt }}"
    chat = Chat((USER,), tools=(TOOL,), documents=({"title": "a"},), template_kwargs={"enable_thinking": False})
    assert text_of(model, source, chat) == "f a False True"
    assert text_of(model, "{{ tools }}{{ documents }}", replace(chat, documents=(), tool_choice=NO_TOOLS)) == "NoneNone"
    continued = Chat((USER, {"role": "assistant", "content": "Once"}), continue_final_message=True)
    assert text_of(model, "{% for m in messages %}{{ m.content }};{% endfor %}", continued) == "hi;Once"


def test_a_template_is_told_how_much_to_reason_if_it_knows(model: LoadedModel) -> None:
    chat = Chat((USER,), reasoning_effort="high")
    assert text_of(model, "{{ reasoning_effort }}", chat) == "high"
    assert text_of(model, "{{ reasoning_effort }}", replace(chat, reasoning_effort="none")) == "none"
    asked = "{{ enable_thinking is defined and not enable_thinking }}<think>"
    assert text_of(model, asked, replace(chat, reasoning_effort="none")).startswith("True")
    for effort in (None, "medium"):
        assert text_of(model, asked, replace(chat, reasoning_effort=effort)).startswith("False")
    overridden = replace(chat, reasoning_effort="none", template_kwargs={"enable_thinking": True})
    assert text_of(model, asked, overridden).startswith("False")
    assert text_of(model, "plain", replace(chat, reasoning_effort="none")) == "plain", "who does not reason does not"
    for source, effort in (("plain", "low"), (asked, "high"), ("<think>", "none")):
        with pytest.raises(InvalidRequest, match="effort") as refused:
            text_of(model, source, replace(chat, reasoning_effort=effort))
        assert refused.value.field == "reasoning_effort"


def test_a_template_that_does_not_know_tools_is_not_given_any(model: LoadedModel) -> None:
    with pytest.raises(InvalidRequest, match="does not know tools") as refused:
        text_of(model, "{{ messages[0].content }}", Chat((USER,), tools=(TOOL,)))
    assert refused.value.field == "tools"
    assert text_of(model, "{{ messages[0].content }}", Chat((USER,), tools=(TOOL,), tool_choice=NO_TOOLS)) == "hi"


def test_arguments_are_spelled_as_the_template_wants_them(model: LoadedModel) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
    chat = Chat((USER, {"role": "assistant", "content": None, "tool_calls": [call]}))
    loop = "{% for m in messages %}{% for c in m.tool_calls %}HERE{% endfor %}{% endfor %}"
    assert text_of(model, loop.replace("HERE", "{{ c.function.arguments.a }}"), chat) == "é"
    assert text_of(model, loop.replace("HERE", "{{ '>' + c.function.arguments }}"), chat) == '>{"a": "é"}'


def test_what_is_nested_too_deeply_is_refused(model: LoadedModel) -> None:
    deep: object = {}
    for _ in range(100_000):
        deep = {"a": deep}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": deep}}
    chat = Chat((USER, {"role": "assistant", "content": None, "tool_calls": [call]}))
    for spelled in ("{{ c.function.arguments | tojson }}", "{{ '>' + c.function.arguments }}"):
        source = "{% for m in messages %}{% for c in m.tool_calls %}HERE{% endfor %}{% endfor %}".replace(
            "HERE", spelled
        )
        with pytest.raises(InvalidRequest, match="recursion|deeply"):
            text_of(model, source, chat)


def test_who_takes_tools_is_read_off_the_template(model: LoadedModel) -> None:
    assert model.families == Families()
    assert LoadedModel.load(DEMO_MODEL, "m", None, tool_parser="hermes").families.tools is ToolFamily.HERMES
