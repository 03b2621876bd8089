"""A cascade as a LangChain chat model: for every app that takes a `BaseChatModel`.

    model = Cascade(small="ollama:qwen2.5:3b", large="openai:gpt-5.1").as_chat_model()
    agent = create_agent(model, tools=[…])

To the app a call of the cascade is one call of one model. A rejected draft is never shown, tokens
are counted once, and only tracers see the calls of the tiers below it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextvars import Context
from functools import partial
from operator import itemgetter
from typing import Any, Literal, cast, get_args
from uuid import UUID

from langchain_core.caches import BaseCache
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.runnables.config import ensure_config, set_config_context
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langchain_core.tracers.log_stream import LogStreamCallbackHandler
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, SkipValidation, TypeAdapter, field_validator
from typing_extensions import is_typeddict

from cascade._portal import iterate_sync, run_sync
from cascade.api import Cascade
from cascade.driving import graph_around, watched
from cascade.errors import (
    ConfigurationError,
    InputError,
    PersonNeededError,
    StreamInterruptedError,
)
from cascade.events import Decided, Event, Retracted, Token
from cascade.kernel import InCopiedContext
from cascade.questions import to_schema, to_settings
from cascade.result import CascadeResult
from cascade.run import CascadeRuntime, Run, Settings
from cascade.state import LedgerEntry, Usage

RunManager = AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun

Method = Literal["json_schema", "function_calling", "json_mode"]
"""Ways to ask for a structured output."""


class CascadeChatModel(BaseChatModel):
    """A cascade behind LangChain's chat-model interface; made by `cascade.as_chat_model()`.

    Every answer's `response_metadata` says who gave it (`tier`), how sure the cascade was
    (`confidence`, `calibrated`), why (`reason`), what it cost and saved, and the `run_id` of its
    ledger entries. `usage_metadata` is the sum over all calls.

    A call may bring `stop`, `temperature`, `max_tokens`, `seed`, `timeout` (seconds per call of a
    tier), `tools`, `tool_choice`, `response_format`, `logprobs`, `top_logprobs`, `deadline` and
    `local_only`; what else there is goes to every provider as it is. In a graph, decisions go to
    its `custom` stream, and verifiers and signals see its `context` and store.

    Streams show nothing before the decision: an accepted draft then comes word by word, the large
    model's answer as it arrives. Should that stream break after a part was shown,
    `StreamInterruptedError` is raised, since a chat model cannot take back what it has shown.

    Args:
        cascade: that answers.
        temperature, max_tokens, stop, timeout: for every call that has none of its own.
        streaming: stream also where the whole answer is asked for.
        cache: none: LangChain's cannot know which answers the cascade stands for.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    cascade: SkipValidation[Cascade]
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    timeout: float | None = None
    streaming: bool = False
    cache: BaseCache | bool | None = False

    @field_validator("cache")
    @classmethod
    def _without_a_cache(cls, given: object) -> bool:
        if given:
            raise ValueError("a cascade has Cache(…) among its middleware instead")
        return False

    # --- asking

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: RunManager | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run, runtime, context = self._prepared(messages, stop, run_manager, kwargs)
        result = await InCopiedContext(self._answer(run, runtime), context)
        calls = list(result.message.tool_calls)
        message = AIMessage(result.answer, tool_calls=calls, **_told(result, run))
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: RunManager | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run, runtime, context = self._prepared(messages, stop, run_manager, kwargs)
        results: list[CascadeResult] = []
        shown, tell = "", runtime.emit

        async def answer() -> None:
            results.append(await self._answer(run, runtime))

        async with watched(answer, runtime, context) as events:
            while (event := await events.get()) is not None:
                tell(event)
                if isinstance(event, Token):
                    shown += event.text
                    for word in re.findall(r"\s*\S+|\s+$", event.text):
                        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
                elif isinstance(event, Retracted) and shown:
                    raise StreamInterruptedError(
                        f"{event.reason}. A part of the answer was shown already: ask again, or "
                        "set disable_streaming=True, which waits for the whole answer.",
                        model="cascade",
                        billed=None,
                    )
        yield ChatGenerationChunk(message=_last_chunk(results[0], run, shown))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return run_sync(self._agenerate(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunks = self._astream(messages, stop, run_manager, **kwargs)
        yield from iterate_sync(cast("AsyncGenerator[ChatGenerationChunk]", chunks))

    def _prepared(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: RunManager | None,
        given: Mapping[str, Any],
    ) -> tuple[Run, CascadeRuntime, Context]:
        if not messages:
            raise InputError("the list of messages is empty: ask something.")
        own = {name: getattr(self, name) for name in ("temperature", "max_tokens", "timeout")}
        own["stop"] = self.stop if stop is None else stop
        brought = {name: value for name, value in given.items() if value is not None}
        settings = read_settings({**own, **brought}, self.cascade.settings)
        agent = run_manager.metadata.get("lc_agent_name") if run_manager else None
        if agent:
            settings["tags"] = {"agent": str(agent)}
        kernel = self.cascade.kernel
        run = kernel.begin(cast("list[Any]", messages), settings)
        config, context = _surroundings(run_manager)
        runtime = CascadeRuntime(kernel, config=config)
        if (around := graph_around()) is not None:
            runtime.context, runtime.store = around.context, around.store

            def emit(event: Event) -> None:
                if isinstance(event, Decided | Retracted):  # the answer goes the way of messages
                    around.stream_writer(event)

            runtime.emit = emit
        return run, runtime, context

    async def _answer(self, run: Run, runtime: CascadeRuntime) -> CascadeResult:
        try:
            return await self.cascade.adrive(run, runtime)
        except PersonNeededError as error:
            raise PersonNeededError(
                "a person is asked, and a chat model cannot wait for one: use cascade.graph as a "
                "node of a graph with a checkpointer, or let the app ask before it runs a tool "
                "(LangChain's HumanInTheLoopMiddleware).",
                error.run,
            ) from None

    # --- tools and structured output

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools.

        A draft whose call breaks its schema, or that calls none where it has to, is escalated.
        `tool_choice` is `any` (or True), `auto`, `none`, the name of a tool, or OpenAI's dict;
        `strict` has providers that can hold the arguments to their schema.

        Raises:
            ConfigurationError: a tool cannot be read, or there is none to be chosen.
        """
        read = to_settings(tools=tools).get("tools", [])
        if strict is not None:
            read = [t | convert_to_openai_tool(t["function"], strict=strict) for t in read]
        if tool_choice is not None:
            kwargs["tool_choice"] = _read_choice(tool_choice, read)
        return self.bind(tools=read, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with answers of a form: a draft that has not this form is escalated.

        A schema is a pydantic model, a TypedDict, a dataclass or a JSON schema. The methods
        `json_schema` and `json_mode` hold the text of the answer to it, and keep the free log-probs
        as signal; `function_calling` asks for a tool call. With `include_raw` the answer is
        `{"raw": message, "parsed": …, "parsing_error": …}`.

        Raises:
            ConfigurationError: the schema cannot be read, or the method is unknown.
        """
        if method not in get_args(Method):
            raise ConfigurationError(f"method={method!r}: there are {', '.join(get_args(Method))}.")
        function = _as_function(schema, strict=strict)
        name, about = function["name"], {k: v for k, v in function.items() if k == "description"}
        form = {"title": name, **about, **function["parameters"]}
        traced = {"kwargs": {"method": method, "strict": strict}, "schema": form}
        options = {"ls_structured_output_format": traced, **kwargs}
        llm: Runnable[LanguageModelInput, AIMessage] = self.bind(response_format=form, **options)
        if method == "function_calling":
            if form.get("type", "object") != "object":
                raise ConfigurationError(
                    f"method={method!r}: the arguments of a call are an object, and {name!r} is of "
                    f"type {form['type']!r}; leave the method out."
                )
            tool = {"type": "function", "function": function}
            llm = self.bind_tools([tool], tool_choice=name, **options)
        parser = RunnableLambda(partial(_parsed, schema))
        return _with_raw(llm, parser) if include_raw else llm | parser

    # --- what others want to know about it

    @property
    def _llm_type(self) -> str:
        return "cascade"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        own = {name: getattr(self, name) for name in ("temperature", "max_tokens", "stop")}
        return {"cascade": repr(self.cascade), **own}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "cascade"
        params["ls_model_name"] = " → ".join(tier.model.name for tier in self.cascade.tiers)
        return params


# --- what a call brings along

_FORCED = {"any": "required", "required": "required", "auto": "auto", "none": "none"}
"""LangChain's and OpenAI's words for whether a tool is called → the cascade's."""

_IGNORED = {"stream", "strict"}
"""`stream` chose the method that is running; `strict` went into tools and schemas already."""


def read_settings(given: Mapping[str, Any], before: Settings | None = None) -> Settings:
    """Settings of a run, from a call in LangChain's and OpenAI's words; what is none of them goes
    to every provider.

    Args:
        given: of the call.
        before: of the cascade, to which `tool_choice` and `extra` may refer.

    Raises:
        ConfigurationError: one of them cannot be read, or names a model.
    """
    named = {name: v for name, v in given.items() if v is not None and name not in _IGNORED}
    before = before or Settings()
    if "model" in named:
        raise ConfigurationError(
            f"model={named['model']!r}: a cascade asks its own models; make another one for other "
            "models."
        )
    read: dict[str, Any] = {}
    if "tools" in named:  # also none, where the cascade has some
        read["tools"] = to_settings(tools=named.pop("tools")).get("tools", [])
    if "response_format" in named:
        read["schema"] = _read_format(named.pop("response_format"))
    if "tool_choice" in named:
        there = read.get("tools", before.get("tools", []))
        read["tool_choice"] = _read_choice(named.pop("tool_choice"), there)
    if "timeout" in named:
        named["timeout_s"] = named.pop("timeout")
    if isinstance(named.get("stop"), str):
        named["stop"] = [named["stop"]]
    wanted, n = named.pop("logprobs", None), named.get("top_logprobs", 0)
    if wanted not in (None, True, False) or (n and wanted is False):
        raise ConfigurationError(f"logprobs={wanted!r}, top_logprobs={n!r}: give True, a number.")
    if wanted is not None:
        named["top_logprobs"] = n if wanted else None
    extra = {name: named.pop(name) for name in named.keys() - Settings.__annotations__.keys()}
    settings: dict[str, Any] = {**to_settings(**named), **read}
    if extra:
        settings["extra"] = {**before.get("extra", {}), **settings.get("extra", {}), **extra}
    return cast("Settings", settings)


def _read_choice(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    names = [tool["function"]["name"] for tool in tools]
    wanted = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        wanted = (function if isinstance(function, Mapping) else choice).get("name")
        wanted = wanted or choice.get("type")
    elif isinstance(choice, bool):
        wanted = "required" if choice else "auto"
    if wanted in names:
        return str(wanted)
    if wanted not in _FORCED or (_FORCED[wanted] == "required" and not names):
        raise ConfigurationError(
            f"tool_choice={choice!r}: give 'any', 'auto', 'none' or the name of a tool; tools "
            f"there are: {', '.join(names) or 'none'}."
        )
    return _FORCED[wanted]


def _read_format(given: Any) -> dict[str, Any] | None:
    match given:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema), **described}}:
            return to_schema({"title": described.get("name") or "answer", **schema})
        case {"type": "json_schema"}:
            raise ConfigurationError(
                f"response_format={dict(given)!r}: give {{'type': 'json_schema', 'json_schema': "
                "{'name': …, 'schema': {…}}}."
            )
    return to_schema(given)


