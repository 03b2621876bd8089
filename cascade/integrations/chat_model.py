"""A cascade as a LangChain chat model: for every app that takes a `BaseChatModel`.

    from cascade import Cascade

    model = Cascade(small="ollama:qwen2.5:3b", large="openai:gpt-5.1").as_chat_model()
    agent = create_agent(model, tools=[…])

A rejected draft is never shown: a stream begins after the decision. To the app a call of the
cascade is one call of a model; tracers see the calls of its tiers below it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast, get_args
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils import secret_from_env
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, SkipValidation, ValidationError

from cascade._portal import iterate_sync, run_sync
from cascade.agents.border import LOCAL_ONLY
from cascade.api import Cascade
from cascade.errors import ConfigurationError
from cascade.events import Decided, Event, Retracted, Token
from cascade.integrations.chat_cache import answer_cache
from cascade.integrations.chat_messages import answer_message, last_chunk
from cascade.integrations.chat_output import (
    Method,
    response_format,
    text_parser,
    tool_parser,
    with_raw,
)
from cascade.integrations.chat_person import surroundings, with_person
from cascade.integrations.chat_privacy import LocalOnlyCalls
from cascade.integrations.chat_recipe import check_options, read_tier, recipe_of
from cascade.integrations.chat_run import (
    RunManager,
    inner_config,
    steady,
    stream_writer,
)
from cascade.integrations.chat_settings import (
    TOOL_RISKS,
    call_task,
    check_alone,
    read_tool_choice,
    read_tools,
)
from cascade.questions import marks_of
from cascade.resilience import OFF, Resilience
from cascade.result import CascadeResult

_WAIT_FOR_ALL = "ask again, or set disable_streaming=True, which waits for the whole answer."

_MADE = ("small", "large", "tiers", "options")
"""Fields of which a cascade is made."""


class CascadeChatModel(LocalOnlyCalls):
    """A cascade behind LangChain's chat-model interface.

    Made by `cascade.as_chat_model()`, or from the options of a cascade:
    `CascadeChatModel(small="ollama:qwen2.5:3b", large="openai:gpt-5.1")`.

    Every answer's `response_metadata` says who gave it (`tier`), how sure the cascade was
    (`confidence`, `calibrated`), why (`reason`), what it cost and saved, the usage per tier, and
    the `run_id` of its ledger entries. `usage_metadata` is the sum over all calls.

    Streams show nothing before the decision: an accepted draft then comes word by word, the large
    model's answer as it arrives. With `disable_streaming=True` the answer comes in one piece.
    Should the large model's stream break after a part was shown, `StreamInterruptedError` is
    raised, since a chat model cannot take back what it has shown.

    Args:
        cascade: the cascade; or, to make one,
        small: the model that drafts,
        large: the model that answers what is doubtful,
        tiers: more than two, from small to large,
        options: other options of `Cascade`, by name.
        temperature, max_tokens, stop, timeout: for every call, instead of the tiers' own;
            `timeout` is in seconds per call of a tier. Calls may bring their own.
        max_retries: of a failed call, where the cascade is made here.
        api_key: of the tiers that are made here as `openai:…`.
        streaming: stream also where the whole answer is asked for.

    Raises:
        ConfigurationError: the cascade cannot be made.
    """

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    cascade: SkipValidation[Cascade] = Field(default=cast("Cascade", None), exclude=True)
    small: Any = None
    large: Any = None
    tiers: list[Any] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    timeout: float | None = None
    max_retries: int | None = None
    api_key: SecretStr | None = Field(
        default_factory=secret_from_env("OPENAI_API_KEY", default=None)
    )
    streaming: bool = False
    _instance: str = PrivateAttr(default_factory=lambda: uuid4().hex)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            wrong = (
                ": ".join(
                    [".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")]
                ).removeprefix(": ")
                for each in error.errors(include_input=False)
            )
            raise ConfigurationError("; ".join(wrong)) from error

    def model_post_init(self, context: Any, /) -> None:
        """Make the cascade, or remember how the given one was made."""
        super().model_post_init(context)
        given = cast("Cascade | None", self.cascade)
        if given is None:
            self.cascade = self._make()
        # What is kept, shown and written is the form without keys.
        recipe = dict(self._recipe() or {})
        made: dict[str, Any] = {name: recipe.pop(name, None) for name in ("small", "large")}
        made |= {"tiers": recipe.pop("tiers", []), "options": recipe}
        if given is not None:
            self._refuse_others_than(made)
        for name in _MADE:
            setattr(self, name, made[name])
        check_alone(self.cascade.task)
        self.cache = answer_cache(self.cache, self.cascade)

    def _refuse_others_than(self, made: Mapping[str, Any]) -> None:
        """Refuse options that a given cascade was not made with."""
        policy, doors = self.cascade.options["retry_policy"], self.cascade.doors
        retries = (doors.settings.attempts if policy is None else policy.max_attempts) - 1
        keys = [tier.settings.api_key for tier in self.cascade.tiers]
        brought = {name: getattr(self, name) for name in self.model_fields_set}
        others = [
            name
            for name, value in {**made, "max_retries": retries}.items()
            if brought.get(name) not in (None, [], {}, value)
        ]
        key = brought.get("api_key")
        if key is not None and key.get_secret_value() not in keys:
            others.append("api_key")
        if others:
            raise ConfigurationError(
                f"{', '.join(others)} cannot be given with a cascade, which is made already."
            )
        self.api_key = key

    def _make(self) -> Cascade:
        options = dict(check_options(self.options))
        if self.max_retries is not None:
            given = options.get("resilience", Resilience()) or OFF
            options["resilience"] = given.with_attempts(self.max_retries + 1)
            options["retry_policy"] = None
        key = self.api_key.get_secret_value() if self.api_key else None
        return Cascade(
            read_tier(self.small, key),
            read_tier(self.large, key),
            tiers=[read_tier(tier, key) for tier in self.tiers],
            **options,
        )

    def _recipe(self) -> dict[str, Any] | None:
        """How the cascade was made, but for what has a field of its own."""
        written_as_retries = () if self.max_retries is None else ("resilience",)
        return recipe_of(self.cascade, leave_out=written_as_retries)

    # --- asking

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: RunManager | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        events = self._events(messages, stop, run_manager, kwargs, streams=False)
        async with aclosing(events):
            *_, result = [event async for event in events]
        assert isinstance(result, CascadeResult), "it comes last"
        return ChatResult(generations=[ChatGeneration(message=answer_message(result))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: RunManager | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        shown = ""
        events = self._events(messages, stop, run_manager, kwargs, streams=True)
        async with aclosing(events):
            async for event in steady(events, _WAIT_FOR_ALL):
                if isinstance(event, Token):
                    shown += event.text
                    yield ChatGenerationChunk(message=AIMessageChunk(content=event.text))
                elif isinstance(event, CascadeResult):
                    yield ChatGenerationChunk(message=last_chunk(event, shown))

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

    async def _events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: RunManager | None,
        settings: Mapping[str, Any],
        *,
        streams: bool,
    ) -> AsyncGenerator[Event | CascadeResult]:
        """The events of a run of its own: to the graph around it this is one model call.

        Its decisions go to the `custom` stream of that graph, though.
        """
        own = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "timeout": self.timeout,
            "stop": stop if stop is not None else self.stop,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        local_only = given.pop(LOCAL_ONLY, False)
        cascade = self.cascade.with_task(call_task(self.cascade.task, {**own, **given}))
        tell = stream_writer()
        details = cascade.task.top_logprobs is not None
        config = inner_config(run_manager, streams=streams, local_only=local_only, details=details)
        # LangGraph takes two messages of one id for one message, and keeps the later.
        asked = [message.model_copy(update={"id": None}) for message in messages]
        person = surroundings(run_manager, cascade, asked[-1])
        async with aclosing(with_person(cascade, asked, config, person)) as events:
            async for event in events:
                if tell is not None and isinstance(event, Decided | Retracted):
                    tell(event)
                yield event

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

        Args:
            tools: whatever LangChain takes as a tool.
            tool_choice: `any` (or True), `auto`, `none`, the name of a tool, or OpenAI's dict.
            strict: have providers that can hold the arguments to their schema.
            kwargs: other settings of each call.

        Raises:
            ConfigurationError: a tool cannot be read, or there is none to be chosen.
        """
        read = read_tools(tools, strict=strict)
        if marks := marks_of(tools):  # OpenAI's format has no place for them
            kwargs[TOOL_RISKS] = {**marks, **kwargs.get(TOOL_RISKS, {})}
        if tool_choice is not None:
            kwargs["tool_choice"] = read_tool_choice(tool_choice, read)
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

        Args:
            schema: a pydantic model, a TypedDict or a JSON schema.
            include_raw: give `{"raw": message, "parsed": …, "parsing_error": …}`.
            method: `json_schema` holds the text of the answer to the schema, and keeps the free
                log-probs as signal; `function_calling` asks for a tool call; `json_mode` for any
                JSON object, so that the prompt has to say what is in it.
            strict: use OpenAI's strict form of the schema.

        Raises:
            ConfigurationError: the schema cannot be read, or the method is unknown.
        """
        if kwargs:
            raise ConfigurationError(f"with_structured_output has no {', '.join(sorted(kwargs))}.")
        if method not in get_args(Method):
            raise ConfigurationError(f"method={method!r}: there are {', '.join(get_args(Method))}.")
        described = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        if method == "function_calling":
            (tool,) = read_tools([schema], strict=strict)
            name = tool["function"]["name"]
            llm = self.bind_tools([tool], tool_choice=name, ls_structured_output_format=described)
            parser = tool_parser(schema, name)
        else:
            llm = self.bind(
                response_format=response_format(method, schema, strict=strict),
                ls_structured_output_format=described,
            )
            parser = text_parser(schema)
        return with_raw(llm, parser) if include_raw else llm | parser

    # --- what others want to know about it

    @property
    def _llm_type(self) -> str:
        return "cascade"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {
            "tiers": {tier.name: tier.model.name for tier in self.cascade.tiers},
            "policy": repr(self.cascade.policy),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "cascade"
        chain = " → ".join(tier.model.name for tier in self.cascade.tiers)
        params.setdefault("ls_model_name", chain)
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The key of LangChain's model cache beside the messages.

        Two cascades that cannot be written down look alike there, and must not share answers.
        """
        key = super()._get_llm_string(stop, **kwargs)
        if self._recipe() is not None:
            return key
        return f"{self._instance}---{dict(self._identifying_params)}---{key}"

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Fields that are written down as the name of an environment variable."""
        return {"api_key": "OPENAI_API_KEY"}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It is, where the cascade was made from model strings and plain values."""
        return True

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """The options that it was made with; without them where one has no place in JSON."""
        if self._recipe() is None:
            return self.to_json_not_implemented()
        written = super().to_json()
        if written["type"] == "constructor" and not self.tiers:
            written["kwargs"].pop("tiers", None)
        return written
