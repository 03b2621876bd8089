"""Any LangChain chat model as a `Model`.

Its clients keep connections of the event loop in which they were used first. So it has one home,
the background loop, on which callers of all loops wait.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import cached_property
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import SecretStr

from cascade._portal import on_portal
from cascade.errors import (
    CascadeError,
    ConfigurationError,
    MalformedResponseError,
    ModelError,
    UnsupportedContentError,
)
from cascade.models.base import Chunk, Model, Request
from cascade.models.failures import Caller
from cascade.models.http import stays_here
from cascade.models.logprobs import answer_logprobs, call_logprobs
from cascade.models.loops import stream_at_home
from cascade.models.ollama import server_address
from cascade.models.openai import reasons
from cascade.models.wire import count, finish_reason, read_counts, response_format
from cascade.state import Completion, Usage

logger = logging.getLogger("cascade")

_Runnable = Runnable[LanguageModelInput, AIMessage]

_QUIET = RunnableConfig(tags=["nostream"])
"""LangGraph's tag: a rejected draft must not appear in the `messages` stream of a graph around."""

_SETTINGS: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    "temperature": ("temperature",),
    "seed": ("seed",),
    "logprobs": ("logprobs",),
    "top_logprobs": ("top_logprobs",),
}
"""What a request may set → the fields that LangChain's models have for it. A field is set on a
copy of the model; a model without one gets the parameter with the call."""

_NAMES = ("model_name", "model", "model_id", "deployment_name", "repo_id")
_ADDRESS = re.compile(r"base_url|api_base|api_url|endpoint|server_url")