def _as_function(schema: Any, *, strict: bool | None) -> dict[str, Any]:
    """A form of an answer as a function in OpenAI's format."""
    if dataclasses.is_dataclass(schema):
        schema = to_schema(cast("type", schema))
    parameters: dict[str, Any] = {"type": "object"}
    if isinstance(schema, Mapping) and ("title" in schema or "type" in schema):
        # LangChain keeps the parameters of an object with properties alone.
        parameters = {k: v for k, v in schema.items() if k not in ("title", "description")}
        schema = {"title": "answer", **schema}
    try:
        return {
            "parameters": parameters,
            **convert_to_openai_tool(schema, strict=strict)["function"],
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"{schema!r} is no schema of an answer: give a pydantic model, a TypedDict, a "
            f"dataclass or a JSON schema ({error})."
        ) from error


def _parsed(schema: Any, message: AIMessage) -> Any:
    """Content of an answer, as JSON or as the arguments of a call."""
    calls = message.tool_calls
    facts = calls[0]["args"] if calls else JsonOutputParser().parse(str(message.text))
    if isinstance(schema, Mapping) or is_typeddict(schema):
        return facts
    of_pydantic = getattr(schema, "model_validate", None) or getattr(schema, "parse_obj", None)
    try:
        return (of_pydantic or TypeAdapter(schema).validate_python)(facts)
    except ValueError as error:
        raise OutputParserException(f"{facts!r} is no {schema.__name__}: {error}") from error


