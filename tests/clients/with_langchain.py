"""LangChain's standard tests of chat models, for ChatOpenAI and ChatOllama.

Those that need a model that understands what it is asked are expected to fail, by name: the demonstration model does
not. That calls are made, and match their schemas, is the server's part, and other tests of these see it.
"""

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from served import ALIAS, HTTP, MODEL

WRONG_ARGUMENTS = "asks for one value of an argument; the model gives another one that matches the schema"
NO_CALL = "the model does not call tools by itself"
PROMPT_IGNORED = "says in the prompt which keys the JSON shall have; the model does not follow"


class Standard(ChatModelIntegrationTests):
    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL  # which answers tell; the one that is overridden is its alias

    @pytest.mark.xfail(reason=WRONG_ARGUMENTS)
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason=WRONG_ARGUMENTS)
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason=WRONG_ARGUMENTS)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:  # type: ignore[override]
        super().test_unicode_tool_call_integration(model)

    @pytest.mark.xfail(reason=NO_CALL)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason=PROMPT_IGNORED)
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)


class TestChatOpenAI(Standard):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        server = {"model": ALIAS, "base_url": f"{HTTP}/v1", "api_key": "none", "timeout": 600, "max_retries": 0}
        # Else strings within JSON, which the model has not learned to end, fill its context.
        return {**server, "stream_usage": True, "frequency_penalty": 2.0}

    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model, prompt = ChatOpenAI(**self.chat_model_params, max_completion_tokens=2), "A long prompt. " * 50
        model.invoke(prompt)
        answers = model.stream(prompt) if stream else iter([model.invoke(prompt)])
        answer = reduce(add, answers)
        assert isinstance(answer, AIMessage)
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 100
        return answer


class TestChatOllama(Standard):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOllama

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": ALIAS, "base_url": HTTP, "repeat_penalty": 2.0}

    @property
    def has_tool_choice(self) -> bool:
        return False

    @pytest.mark.xfail(reason=NO_CALL)
    def test_bind_runnables_as_tools(self, model: BaseChatModel) -> None:
        super().test_bind_runnables_as_tools(model)

    @pytest.mark.xfail(reason=NO_CALL)
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)
