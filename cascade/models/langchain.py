"""Any LangChain chat model as a `Model`.

Its clients keep connections of the event loop in which they were used first. So it has one home,
the background loop, on which callers of all loops wait.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel, SecretStr

from cascade._portal import iterate_here, on_portal
from cascade.errors import MalformedResponseError, StreamInterruptedError
from cascade.models.base import Chunk, Model, Request
from cascade.models.http import Caller, stays_here
from cascade.models.logprobs import Tokens
from cascade.models.ollama import server_address
from cascade.models.openai import count, finish_reason, read_counts, reasons, response_format
from cascade.state import Completion, Usage

logger = logging.getLogger("cascade")

Sender = TypeVar("Sender", bound=BaseModel)

QUIET = RunnableConfig(tags=["nostream"])  # LangGraph then streams no draft, as it may be rejected

_LIMITS = ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens")
_NAMES = ("model_name", "model", "model_id", "deployment_name", "repo_id")
_ADDRESS = re.compile(r"base_url|api_base|api_url|endpoint|server_url")
"""Fields that LangChain's models have for the number of tokens, the model's name, the address."""


class LangChainModel(Model):
    """A LangChain chat model, by default called by its package (`langchain_anthropic`: `anthropic`)
    and by the name that it has for its model.

    Each request is sent once: `max_retries` is 0 on a copy of the chat model. Where that cannot be
    made sure, its usage is unknown, as it may have been paid several times.
    """

    traces_itself = True

    def __init__(
        self, chat: BaseChatModel, *, provider: str | None = None, model: str | None = None
    ) -> None:
        self.chat, self._sends_once = sending_once(chat)
        names = (getattr(chat, name, None) for name in _NAMES)
        known = next((name for name in names if isinstance(name, str) and name), "")
        self.provider = provider or _provider(type(chat))
        self.model = model or known.removeprefix("models/") or type(chat).__name__
        self.server = _server(chat, self.provider)
        self.local = self.server is not None and stays_here(self.server, self.model)
        wanted = getattr(chat, "logprobs", False)  # None where the user has not said
        refused = reasons(self.model) or getattr(chat, "use_responses_api", None)
        self.returns_logprobs = bool(wanted or (wanted is None and not refused))
        fakes = "langchain_core.language_models.fake"
        self.real = not any(kind.__module__.startswith(fakes) for kind in type(chat).__mro__)
        kept = (getattr(chat, name, None) for name in type(chat).model_fields)
        self.secrets = tuple(key.get_secret_value() for key in kept if isinstance(key, SecretStr))
        self._caller = Caller(self.name, type(chat).__name__)
        if not self._sends_once:
            logger.warning(
                "%s may send a request again on its own, so that what it costs is unknown. Make "
                "it with max_retries=0; the cascade retries, and books each attempt.",
                self.name,
            )

    async def _complete(self, request: Request) -> Completion:
        with self._caller.named():
            runnable, messages = self._prepared(request)
            return self._completion(await on_portal(runnable.ainvoke(messages, QUIET)))

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        heard: list[AIMessageChunk] = []
        with self._caller.named():
            runnable, messages = self._prepared(request)
            # It is declared as an iterator and is a generator, which has to be closed.
            parts = cast("AsyncGenerator[AIMessageChunk]", runnable.astream(messages, QUIET))
            async with aclosing(iterate_here(parts)) as here:
                async for part in here:
                    heard.append(part)
                    if part.text:
                        yield Chunk(str(part.text))
            if not heard:
                raise self._caller.error(StreamInterruptedError, "it ended without a message")
            completion = self._completion(sum(heard[1:], heard[0]))
        yield Chunk(completion=completion)

    def _prepared(self, request: Request) -> tuple[Runnable[Any, AIMessage], list[BaseMessage]]:
        """The chat model with what a request sets, in fields of a copy or else as parameters."""
        messages, known = list(request.messages), type(self.chat).model_fields
        kinds = {kind.__name__ for kind in type(self.chat).__mro__}
        asks = request.logprobs and self.returns_logprobs
        asked: dict[str, Any] = {
            next((name for name in _LIMITS if name in known), "max_tokens"): request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "logprobs": asks or None,
            "top_logprobs": (asks and request.top_logprobs) or None,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        fields = {name: given.pop(name) for name in known.keys() & given.keys() - {"stop"}}
        kwargs = {**request.extra, **given}
        if request.temperature and self.chat.cache is not False:
            fields["cache"] = False  # a sample is asked for because it may differ from the last
        if request.schema is not None and "BaseChatOpenAI" in kinds:
            kwargs["response_format"] = response_format(request.schema)
        elif request.schema is not None and "ChatOllama" in kinds:
            kwargs["format"] = dict(request.schema)
        elif request.schema is not None:
            text = "Answer with JSON only, without any other text, that satisfies this JSON schema"
            messages.insert(0, SystemMessage(f"{text}:\n{json.dumps(dict(request.schema))}"))
        chat = self.chat.model_copy(update=fields) if fields else self.chat
        runnable: Runnable[Any, AIMessage] = chat
        if request.tools:
            choice = "any" if request.tool_choice == "required" else request.tool_choice
            runnable = chat.bind_tools([dict(tool) for tool in request.tools], tool_choice=choice)
        return runnable.bind(**kwargs) if kwargs else runnable, messages

    def _completion(self, message: AIMessage) -> Completion:
        if message.invalid_tool_calls:
            call = message.invalid_tool_calls[0]
            told = f"a tool call: {call.get('error') or call}"
            raise self._caller.error(MalformedResponseError, told)
        completion = completion_of(message, self.model)
        return completion if self._sends_once else replace(completion, usage=Usage())


def completion_of(message: AIMessage, model: str) -> Completion:
    """Completion in a message of a chat model; `model` is its name where the message has none."""
    calls, metadata = message.tool_calls, message.response_metadata
    text = str(message.text or message.additional_kwargs.get("refusal") or "")
    blocks = [block for block in message.content_blocks if block["type"] == "reasoning"]
    thinking = "".join(str(block.get("reasoning", "")) for block in blocks) or None
    logprobs = metadata.get("logprobs")
    tokens = Tokens(logprobs.get("content") if isinstance(logprobs, Mapping) else logprobs)
    words = (metadata.get(f"{word}_reason") for word in ("finish", "stop", "done"))
    known = metadata.get("cost_basis") == "measured"  # by the cascade that gave the answer
    usage: Mapping[str, Any] = message.usage_metadata or {}
    details: Mapping[str, Any] = usage.get("input_token_details", {})
    # langchain-anthropic counts writes by how long they are kept, and then 0 in all.
    names = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    written = [n for name in names if (n := count(details.get(name))) is not None]
    return Completion(
        text=text,
        model=str(metadata.get("model_name") or metadata.get("model") or model),
        usage=read_counts(
            wrote=bool(text or calls),
            total=usage.get("total_tokens"),
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            cached_tokens=details.get("cache_read"),
            cache_write_tokens=sum(written) if written else None,
            cache_write_1h_tokens=details.get("ephemeral_1h_input_tokens"),
            reasoning_tokens=usage.get("output_token_details", {}).get("reasoning"),
        ),
        logprobs=tokens.of_answer(text, thinking, tool_calls=bool(calls)),
        call_logprobs=tokens.of_calls(calls, thinking),
        tool_calls=tuple(calls),
        finish_reason=finish_reason(next(filter(None, words), None)),
        thinking=thinking,
        # What LangChain's cache writes into each answer that is taken from it.
        cached=usage.get("total_cost") == 0,
        cost_usd=Decimal(str(metadata["cost_usd"])) if known else None,
    )


def sending_once(chat: Sender) -> tuple[Sender, bool]:
    """A copy that sends each request once, and whether that is sure.

    The number of retries is in the clients that a chat model keeps. Those of OpenAI and Anthropic
    are made anew, with connections of their own: LangChain shares one pool among all chat models,
    which are used in other event loops as well.
    """
    known = type(chat).model_fields
    fields: dict[str, Any] = {"max_retries": 0} if "max_retries" in known else {}
    if getattr(chat, "stream_usage", True) is None:
        fields["stream_usage"] = True  # a streamed answer without usage could not be priced
    copy = chat.model_copy(update=fields)
    for name in vars(copy).keys() - known.keys():
        del vars(copy)[name]  # cached properties, which remember the number
    names = ("root_async_client", "_async_client")
    ours = [name for name in names if hasattr(getattr(copy, name, None), "with_options")]
    for name in ours:
        client = getattr(copy, name)
        sdk = sys.modules[type(client).__module__.partition(".")[0]]
        given = getattr(chat, "http_async_client", None)
        pool = {} if given else {"http_client": sdk.DefaultAsyncHttpxClient()}
        vars(copy)[name] = client.with_options(max_retries=0, **pool)
    if "root_async_client" in ours:
        vars(copy)["async_client"] = vars(copy)["root_async_client"].chat.completions
    kept = [name for name in known if "client" in name and not name.startswith("http")]
    unsure = not ours and any(getattr(copy, name) is not None for name in kept)
    return copy, getattr(chat, "max_retries", 0) == 0 or not unsure


def _provider(kind: type) -> str:
    """The prefix by which `init_chat_model` knows a class: its package's name."""
    packages = [parent.__module__.partition(".")[0] for parent in kind.__mro__]
    shared = ("langchain_core", "langchain_community")
    own = [p for p in packages if p.startswith("langchain_") and p not in shared]
    return own[0].removeprefix("langchain_") if own else kind.__name__.removeprefix("Chat").lower()


def _server(chat: BaseChatModel, provider: str) -> str | None:
    """The address that a chat model asks; None where it does not tell."""
    if provider == "ollama":
        return server_address(getattr(chat, "base_url", None))
    client: Any = getattr(chat, "root_async_client", None)
    if hasattr(client, "base_url"):
        return str(client.base_url)
    places = [getattr(chat, name) for name in type(chat).model_fields if _ADDRESS.search(name)]
    return next((place for place in places if isinstance(place, str) and "://" in place), None)