def _with_raw(llm: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


# --- what is around a call


def _surroundings(run_manager: RunManager | None) -> tuple[Mapping[str, Any], Context]:
    """Configuration and context of the cascade's own run: those around it, in which tracers look
    on alone. Whatever counts tokens or shows them would do so twice, also with rejected drafts."""
    config: dict[str, Any] = dict(ensure_config())
    config["callbacks"] = None
    if run_manager is not None:
        config["metadata"] = {**config["metadata"], **run_manager.metadata}
        if thread := run_manager.metadata.get("thread_id"):  # no `configurable` comes this far
            config["configurable"] = {"thread_id": thread, **config["configurable"]}
        handlers, above = run_manager.inheritable_handlers, run_manager.run_id
        if any(map(_looks_on, handlers)):
            config["callbacks"] = looking_on(handlers, above)
    with set_config_context(cast("RunnableConfig", config)) as entered:
        context = entered.copy()
    for variable, value in context.items():
        # `get_usage_metadata_callback` and its like stand in variables of their own.
        if isinstance(value, BaseCallbackHandler) and not _looks_on(value):
            context.run(variable.set, None)
    return config, context


def looking_on(
    handlers: Iterable[BaseCallbackHandler], above: UUID | None, *own: BaseCallbackHandler
) -> AsyncCallbackManager:
    """Callbacks of what runs below a run: the tracers among its handlers, and some of its own."""
    those = [*own, *filter(_looks_on, handlers)]
    return AsyncCallbackManager(those, inheritable_handlers=those, parent_run_id=above)


def _looks_on(handler: BaseCallbackHandler) -> bool:
    tracer = isinstance(handler, BaseTracer | AsyncBaseTracer)
    return tracer and not isinstance(handler, LogStreamCallbackHandler)


# --- what an answer says


def _last_chunk(result: CascadeResult, run: Run, shown: str) -> AIMessageChunk:
    calls = []
    for index, call in enumerate(result.message.tool_calls):
        args = json.dumps(call["args"], ensure_ascii=False)
        calls.append(tool_call_chunk(name=call["name"], args=args, id=call["id"], index=index))
    return AIMessageChunk(
        content=result.answer[len(shown) :],
        tool_call_chunks=calls,
        chunk_position="last",
        **_told(result, run),
    )


_TOLD = ("tier", "escalated", "degraded", "abstained", "cached", "confidence", "calibrated")
"""Of a result, what each answer says in its `response_metadata`."""


def _told(result: CascadeResult, run: Run) -> dict[str, Any]:
    """Tier, confidence and cost of an answer; plain JSON.

    Dollars are floats, for reading; the exact ones are in the ledger under `run_id`.
    """
    ledger, answered = result.ledger, result.message.response_metadata
    cost, saved = ledger.cost_usd, ledger.saved_usd
    metadata = {
        "finish_reason": None,
        **answered,  # with what middleware has stamped for the rest of the conversation
        "model_name": answered.get("model_name") or result.tier,
        **{name: getattr(result, name) for name in _TOLD},
        "action": result.decision.action,
        "reason": result.decision.reason,
        "cost_usd": None if cost is None else float(cost),
        "cost_basis": ledger.cost_basis,
        "saved_usd": None if saved is None else float(saved),
        "saved_basis": ledger.saved_basis,
        "unknown_usage": sum(not entry.usage.known for entry in ledger if entry.model),
    }
    if run.settings.get("top_logprobs") is not None and run.draft and run.draft.logprobs:
        tokens = [token.to_openai() for token in run.draft.logprobs]
        metadata["logprobs"] = {"content": tokens}
    return {"response_metadata": metadata, "usage_metadata": usage_of(ledger)}


def usage_of(entries: Iterable[LedgerEntry]) -> UsageMetadata | None:
    """The tokens of all calls whose usage is known; None when it is of none."""
    total = Counter[str]()
    for entry in entries:
        if entry.model and entry.usage.known:
            total.update(entry.usage.model_dump(exclude_none=True))
    return Usage(**total).metadata
