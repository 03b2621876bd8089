"""What a call's configuration says of privacy, for a chat model.

LangChain hands a chat model no `configurable`; without this, a call that has to stay on this
machine would look like any other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig, ensure_config

from cascade.agents.border import LOCAL_ONLY


def _with(config: RunnableConfig | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call, with what its configuration, or that around it, says."""
    said = (ensure_config(config).get("configurable") or {}).get(LOCAL_ONLY)
    return {LOCAL_ONLY: said, **settings} if said else dict(settings)


class LocalOnlyCalls(BaseChatModel):
    """A chat model that learns of `config["configurable"]["local_only"]`, as a setting."""

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer in one piece."""
        return super().invoke(input, config, stop=stop, **_with(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer in one piece."""
        return await super().ainvoke(input, config, stop=stop, **_with(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer in pieces."""
        return super().stream(input, config, stop=stop, **_with(config, kwargs))

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer in pieces."""
        return super().astream(input, config, stop=stop, **_with(config, kwargs))

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        """Answer in events."""
        return super().stream_events(input, config, **_with(config, kwargs))

    def astream_events(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer in events."""
        return super().astream_events(input, config, **_with(config, kwargs))
