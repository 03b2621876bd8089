"""A LangChain chat model as providers write them: it holds clients with open connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class OpenAIChat(BaseChatModel):
    """Like `ChatOpenAI`: one asynchronous client for all its calls, whatever loop they are in."""

    base_url: str
    model: str = "large"

    @property
    def _llm_type(self) -> str:
        return "openai-chat"

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key="a-key", max_retries=0)

    @cached_property
    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.base_url, api_key="a-key", max_retries=0)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)

    def _given(self, messages: list[BaseMessage]) -> dict[str, Any]:
        return {"model": self.model, "messages": convert_to_openai_messages(messages)}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _read(self.client.chat.completions.create(**self._given(messages)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _read(await self.async_client.chat.completions.create(**self._given(messages)))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        given = self._given(messages)
        async for part in await self.async_client.chat.completions.create(**given, stream=True):
            text = (part.choices[0].delta.content or "") if part.choices else ""
            usage = None if part.usage is None else _usage(part.usage)
            message = AIMessageChunk(content=text, usage_metadata=usage)
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk


def _usage(usage: Any) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def _read(done: Any) -> ChatResult:
    message = AIMessage(done.choices[0].message.content or "", usage_metadata=_usage(done.usage))
    return ChatResult(generations=[ChatGeneration(message=message)])
