"""LangChain chat models as models of the cascade."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    MalformedResponseError,
    ModelError,
    ModelTimeoutError,
    ModelUnavailableError,
    RateLimitError,
    StreamInterruptedError,
    UnsupportedContentError,
)
from cascade.models import open_model
from cascade.models.langchain import LangChainModel
from cascade.state import TokenLogprob, Usage
from tests.models.asking import ask, ask_in_pieces

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALL = {"name": "weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}


class StrangerChat(BaseChatModel):
    """A chat model of an SDK that nobody here knows."""

    temperature: float | None = None
    num_predict: int | None = None
    top_logprobs: int | None = None
    logprobs: bool | None = None
    answer: Any = AIMessage("Paris")
    failure: Any = None
    pieces: Sequence[AIMessageChunk] = ()
    _calls: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "stranger"

    def _remember(self, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> None:
        fields = {n: getattr(self, n) for n in ("temperature", "num_predict", "top_logprobs")}
        self._calls.append({"messages": messages, "stop": stop, **fields, **kwargs})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self._remember(messages, stop, kwargs)
        if self.failure is not None:
            raise self.failure
        return ChatResult(generations=[ChatGeneration(message=self.answer)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self._remember(messages, stop, kwargs)
        for piece in self.pieces:
            yield ChatGenerationChunk(message=piece)
        if self.failure is not None:
            raise self.failure

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **_: Any) -> Runnable[Any, Any]:
        return self.bind(tools=tools, tool_choice=tool_choice)


class BaseChatOpenAI(StrangerChat):
    """The name by which OpenAI-like chat models are told."""


class ChatOllama(StrangerChat):
    """The name by which Ollama's chat model is told."""


async def test_a_fake_of_langchain_answers_and_is_not_real() -> None:
    model = open_model(FakeListChatModel(responses=["Paris"]))
    answer = await ask(model)
    assert answer.text == "Paris"
    assert answer.usage == Usage()
    assert answer.latency_ms > 0
    assert not model.real
    assert not model.returns_logprobs


async def test_a_stream() -> None:
    chat = GenericFakeChatModel(messages=iter([AIMessage("the city of Paris")]))
    pieces, answer = await ask_in_pieces(open_model(chat))
    assert "".join(pieces) == "the city of Paris"
    assert len(pieces) > 1
    assert answer is not None
    assert answer.text == "the city of Paris"


@pytest.mark.parametrize(
    ("details", "written"),
    [
        ({"cache_read": 4, "cache_creation": 100}, 100),
        # langchain-anthropic: by how long they are kept, so that nothing is counted twice
        (
            {
                "cache_read": 4,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 70,
                "ephemeral_1h_input_tokens": 30,
            },
            100,
        ),
        ({"cache_read": 4, "cache_creation": 0}, 0),
        ({"cache_read": 4}, None),
    ],
)
async def test_tokens_written_to_the_cache_are_read(
    details: dict[str, int], written: int | None
) -> None:
    message = AIMessage(
        "Paris",
        usage_metadata={
            "input_tokens": 900,
            "output_tokens": 5,
            "total_tokens": 905,
            "input_token_details": details,  # type: ignore[typeddict-item]
        },
    )
    answer = await ask(LangChainModel(StrangerChat(answer=message)))
    assert (answer.usage.cached_tokens, answer.usage.cache_write_tokens) == (4, written)


async def test_everything_that_came_along_is_read() -> None:
    message = AIMessage(
        [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Paris"}],
        usage_metadata={
            "input_tokens": 9,
            "output_tokens": 5,
            "total_tokens": 14,
            "input_token_details": {"cache_read": 4},
            "output_token_details": {"reasoning": 3},
        },
        response_metadata={"model_name": "served", "stop_reason": "end_turn"},
        tool_calls=[CALL],
    )
    model = LangChainModel(StrangerChat(answer=message))
    answer = await ask(model)
    assert (answer.text, answer.thinking) == ("Paris", "hm")
    assert answer.model == "served"
    assert answer.finish_reason == "stop"
    assert answer.tool_calls == (CALL,)
    assert answer.usage == Usage(
        input_tokens=9, output_tokens=5, cached_tokens=4, reasoning_tokens=3
    )


@pytest.mark.parametrize(
    "logprobs",
    [{"content": [{"token": "Paris", "logprob": -0.5}]}, [{"token": "Paris", "logprob": -0.5}]],
    ids=["openai", "ollama"],
)
async def test_logprobs_in_either_shape(logprobs: object) -> None:
    message = AIMessage("Paris", response_metadata={"logprobs": logprobs})
    model = LangChainModel(StrangerChat(answer=message, logprobs=True))
    assert model.returns_logprobs
    assert (await ask(model, logprobs=True)).logprobs == (TokenLogprob("Paris", -0.5),)


async def test_settings_become_fields_of_the_model_or_go_with_the_call() -> None:
    chat = StrangerChat(logprobs=True)
    await ask(
        LangChainModel(chat),
        max_tokens=5,
        temperature=0.5,
        seed=3,
        stop=("x",),
        logprobs=True,
        top_logprobs=4,
        extra={"user": "u"},
    )
    assert chat.temperature is None, "the user's own object is not changed"
    (call,) = chat._calls
    call.pop("messages")
    assert call == {
        "stop": ["x"],
        "temperature": 0.5,
        "num_predict": 5,
        "top_logprobs": 4,
        "seed": 3,
        "user": "u",
    }


async def test_tools_are_bound() -> None:
    chat = StrangerChat()
    await ask(LangChainModel(chat), tools=(WEATHER,), tool_choice="weather", seed=1)
    (call,) = chat._calls
    assert call["tools"] == [WEATHER]
    assert call["tool_choice"] == "weather"
    assert call["seed"] == 1


async def test_tools_for_a_model_without() -> None:
    with pytest.raises(UnsupportedContentError, match="cannot use tools"):
        await ask(open_model(FakeListChatModel(responses=["x"])), tools=(WEATHER,))


SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [
        (
            BaseChatOpenAI,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA},
                }
            },
        ),
        (ChatOllama, {"format": SCHEMA}),
    ],
)
async def test_a_schema_where_the_model_has_a_parameter_for_it(
    kind: type[StrangerChat], parameter: dict[str, Any]
) -> None:
    chat = kind()
    await ask(LangChainModel(chat), schema=SCHEMA)
    (call,) = chat._calls
    assert parameter.items() <= call.items()
    assert len(call["messages"]) == 1


