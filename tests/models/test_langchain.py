"""LangChain chat models as models of the cascade; those of real packages are tested beside."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

from cascade import errors
from cascade.models.langchain import LangChainModel
from cascade.state import Usage
from tests.models.asking import ask, ask_in_pieces, tokens

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {}}}
CALL = {"name": "weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}
PIECES = ('{"name": "', "weather", '", "arguments": {"city": "', "Paris", '"}}')
USAGE = {"input_tokens": 9, "output_tokens": 5, "total_tokens": 14}


class StrangerChat(BaseChatModel):
    """A chat model of an SDK that is not known here."""

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
        names = ("temperature", "num_predict", "logprobs", "top_logprobs")
        fields = {n: getattr(self, n) for n in names}
        self._calls.append({"messages": messages, "stop": stop, **fields, **kwargs})

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._remember(messages, stop, kwargs)
        if self.failure is not None:
            raise self.failure
        return ChatResult(generations=[ChatGeneration(message=self.answer)])

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
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

    base_url: str | None = None


async def test_everything_that_came_along_is_read() -> None:
    message = AIMessage(
        [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Paris"}],
        usage_metadata={
            **USAGE,  # type: ignore[typeddict-item]
            "input_token_details": {"cache_read": 4},
            "output_token_details": {"reasoning": 3},
        },
        response_metadata={"model_name": "served", "stop_reason": "end_turn"},
        tool_calls=[CALL],
    )
    read = await ask(LangChainModel(StrangerChat(answer=message)))
    assert (read.text, read.thinking, read.model) == ("Paris", "hm", "served")
    assert (read.finish_reason, read.tool_calls) == ("stop", (CALL,))
    assert read.usage == Usage(input_tokens=9, output_tokens=5, cached_tokens=4, reasoning_tokens=3)
    refused = AIMessage("", additional_kwargs={"refusal": "No."})
    assert (await ask(LangChainModel(StrangerChat(answer=refused)))).text == "No."


@pytest.mark.parametrize(
    "logprobs", [{"content": tokens(*PIECES)}, tokens(*PIECES)], ids=["openai", "ollama"]
)
async def test_logprobs_of_answer_and_calls_in_either_shape(logprobs: object) -> None:
    metadata: dict[str, Any] = {"response_metadata": {"logprobs": logprobs}}
    said = AIMessage("".join(PIECES), usage_metadata={**USAGE, "total_cost": 0}, **metadata)  # type: ignore[typeddict-item]
    answer = await ask(LangChainModel(StrangerChat(answer=said)), logprobs=True)
    assert [token.token for token in answer.logprobs or ()] == list(PIECES)
    assert answer.cached, "as LangChain's cache marks it"
    called = AIMessage("", tool_calls=[CALL], **metadata)
    answer = await ask(LangChainModel(StrangerChat(answer=called)), logprobs=True)
    assert [token.token for token in answer.call_logprobs or ()] == ["weather", "Paris"]


async def test_settings_become_fields_of_a_copy_or_go_with_the_call() -> None:
    chat = StrangerChat()
    settings: dict[str, Any] = {"temperature": 0.5, "seed": 3, "logprobs": True, "top_logprobs": 4}
    await ask(LangChainModel(chat), max_tokens=5, stop=("x",), extra={"user": "u"}, **settings)
    assert chat.temperature is None, "the user's own object is not changed"
    (call,) = chat._calls
    call.pop("messages")
    assert call == {**settings, "stop": ["x"], "num_predict": 5, "user": "u"}


@pytest.mark.parametrize(("choice", "bound"), [("weather", "weather"), ("required", "any")])
async def test_tools_are_bound(choice: str, bound: str) -> None:
    chat = StrangerChat()
    await ask(LangChainModel(chat), tools=(WEATHER,), tool_choice=choice, seed=1)
    (call,) = chat._calls
    assert (call["tools"], call["tool_choice"], call["seed"]) == ([WEATHER], bound, 1)


SCHEMA = {"type": "object"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [(BaseChatOpenAI, {"response_format": FORMAT}), (ChatOllama, {"format": SCHEMA})],
)
async def test_a_schema_is_a_parameter_where_there_is_one_and_an_instruction_elsewhere(
    kind: type[StrangerChat], parameter: dict[str, Any]
) -> None:
    chat, stranger = kind(), StrangerChat()
    for one in (chat, stranger):
        await ask(LangChainModel(one), schema=SCHEMA)
    (call,) = chat._calls
    assert parameter.items() <= call.items()
    assert len(call["messages"]) == 1
    instruction = stranger._calls[0]["messages"][0]
    assert isinstance(instruction, SystemMessage)
    assert '{"type": "object"}' in str(instruction.content)


def raised(name: str, **attributes: Any) -> Exception:
    """An exception of an SDK that is not known here."""
    error: Exception = type(name, (Exception,), attributes)("gone")
    return error


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


REFUSED = type("Response", (), {"status_code": 401})()
WAIT = type("Response", (), {"headers": {"retry-after": "3"}})()
SLOW = raised("StatusError", status_code=429, response=WAIT)
LOST = raised("APIConnectionError")
AWAY = because(raised("APIConnectionError"), raised("ConnectError"))
FAILURES: list[tuple[Exception, type[errors.ModelError], bool | None]] = [
    (SLOW, errors.RateLimitError, False),
    (raised("StatusError", response=REFUSED), errors.AuthenticationError, False),
    (raised("ClientError", code=429), errors.RateLimitError, False),  # of google.genai
    (raised("ReadTimeout"), errors.ModelTimeoutError, None),
    (NotImplementedError("no"), errors.UnsupportedContentError, False),
    (ConnectionRefusedError("no"), errors.ModelUnavailableError, False),
    (AWAY, errors.ModelUnavailableError, False),
    (LOST, errors.ModelUnavailableError, None),
    (KeyError("bug"), errors.ModelError, None),
    (errors.UnsupportedContentError("passed on", model="m"), errors.UnsupportedContentError, False),
]


@pytest.mark.parametrize(
    ("failure", "error", "billed"), FAILURES, ids=lambda case: getattr(case, "__name__", "")
)
async def test_failures_of_a_strange_sdk_are_named(
    failure: Exception, error: type[errors.ModelError], billed: bool | None
) -> None:
    with pytest.raises(error) as caught:
        await ask(LangChainModel(StrangerChat(failure=failure)))
    assert type(caught.value) is error
    assert caught.value.billed is billed
    assert caught.value.retry_after == (3 if failure is SLOW else None)


@pytest.mark.parametrize("failure", [ConnectionResetError("gone"), SLOW])
async def test_a_stream_that_breaks_is_interrupted(failure: Exception) -> None:
    chat = StrangerChat(pieces=[AIMessageChunk("Pa")], failure=failure)
    with pytest.raises(errors.StreamInterruptedError, match="gone"):
        await ask_in_pieces(LangChainModel(chat))


async def test_a_tool_call_that_cannot_be_read_is_malformed() -> None:
    broken = {"name": "f", "args": "{", "id": "1", "error": "bad JSON", "type": "invalid_tool_call"}
    message = AIMessage("", invalid_tool_calls=[broken])
    with pytest.raises(errors.MalformedResponseError, match="bad JSON"):
        await ask(LangChainModel(StrangerChat(answer=message)))


# Who it is, where it is, and how often it sends


class Described(StrangerChat):
    model_name: str = "models/gemini"


Described.__module__ = "langchain_google_genai.chat_models"


def test_the_name_says_whose_model_it_is() -> None:
    assert LangChainModel(Described()).name == "google_genai:gemini"
    stranger = LangChainModel(StrangerChat())
    assert (stranger.name, stranger.server) == ("strangerchat:StrangerChat", None)
    assert stranger.real
    assert LangChainModel(StrangerChat(), provider="a", model="b").name == "a:b"


def test_the_address_of_chat_ollama_is_known() -> None:
    model = LangChainModel(ChatOllama(base_url=None))
    assert (model.provider, model.server, model.local) == ("ollama", "http://127.0.0.1:11434", True)


class Retrying(StrangerChat):
    max_retries: int = 6
    client: Any = None

    @cached_property
    def remembered(self) -> int:
        return self.max_retries


class RetryingByItself(Retrying):
    """Its client was made with a number of retries that cannot be changed."""

    client: Any = "made with six retries"


def test_retries_are_switched_off_on_a_copy(caplog: pytest.LogCaptureFixture) -> None:
    chat = Retrying()
    assert chat.remembered == 6
    copy: Any = LangChainModel(chat).chat
    assert (chat.max_retries, copy.max_retries, copy.remembered) == (6, 0, 0)
    assert caplog.records == []


@pytest.mark.parametrize(("retries", "known"), [(6, False), (0, True)])
async def test_usage_is_unknown_where_requests_may_have_been_sent_again(
    retries: int, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    message = AIMessage("Paris", usage_metadata=USAGE)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "cascade"):
        model = LangChainModel(RetryingByItself(max_retries=retries, answer=message))
    assert (await ask(model)).usage.known is known
    assert ("max_retries=0" in caplog.text) is not known