class LangChainModel(Model):
    """A LangChain chat model.

    Each request is sent once: `max_retries` is 0 on a copy of the chat model. Where that cannot be
    made sure, its usage is unknown, as it may have been paid several times.

    Args:
        chat: the chat model; it is not changed.
        provider: by default its LangChain package (`langchain_anthropic`: `anthropic`).
        model: by default the name that it has for its model.
    """

    traces_itself = True

    def __init__(
        self, chat: BaseChatModel, *, provider: str | None = None, model: str | None = None
    ) -> None:
        self.chat, self._sends_once = _of_our_own(chat)
        names = (getattr(chat, name, None) for name in _NAMES)
        known = next((name for name in names if isinstance(name, str) and name), "")
        self.provider = provider or _provider(type(chat))
        self.model = model or known.removeprefix("models/") or type(chat).__name__
        self.server = _server(chat, self.provider)
        self.local = self.server is not None and stays_here(self.server, self.model)
        wanted = getattr(chat, "logprobs", False)  # None where the user has not said
        refused = reasons(self.model) or getattr(chat, "use_responses_api", None)
        self.returns_logprobs = bool(wanted or (wanted is None and not refused))
        self.real = not any(
            kind.__module__.startswith("langchain_core.language_models.fake")
            for kind in type(chat).__mro__
        )
        self._caller = Caller(self.name, type(chat).__name__)
        if not self._sends_once:
            logger.warning(
                "%s may send a request again on its own, so that what it costs is unknown. Make "
                "it with max_retries=0; the cascade retries, and books each attempt.",
                self.name,
            )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Keys that the chat model keeps as such."""
        kept = (getattr(self.chat, name, None) for name in type(self.chat).model_fields)
        return tuple(value.get_secret_value() for value in kept if isinstance(value, SecretStr))

    async def _complete(self, request: Request) -> Completion:
        with self._named_errors():
            runnable, messages, stop = self._prepared(request)
            asked = runnable.ainvoke(messages, _QUIET, stop=stop)
            return self._completion(await on_portal(asked))

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        whole: AIMessageChunk | None = None
        with self._named_errors(begun := list[bool]()):
            runnable, messages, stop = self._prepared(request)
            # astream is declared as an iterator and is a generator, which has to be closed.
            parts = runnable.astream(messages, _QUIET, stop=stop)
            async with aclosing(
                stream_at_home(cast("AsyncGenerator[AIMessageChunk]", parts))
            ) as stream:
                async for part in stream:
                    begun.append(True)
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
            kinds = {kind.__name__ for kind in type(chat).__mro__}
            if "BaseChatOpenAI" in kinds:
                kwargs["response_format"] = response_format(request.schema)
            elif "ChatOllama" in kinds:
                kwargs["format"] = dict(request.schema)
            else:
                form = f"satisfies this JSON schema:\n{json.dumps(dict(request.schema))}"
                text = f"Answer with JSON only, without any other text, that {form}"
                messages.insert(0, SystemMessage(text))
        runnable: _Runnable = self._with_tools(chat, request) if request.tools else chat
        return runnable.bind(**kwargs) if kwargs else runnable, messages, list(request.stop) or None

    def _with_settings(self, request: Request) -> tuple[BaseChatModel, dict[str, Any]]:
        """The chat model with what the request sets, and what has to go with the call."""
        logprobs = request.logprobs and self.returns_logprobs
        wanted = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "logprobs": logprobs or None,
            "top_logprobs": (logprobs and request.top_logprobs) or None,
        }
        fields: dict[str, Any] = {}
        kwargs = dict(request.extra)
        known = type(self.chat).model_fields
        for setting, value in wanted.items():
            name = next((name for name in _SETTINGS[setting] if name in known), None)
            if value is not None:
                (kwargs if name is None else fields)[name or setting] = value
        if request.temperature and self.chat.cache is not False:
            fields["cache"] = False  # a sample is asked for because it may differ from the last
        return self.chat.model_copy(update=fields) if fields else self.chat, kwargs

    def _with_tools(self, chat: BaseChatModel, request: Request) -> _Runnable:
        choice = "any" if request.tool_choice == "required" else request.tool_choice
        try:
            return chat.bind_tools([dict(tool) for tool in request.tools], tool_choice=choice)
        except NotImplementedError as error:
            raise UnsupportedContentError(
                f"{self.name}: {type(chat).__name__} cannot use tools. "
                "Leave them out, or use another model.",
                model=self.name,
            ) from error

    def _completion(self, message: AIMessage) -> Completion:
        if message.invalid_tool_calls:
            call = message.invalid_tool_calls[0]
            raise MalformedResponseError(
                f"{self.name} made a tool call that cannot be read: {call.get('error') or call}",
                model=self.name,
                billed=None,
            )
        text, calls, metadata = str(message.text), message.tool_calls, message.response_metadata
        blocks = [b for b in message.content_blocks if b["type"] == "reasoning"]
        thinking = "".join(str(block.get("reasoning", "")) for block in blocks) or None
        logprobs = metadata.get("logprobs")
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else logprobs
        words = (metadata.get(f"{word}_reason") for word in ("finish", "stop", "done"))
        return Completion(
            text=text,
            model=str(metadata.get("model_name") or metadata.get("model") or self.model),
            usage=_usage(message) if self._sends_once else Usage(),
            logprobs=answer_logprobs(tokens, text, thinking, tool_calls=bool(calls)),
            call_logprobs=call_logprobs(tokens, calls, thinking),
            tool_calls=tuple(calls),
            finish_reason=finish_reason(next(filter(None, words), None)),
            thinking=thinking,
            # What LangChain's cache writes into each answer that is taken from it.
            cached=dict(message.usage_metadata or ()).get("total_cost") == 0,
        )

    @contextmanager
    def _named_errors(self, begun: list[bool] | None = None) -> Iterator[None]:
        try:
            yield
        except CascadeError:
            raise
        except Exception as error:
            named = self._caller.failed(error, begun=bool(begun)) or ModelError(
                f"{self.name} failed with {type(error).__name__}: {error}",
                model=self.name,
                billed=None,
            )
            raise named from error


def _of_our_own(chat: BaseChatModel) -> tuple[BaseChatModel, bool]:
    """A copy that sends each request once, and whether that is sure.

    The number of retries is in the clients that a chat model keeps. Those of OpenAI and Anthropic
    are made anew, with connections of their own: LangChain shares one pool among all chat models,
    which are used in other event loops as well.
    """
    known = type(chat).model_fields
    fields: dict[str, Any] = {}
    if "stream_usage" in known and getattr(chat, "stream_usage", True) is None:
        fields["stream_usage"] = True  # a streamed answer without usage could not be priced
    retries = "max_retries" in known and getattr(chat, "max_retries", None) != 0
    if retries:
        fields["max_retries"] = 0
    copy = chat.model_copy(update=fields)
    for name in vars(copy).keys() - known.keys():
        del vars(copy)[name]  # cached properties, which remember the number
    names = [name for name in known if "client" in name and not name.startswith("http")]
    kinds = (vars(kind).items() for kind in type(chat).__mro__)
    cached = [name for kind in kinds for name, it in kind if isinstance(it, cached_property)]
    lazy = [name for name in cached if "async_client" in name]
    made = {name: _made_anew(getattr(copy, name), chat) for name in [*names, *lazy]}
    vars(copy).update({name: client for name, client in made.items() if client is not None})
    if (root := made.get("root_async_client")) is not None:
        vars(copy)["async_client"] = root.chat.completions
    kept = [name for name in names if getattr(copy, name) is not None]
    return copy, not retries or not kept or root is not None


def _made_anew(client: Any, chat: BaseChatModel) -> Any:
    """A client of OpenAI's or Anthropic's SDK without retries; None for others."""
    sdk = sys.modules.get(type(client).__module__.partition(".")[0])
    kind = getattr(sdk, "DefaultAsyncHttpxClient", None)
    if kind is None or not type(client).__name__.startswith("Async") or not hasattr(client, "copy"):
        return None
    options = {} if getattr(chat, "http_async_client", None) else {"http_client": kind()}
    return client.copy(max_retries=0, **options)


def _provider(kind: type) -> str:
    """The prefix by which `init_chat_model` knows a class: its package's name."""
    for parent in kind.__mro__:
        package = parent.__module__.partition(".")[0]
        if package.startswith("langchain_") and package not in (
            "langchain_core",
            "langchain_community",
        ):
            return package.removeprefix("langchain_")
    return kind.__name__.removeprefix("Chat").lower()


def _server(chat: BaseChatModel, provider: str) -> str | None:
    """The address that a chat model asks; None where it does not tell."""
    client: Any = getattr(chat, "root_async_client", None)
    places = (
        getattr(chat, name, None) for name in type(chat).model_fields if _ADDRESS.search(name)
    )
    url = next((place for place in places if isinstance(place, str) and "://" in place), None)
    if provider == "ollama":
        try:
            return server_address(getattr(chat, "base_url", None))
        except ConfigurationError:
            return None
    return str(client.base_url) if hasattr(client, "base_url") else url


def _usage(message: AIMessage) -> Usage:
    usage = message.usage_metadata
    if not usage:
        return Usage()
    details: Mapping[str, Any] = usage.get("input_token_details", {})
    # langchain-anthropic counts writes by how long they are kept, and then 0 in all.
    names = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    written = [tokens for name in names if (tokens := count(details.get(name))) is not None]
    told = {
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
        "cached_tokens": details.get("cache_read"),
        "cache_write_tokens": sum(written) if written else None,
        "cache_write_1h_tokens": details.get("ephemeral_1h_input_tokens"),
        "reasoning_tokens": usage.get("output_token_details", {}).get("reasoning"),
    }
    wrote = bool(message.text or message.tool_calls)
    return read_counts(told, wrote=wrote, total=usage.get("total_tokens"))