async def test_a_schema_as_an_instruction_elsewhere() -> None:
    chat = StrangerChat()
    await ask(LangChainModel(chat), schema=SCHEMA)
    instruction = chat._calls[0]["messages"][0]
    assert isinstance(instruction, SystemMessage)
    assert '{"type": "object"}' in str(instruction.content)


class StatusError(Exception):
    status_code = 429
    response = type("Response", (), {"headers": {"retry-after": "3"}})()


class NestedStatusError(Exception):
    response = type("Response", (), {"status_code": 401})()


class GoogleResourceExhausted(Exception):  # noqa: N818
    pass


class ReadTimeout(Exception):  # noqa: N818
    pass


FAILURES: list[tuple[Exception, type[ModelError], bool | None]] = [
    (StatusError("slow"), RateLimitError, False),
    (NestedStatusError("key"), AuthenticationError, False),
    (GoogleResourceExhausted("quota"), RateLimitError, False),
    (type("BadRequestError", (Exception,), {})("bad"), BadRequestError, False),
    (ReadTimeout(), ModelTimeoutError, None),
    (TimeoutError("slow"), ModelTimeoutError, None),
    (ConnectionRefusedError("no"), ModelUnavailableError, False),
    (KeyError("bug"), ModelError, None),
    (UnsupportedContentError("passed on", model="m"), UnsupportedContentError, False),
]


@pytest.mark.parametrize(
    ("failure", "error", "billed"), FAILURES, ids=lambda case: getattr(case, "__name__", "")
)
async def test_failures_of_a_strange_sdk_are_named(
    failure: Exception, error: type[ModelError], billed: bool | None
) -> None:
    with pytest.raises(error) as caught:
        await ask(LangChainModel(StrangerChat(failure=failure)))
    assert type(caught.value) is error
    assert caught.value.billed is billed
    assert caught.value.retryable is error.retryable


async def test_the_time_to_wait_is_read() -> None:
    with pytest.raises(RateLimitError) as caught:
        await ask(LangChainModel(StrangerChat(failure=StatusError("slow"))))
    assert caught.value.retry_after == 3


async def test_a_stream_that_breaks() -> None:
    chat = StrangerChat(pieces=[AIMessageChunk("Pa")], failure=ConnectionResetError("gone"))
    with pytest.raises(StreamInterruptedError, match="gone"):
        await ask_in_pieces(LangChainModel(chat))


async def test_a_stream_without_any_piece() -> None:
    with pytest.raises(ModelError) as caught:
        await ask_in_pieces(LangChainModel(StrangerChat()))
    assert caught.value.billed is None


async def test_a_stream_of_pieces_without_text() -> None:
    chat = StrangerChat(pieces=[AIMessageChunk(""), AIMessageChunk("Paris")])
    pieces, answer = await ask_in_pieces(LangChainModel(chat))
    assert pieces == ["Paris"]
    assert answer is not None
    assert answer.text == "Paris"


async def test_a_tool_call_that_cannot_be_read() -> None:
    broken = {"name": "f", "args": "{", "id": "1", "error": "bad JSON", "type": "invalid_tool_call"}
    message = AIMessage("", invalid_tool_calls=[broken])
    with pytest.raises(MalformedResponseError, match="bad JSON"):
        await ask(LangChainModel(StrangerChat(answer=message)))


def test_the_name_says_whose_model_it_is() -> None:
    class Described(StrangerChat):
        def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
            return {"ls_provider": "anthropic", "ls_model_name": "claude"}

    assert LangChainModel(Described()).name == "anthropic:claude"
    assert LangChainModel(StrangerChat()).real
    assert LangChainModel(StrangerChat(), provider="a", model="b").name == "a:b"
