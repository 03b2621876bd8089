"""Any LangChain chat model as a `Model`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable
from pydantic import SecretStr

from cascade.errors import (
    CascadeError,
    MalformedResponseError,
    ModelError,
    UnsupportedContentError,
)
from cascade.models.base import Chunk, JsonSchema, Model, Request
from cascade.models.called import call_logprobs
from cascade.models.counts import count, read_counts
from cascade.models.failures import Caller, retry_after_seconds
from cascade.models.home_loop import at_home
from cascade.models.logprobs import answer_logprobs
from cascade.models.openai_wire import finish_reason, response_format
from cascade.state import Completion, Usage

_Runnable = Runnable[LanguageModelInput, AIMessage]

_SETTINGS: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    "temperature": ("temperature",),
    "seed": ("seed",),
    "top_logprobs": ("top_logprobs",),
}
"""What a request may set → the fields that LangChain's models have for it. A field is set on a
copy of the model; a model without one gets the parameter with the call."""


class LangChainModel(Model):
    """A LangChain chat model.

    `returns_logprobs` is True when the chat model was made with a truthy `logprobs`.

    Args:
        chat: the chat model.
        provider: by default what the chat model says of itself.
        model: by default what the chat model says of itself.
    """

    traces_itself = True

    def __init__(
        self, chat: BaseChatModel, *, provider: str | None = None, model: str | None = None
    ) -> None:
        self.chat = chat
        # The only place where all chat models say whose model they are and what it is called.
        described = chat._get_ls_params()  # noqa: SLF001
        self.provider = provider or described.get("ls_provider") or chat._llm_type  # noqa: SLF001
        self.model = model or described.get("ls_model_name") or type(chat).__name__
        self.returns_logprobs = bool(getattr(chat, "logprobs", False))
        self.real = not any(
            kind.__module__.startswith("langchain_core.language_models.fake")
            for kind in type(chat).__mro__
        )
        self._caller = Caller(self.name, type(chat).__name__)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys that the chat model keeps as such."""
        kept = (getattr(self.chat, name, None) for name in type(self.chat).model_fields)
        return tuple(value.get_secret_value() for value in kept if isinstance(value, SecretStr))

    async def _complete(self, request: Request) -> Completion:
        with self._named_errors(begun=lambda: False):
            runnable, messages, stop = self._prepared(request)
            message = await at_home(lambda: runnable.ainvoke(messages, stop=stop))
            return self._completion(message)

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        whole: AIMessageChunk | None = None
        with self._named_errors(begun=lambda: whole is not None):
            runnable, messages, stop = self._prepared(request)
            # astream is declared as an iterator and is a generator, which has to be closed.
            parts = cast("AsyncGenerator[AIMessageChunk]", runnable.astream(messages, stop=stop))
            async with aclosing(parts) as stream:
                async for part in stream:
                    whole = part if whole is None else whole + part
                    if part.text:
                        yield Chunk(str(part.text))
            if whole is None:
                raise self._caller.interrupted("it ended without a message")
            completion = self._completion(whole)
        yield Chunk(completion=completion)

    def _prepared(self, request: Request) -> tuple[_Runnable, list[BaseMessage], list[str] | None]:
        messages = list(request.messages)
        chat, kwargs = self._with_settings(request)
        if request.schema is not None:
            kwargs |= _schema_parameter(chat, request.schema)
            if not kwargs.keys() & {"response_format", "format"}:
                messages.insert(0, _schema_instruction(request.schema))
        runnable: _Runnable = chat
        if request.tools:
            runnable = self._with_tools(chat, request)
        return runnable.bind(**kwargs) if kwargs else runnable, messages, list(request.stop) or None

    def _with_settings(self, request: Request) -> tuple[BaseChatModel, dict[str, Any]]:
        """The chat model with what the request sets, and what has to go with the call."""
        wanted = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "top_logprobs": request.top_logprobs or None
            if request.logprobs and self.returns_logprobs
            else None,
        }
        fields: dict[str, Any] = {}
        kwargs = dict(request.extra)
        known = type(self.chat).model_fields
        for setting, value in wanted.items():
            if value is None:
                continue
            name = next((name for name in _SETTINGS[setting] if name in known), None)
            (kwargs if name is None else fields)[name or setting] = value
        if request.temperature and self.chat.cache is not False:
            fields["cache"] = False  # a sample is asked for because it may differ from the last
        return self.chat.model_copy(update=fields) if fields else self.chat, kwargs

    def _with_tools(self, chat: BaseChatModel, request: Request) -> _Runnable:
        try:
            return chat.bind_tools(
                [dict(tool) for tool in request.tools],
                tool_choice="any" if request.tool_choice == "required" else request.tool_choice,
            )
        except NotImplementedError as error:
            raise UnsupportedContentError(
                f"{self.name}: {type(chat).__name__} cannot use tools. "
                "Leave them out, or use another model.",
                model=self.name,
            ) from error

    def _completion(self, message: AIMessage) -> Completion:
        text = str(message.text)
        thinking = _thinking(message)
        metadata = message.response_metadata
        logprobs = metadata.get("logprobs")
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else logprobs
        reason = next(
            (
                metadata[word]
                for word in ("finish_reason", "stop_reason", "done_reason")
                if metadata.get(word)
            ),
            None,
        )
        if message.invalid_tool_calls:
            raise MalformedResponseError(
                f"{self.name} made a tool call that cannot be read: "
                f"{message.invalid_tool_calls[0].get('error') or message.invalid_tool_calls[0]}",
                model=self.name,
                billed=None,
            )
        return Completion(
            text=text,
            model=str(metadata.get("model_name") or metadata.get("model") or self.model),
            usage=_usage(message),
            logprobs=answer_logprobs(
                tokens,
                text,
                thinking=thinking,
                tool_calls=bool(message.tool_calls),
                trusted=isinstance(logprobs, Mapping),
            ),
            call_logprobs=call_logprobs(tokens, message.tool_calls, thinking=thinking),
            tool_calls=tuple(message.tool_calls),
            finish_reason=finish_reason(reason),
            thinking=thinking,
            # What LangChain's cache writes into each answer that is taken from it.
            cached=dict(message.usage_metadata or ()).get("total_cost") == 0,
        )

    @contextmanager
    def _named_errors(self, begun: Any) -> Iterator[None]:
        try:
            yield
        except CascadeError:
            raise
        except Exception as error:
            raise self._named(error, begun=begun()) from error

    def _named(self, error: Exception, *, begun: bool) -> ModelError:
        """The named error for an exception of an SDK that is not known here."""
        reason = str(error) or type(error).__name__
        if begun:
            return self._caller.interrupted(reason)
        status = _status(error)
        if status is not None:
            response = getattr(error, "response", None)
            headers = getattr(response, "headers", None)
            wait = retry_after_seconds(headers) if isinstance(headers, Mapping) else None
            return self._caller.refused(status, reason, retry_after=wait)
        names = " ".join(kind.__name__ for kind in type(error).__mro__)
        for word, status in _STATUS_BY_NAME.items():
            if word in names:
                return self._caller.refused(status, reason)
        if "Timeout" in names:
            return self._caller.timed_out(reason)
        if "Connect" in names:
            return self._caller.unreachable(reason)
        return ModelError(
            f"{self.name} failed with {type(error).__name__}: {reason}",
            model=self.name,
            billed=None,
        )


