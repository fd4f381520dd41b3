"""LangChain's standard tests of chat models, for ChatOpenAI and ChatOllama.

What asks for a model that knows when to call a tool, and with what, is expected to fail: the demonstration model does
not. What only needs the server, like calls that must be made, passes.
"""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from served import HTTP, MODEL


class TestChatOpenAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": f"{HTTP}/v1", "api_key": "none"}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestChatOllama(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOllama

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": HTTP}

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return True
