"""An answer as it grows, and what to do when its call breaks. Pure: who reads it makes the calls and waits."""

from dataclasses import dataclass, field

from tandem_client import generate_pb2 as pb
from tandem_client.errors import ConnectionLost, NotFound, TandemError
from tandem_client.tries import Tries


@dataclass(slots=True)
class Answer:
    """What has come of an answer. `started` and `finished` are as `generate.proto` has them."""

    started: pb.Started | None = None
    text: str = ""
    reasoning: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    tool_calls: list[pb.ToolCall] = field(default_factory=list)
    prompt_logprobs: list[pb.PromptToken] = field(default_factory=list)
    finished: pb.Finished | None = None

    @property
    def usage(self) -> pb.Usage:
        return (self.finished or pb.Finished()).usage

    def add(self, delta: pb.Delta) -> None:
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        for part in delta.tool_calls:
            if part.index == len(self.tool_calls):
                self.tool_calls.append(pb.ToolCall(id=part.id, name=part.name))
            self.tool_calls[part.index].arguments += part.arguments


class Course:
    """The way of one answer through as many calls as it takes: Generate, until it has started; then Resume."""

    def __init__(self, request: pb.GenerateRequest, tries: Tries) -> None:
        self.answer = Answer()
        self.tries = tries
        self._request = request

    @property
    def is_over(self) -> bool:
        return self.answer.finished is not None

    @property
    def is_left_behind(self) -> bool:
        """Whether the server would go on with it if its call ended now."""
        return bool(self.answer.started and not self.is_over and self._request.resume_grace_ms)

    @property
    def request_id(self) -> str:
        return self.answer.started.request_id if self.answer.started else ""

    def next_message(self) -> pb.GenerateRequest | pb.ResumeRequest:
        if not self.answer.started:
            return self._request
        return pb.ResumeRequest(request_id=self.request_id, next_index=len(self.answer.token_ids))

    def take(self, response: pb.GenerateResponse) -> pb.Delta | None:
        """What is new of the answer, if it is more than that it has started or ended."""
        self.tries.succeeded()
        match response.WhichOneof("event"):
            case "started":
                self.answer.started = response.started
            case "prompt_logprobs":
                first, tokens = response.prompt_logprobs.first_index, response.prompt_logprobs.tokens
                self.answer.prompt_logprobs[first : first + len(tokens)] = tokens  # who resumes gets them again
            case "finished":
                self.answer.finished = response.finished
            case "delta":
                self.answer.add(response.delta)
                return response.delta
        return None

    def wait_s(self, error: TandemError) -> float:
        """After a call that ended with `error`: seconds until `next_message` may be sent. Raises what is final."""
        error.request_id = error.request_id or self.request_id
        if not self.answer.started:
            return self.tries.wait_to_repeat(error)
        if not self._request.resume_grace_ms:
            raise error
        if isinstance(error, NotFound):  # another frontend, or the same one that was started anew
            raise ConnectionLost(error.message, code=error.code, request_id=self.request_id) from error
        if not isinstance(error, ConnectionLost):
            raise error
        return self.tries.wait_to_resume(error, self._request.resume_grace_ms / 1e3)


def called(message: pb.GenerateRequest | pb.ResumeRequest) -> str:
    """The method that takes it."""
    return "Resume" if isinstance(message, pb.ResumeRequest) else "Generate"


def ended_early() -> ConnectionLost:
    """Of a call that ended well before its answer did."""
    return ConnectionLost("the call ended before the answer")
