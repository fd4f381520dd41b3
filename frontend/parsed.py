"""An answer whose text is taken apart: reasoning, calls of tools, and what is meant to be read."""

from collections.abc import Sequence
from dataclasses import replace

from frontend.answer import Answer, NoAnswer
from frontend.events import CallDelta, Delta, Finish, Finished
from frontend.job import Job
from frontend.leg_events import Row
from frontend.model import LoadedModel
from frontend.request import Chat, GenerateRequest
from frontend.text.parsers.events import CallArguments, CallBegun, CallEnded, Content, Event, Reasoning
from frontend.text.parsers.families import AnswerParser

MAX_END_TOKENS = 16
"""Of the prompt, enough to see whether it opens the reasoning."""


def answer_of(model: LoadedModel, request: GenerateRequest, job: Job) -> "Answer | ParsedAnswer":
    """To a conversation with a model that calls tools or reasons it is a parsed one, but for an answer that a client's
    grammar makes from its beginning to its end."""
    chat = request.prompt
    if request.max_tokens == 0:
        return NoAnswer(model, request, job)
    if not isinstance(chat, Chat) or (request.grammar is not None and not request.format_only):
        return Answer(model, request, job)
    is_made = bool(chat.demanded) or request.grammar is not None
    end, continues = end_of_prompt(model, chat, job.tokens[: job.num_prompt])
    parser = model.families.parser(
        chat.offered if chat.demanded or request.grammar is None or model.families.marks_calls else (),
        end,
        continues=continues,
        separate_reasoning=request.separate_reasoning,
        forced=is_made,
    )
    if parser is None:
        return Answer(model, request, job)
    return ParsedAnswer(Answer(model, request, job, parser.shown), parser, parallel_calls=chat.parallel_tool_calls)


def end_of_prompt(model: LoadedModel, chat: Chat, prompt: Sequence[int]) -> tuple[str, bool]:
    """What the answer follows; and whether that is something that the model is taken to have said."""
    continued = chat.messages[-1].get("content") if chat.continue_final_message else None
    if isinstance(continued, str):
        return continued, True
    return model.tokenizer.decode(prompt[-MAX_END_TOKENS:], skip_special_tokens=False), False


class ParsedAnswer:
    """Used as an `Answer`. It ends for TOOL_CALLS where the text ends and has calls, not where its length ends it.

    Without `parallel_calls` the first call ends the answer.
    """

    def __init__(self, answer: Answer, parser: AnswerParser, *, parallel_calls: bool) -> None:
        self.finished: Finished | None = None
        self._answer = answer
        self._parser = parser
        self._parallel_calls = parallel_calls
        self._num_thoughts = 0
        """Tokens of the reasoning."""
        self._has_calls = False

    def push(self, rows: Sequence[Row]) -> Delta | None:
        """Take in tokens, in order; those after the one that ends the answer are dropped."""
        deltas: list[Delta] = []
        events: list[Event] = []
        for row in rows:
            delta = self._answer.push((row,))
            assert delta is not None, "a token is a delta"
            deltas.append(delta)
            events += self._read(delta.text)
            if self._answer.finished is not None:
                self.finished = self._ended(self._answer.finished)
                break
        if not deltas:
            return None
        return merged(
            events,
            Delta(
                "",
                tuple(token_id for delta in deltas for token_id in delta.token_ids),
                deltas[0].first_index,
                tuple(entry for delta in deltas for entry in delta.logprobs),
            ),
        )

    def _read(self, text: str) -> list[Event]:
        """What one more token said; after the last one, and after a call that ends the answer, that is all."""
        was_thinking = self._parser.thinking
        events = self._parser.push(text)
        self._num_thoughts += was_thinking or self._parser.thinking
        if self._answer.finished is not None:
            events += self._parser.finish()
        self._has_calls = self._has_calls or any(isinstance(event, CallBegun) for event in events)
        end = next((i for i, event in enumerate(events, 1) if isinstance(event, CallEnded)), None)
        if end is None or self._parallel_calls:
            return events
        if self._answer.finished is None:
            self._answer.finish(Finish.TOOL_CALLS, None)
        return events[:end]

    def _ended(self, finished: Finished) -> Finished:
        is_calling = self._has_calls and finished.reason is Finish.STOP
        usage = replace(finished.usage, reasoning_tokens=self._num_thoughts if self._parser.reasons else None)
        return replace(finished, reason=Finish.TOOL_CALLS if is_calling else finished.reason, usage=usage)


def merged(events: Sequence[Event], delta: Delta) -> Delta:
    """`delta` with what the parser found in its text."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[CallDelta] = []
    for event in events:
        match event:
            case Content():
                text.append(event.text)
            case Reasoning():
                reasoning.append(event.text)
            case CallBegun():
                calls.append(CallDelta(event.index, "", event.id, event.name))
            case CallArguments() if calls and calls[-1].index == event.index:
                calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + event.text)
            case CallArguments():
                calls.append(CallDelta(event.index, event.text))
    return delta._replace(text="".join(text), reasoning="".join(reasoning), calls=tuple(calls))