_STATUS_BY_NAME = {
    "RateLimit": 429,
    "ResourceExhausted": 429,
    "Authentication": 401,
    "PermissionDenied": 403,
    "NotFoundError": 404,
    "BadRequest": 400,
    "InvalidArgument": 400,
    "ServiceUnavailable": 503,
}


def _status(error: Exception) -> int | None:
    """The HTTP status that an exception carries, under the names that SDKs use."""
    response = getattr(error, "response", None)
    places = (
        getattr(error, "status_code", None),
        getattr(error, "http_status", None),
        getattr(error, "code", None),
        getattr(response, "status_code", None),
        getattr(response, "status", None),
    )
    return next((p for p in places if isinstance(p, int) and 400 <= p < 600), None)


def _usage(message: AIMessage) -> Usage:
    usage = message.usage_metadata
    if not usage:
        return Usage()
    read = usage.get("input_token_details", {})
    # langchain-anthropic counts writes by how long they are kept, and then 0 in all.
    written = [
        tokens
        for name in ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
        if (tokens := count(read.get(name))) is not None
    ]
    return read_counts(
        read=usage.get("input_tokens"),
        written=usage.get("output_tokens"),
        wrote=bool(message.text or message.tool_calls),
        cached=read.get("cache_read"),
        cache_write=sum(written) if written else None,
        reasoning=usage.get("output_token_details", {}).get("reasoning"),
        total=usage.get("total_tokens"),
    )


def _thinking(message: AIMessage) -> str | None:
    parts = [
        str(block.get("reasoning", ""))
        for block in message.content_blocks
        if block.get("type") == "reasoning"
    ]
    return "".join(parts) or None


def _schema_parameter(chat: BaseChatModel, schema: JsonSchema) -> dict[str, Any]:
    """How this kind of chat model is held to a schema; empty when nobody knows."""
    kinds = {kind.__name__ for kind in type(chat).__mro__}
    if "BaseChatOpenAI" in kinds:
        return {"response_format": response_format(schema)}
    if "ChatOllama" in kinds:
        return {"format": dict(schema)}
    return {}


def _schema_instruction(schema: JsonSchema) -> SystemMessage:
    return SystemMessage(
        "Answer with JSON only, without any other text, that satisfies this JSON schema:\n"
        + json.dumps(dict(schema))
    )
