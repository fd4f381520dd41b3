"""An answer taken apart: what of it is reasoning, content and calls, when it ends, and what is counted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from engine.sequence import BlockHash, SamplingParams
from frontend.answer import Answer
from frontend.events import CallDelta, Delta, Finish
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.parsed import ParsedAnswer, answer_of
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind, TokenPrompt
from frontend.text.parsers.families import Families
from frontend.text.tokenizer import Tokenizer
from frontend.tools import NO_TOOLS
from protos import worker_pb2 as pb
from tests.cluster import cluster
from tests.frontend.test_answer import GOES_ON, LENGTH, STOP, ids, model, rows
from tests.shared_data import shared_data

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
MESSAGE = {"role": "user", "content": "hi"}
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def asked(
    prompt: str = "prompt", tools: str = "hermes", reasoning: str = "none", **fields: object
) -> Answer | ParsedAnswer:
    """An answer to a conversation with one tool."""
    options = {name: fields.pop(name) for name in ("parallel_tool_calls", "tool_choice") if name in fields}
    chat = Chat((MESSAGE,), tools=(TOOL,), **options)
    params = SamplingParams(max_tokens=500, seed=0)
    tokens = ids(prompt)
    job = Job("r", "m", tokens, len(tokens), params, BlockHash(bytes(16)), [], "", Ledger(), cached_tokens=4)
    served = replace(model(), families=Families.of("", tools, reasoning))
    return answer_of(served, GenerateRequest(prompt=chat, **fields), job)


def play(answer: Answer | ParsedAnswer, steps: Sequence[Sequence[Row]]) -> list[Delta]:
    deltas = []
    for step in steps:
        if (delta := answer.push(step)) is not None:
            deltas.append(delta)
        if answer.finished is not None:
            break
    return deltas


def one_by_one(text: str, finish: "pb.FinishReason" = GOES_ON) -> list[list[Row]]:
    return [[row] for row in rows(text, finish)]


def joined(deltas: Sequence[Delta]) -> tuple[str, str, str]:
    """Text, reasoning and the arguments of calls."""
    return (
        "".join(delta.text for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        "".join(call.arguments for delta in deltas for call in delta.calls),
    )


def test_what_a_grammar_makes_is_not_taken_apart() -> None:
    answer = asked(tools="json", reasoning="think", grammar=Grammar(GrammarKind.JSON_OBJECT))
    assert isinstance(answer, Answer)
    deltas = play(answer, one_by_one('{"name": "f", "arguments": {}}', LENGTH))
    assert joined(deltas) == ('{"name": "f", "arguments": {}}', "", "")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_call(at_once: bool) -> None:
    answer = asked()
    text = f"Well. {CALL}!"
    deltas = play(answer, [rows(text, STOP)] if at_once else one_by_one(text, STOP))
    assert joined(deltas) == ("Well.", "", '{"a": 1}')
    assert [token for delta in deltas for token in delta.token_ids] == ids(text)
    assert [delta.first_index for delta in deltas] == ([0] if at_once else list(range(len(text))))
    (first, *_) = [call for delta in deltas for call in delta.calls]
    assert (first.index, first.name) == (0, "f")
    assert first.id is not None
    finished = answer.finished
    assert finished is not None
    assert (finished.reason, finished.matched) == (Finish.TOOL_CALLS, ids("!")[0])
    assert finished.usage.completion_tokens == len(text)
    assert finished.usage.reasoning_tokens is None


def test_a_call_in_one_delta_is_one_part() -> None:
    (delta,) = play(asked(), [rows(CALL, LENGTH)])
    assert len(delta.calls) == 1
    assert delta.calls[0] == CallDelta(0, '{"a": 1}', delta.calls[0].id, "f")


def test_an_answer_that_is_cut_says_so_and_keeps_what_there_is() -> None:
    answer = asked()
    deltas = play(answer, one_by_one(CALL[:-17], LENGTH))
    assert joined(deltas) == ("", "", '{"a"')
    assert answer.finished is not None
    assert answer.finished.reason is Finish.LENGTH


def test_text_without_a_call_ends_as_ever() -> None:
    answer = asked()
    assert joined(play(answer, one_by_one("a <tool_cal.", STOP))) == ("a <tool_cal", "", "")
    assert answer.finished is not None
    assert answer.finished.reason is Finish.STOP


@pytest.mark.parametrize("at_once", [True, False])
def test_the_first_call_may_be_the_last(at_once: bool) -> None:
    answer = asked(parallel_tool_calls=False)
    text = f"{CALL}\n{CALL} more"
    deltas = play(answer, [rows(text)] if at_once else one_by_one(text))
    assert joined(deltas) == ("", "", '{"a": 1}')
    finished = answer.finished
    assert finished is not None
    assert (finished.reason, finished.matched) == (Finish.TOOL_CALLS, None)
    assert finished.usage.completion_tokens == len(CALL) - len("</tool_call>")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("prompt", ["prompt", "prompt<think>\n"])
def test_reasoning_and_its_tokens(prompt: str, at_once: bool) -> None:
    answer = asked(prompt, reasoning="think")
    thought = "Hm.\n</think>" if prompt.endswith("\n") else "<think>Hm.\n</think>"
    text = thought + "\n\nYes." + CALL
    deltas = play(answer, [rows(text, LENGTH)] if at_once else one_by_one(text, LENGTH))
    assert joined(deltas) == ("Yes.", "Hm.", '{"a": 1}')
    assert answer.finished is not None
    opening = len("<think") if thought.startswith("<") else 0  # not known to be one before its last character
    assert answer.finished.usage.reasoning_tokens == len(thought) - opening


def test_stop_strings_are_looked_for_in_what_the_model_said() -> None:
    answer = asked(stop=("</tool_call>",))
    assert joined(play(answer, one_by_one(CALL + " more"))) == ("", "", '{"a": 1}')
    assert answer.finished is not None
    assert (answer.finished.reason, answer.finished.matched) == (Finish.TOOL_CALLS, "</tool_call>")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": "none"},
        {"tool_choice": NO_TOOLS},
        {"tools": "none", "reasoning": "think", "separate_reasoning": False},
    ],
)
def test_where_nothing_is_asked_for_all_of_it_is_text(fields: dict[str, object]) -> None:
    answer = asked(**fields)  # type: ignore[arg-type]
    assert isinstance(answer, Answer)
    assert joined(play(answer, one_by_one(CALL, LENGTH))) == (CALL, "", "")


def test_prompts_that_are_no_conversation_are_answered_in_text() -> None:
    served = replace(model(), families=Families.of("", "hermes", "think"))
    job = Job("r", "m", ids("a"), 1, SamplingParams(max_tokens=5, seed=0), BlockHash(bytes(16)), [], "", Ledger())
    for prompt in ("a", TokenPrompt(tuple(ids("a")))):
        assert isinstance(answer_of(served, GenerateRequest(prompt=prompt), job), Answer)


def test_no_tokens_are_no_delta() -> None:
    assert asked().push([]) is None


def test_markers_that_are_special_tokens_are_seen() -> None:
    """And those that are none of the parser's are skipped as ever."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["[TOOL_CALLS]", "[ARGS]", "</s>"])
    with TemporaryDirectory() as folder:
        backend.save(f"{folder}/tokenizer.json")
        tokenizer = Tokenizer.load(Path(folder))
    served = replace(model(), tokenizer=tokenizer, families=Families.of("", "mistral", "none"))
    tokens = tokenizer.encode('[TOOL_CALLS]f[ARGS]{"a": 1}</s>', add_special_tokens=False)
    assert len(tokens) == 3 + len('f{"a": 1}')
    request = GenerateRequest(prompt=Chat((MESSAGE,), tools=(TOOL,)))
    job = Job("r", "m", [0], 1, SamplingParams(max_tokens=50, seed=0), BlockHash(bytes(16)), [], "", Ledger())
    answer = answer_of(served, request, job)
    steps = [[Row(i, token, GOES_ON, None, 1, 2)] for i, token in enumerate(tokens)]
    assert joined(play(answer, steps)) == ("", "", '{"a": 1}')
    plain = answer_of(served, replace(request, prompt="p"), job)
    assert joined(play(plain, steps)) == ('f{"a": 1}', "", "")


async def test_a_model_that_is_taught_to_think_thinks(tmp_path: Path) -> None:
    """All the way: the template opens the reasoning, the model's tokens are it, and they are counted."""
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0].content }}{% if add_generation_prompt %} <think>{% endif %}")
    async with cluster(shared_data("models", "stories260K"), prefill=0, chat_template=template) as running:
        request = GenerateRequest(prompt=Chat(({"role": "user", "content": "Once"},)), max_tokens=12, temperature=0.0)
        thought = await running.complete(request)
        told = await running.complete(replace(request, separate_reasoning=False))
    assert thought.text == ""
    assert joined(thought.deltas)[1] == told.text.lstrip()
    assert thought.token_ids == told.token_ids
    assert (thought.finished.usage.reasoning_tokens, told.finished.usage.reasoning_tokens) == (12, None)
