"""Row 2: drafts by Ollama, OpenAI-compatible servers, llama.cpp in process, LangChain models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from cascade import Cascade, CascadeError, ConfigurationError, ModelError, Price, Tier
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    ModelUnavailableError,
    RateLimitError,
    UnknownProviderError,
)
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Upstream, failure

QUESTION = "What is the capital of Australia?"
PROVIDERS = ["openai", "ollama"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_sure_draft_of_a_server_is_the_answer(upstream: Upstream, provider: str) -> None:
    upstream.says("small", "Canberra", p=0.97)
    small = upstream.tier("small", provider=provider)
    with Cascade(small, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.tier, result.escalated) == ("Canberra", "small", False)
    assert result.confidence == pytest.approx(0.97)
    assert upstream.models() == ["small"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_doubtful_draft_of_a_server_goes_to_the_large_model(
    upstream: Upstream, provider: str
) -> None:
    upstream.says("small", "Sydney", p=0.4)
    upstream.says("large", "Canberra")
    small = upstream.tier("small", provider=provider)
    with Cascade(small, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.tier, result.escalated) == ("Canberra", "large", True)
    assert upstream.models() == ["small", "large"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_usage_is_what_the_server_counted(upstream: Upstream, provider: str) -> None:
    upstream.says("small", Answer("Canberra", tokens=(17, 3)))
    small = upstream.tier("small", provider=provider, price=Price(input=1, output=10))
    with Cascade(small, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    usage = result.message.usage_metadata
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"]) == (17, 3)
    (draft,) = [entry for entry in edition.entries_of(result) if entry.node == "draft"]
    assert (draft.input_tokens, draft.output_tokens) == (17, 3)
    assert str(draft.cost_usd) == "0.000047"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_settings_of_a_tier_reach_its_server(upstream: Upstream, provider: str) -> None:
    small = upstream.tier("small", provider=provider, temperature=0, max_tokens=7)
    with Cascade(small, upstream.tier("large")) as cascade:
        cascade.invoke([("system", "Be short."), ("human", QUESTION)])
    (seen,) = upstream.asked("small")
    assert seen.texts == ["Be short.", QUESTION]
    sent = seen.body["options"] if provider == "ollama" else seen.body
    assert sent["temperature"] == 0
    assert 7 in (sent.get("num_predict"), sent.get("max_tokens"), sent.get("max_completion_tokens"))


def test_a_key_goes_to_its_server_and_is_shown_nowhere(upstream: Upstream) -> None:
    tier = upstream.tier("small", api_key="sk-of-the-tests")
    with Cascade(tier, upstream.tier("large")) as cascade:
        cascade.invoke(QUESTION)
        shown = f"{tier!r} {cascade!r} {cascade.tiers!r}"
    assert upstream.asked("small")[0].headers["authorization"] == "Bearer sk-of-the-tests"
    assert "sk-of-the-tests" not in shown


@pytest.mark.parametrize("provider", PROVIDERS)
def test_thinking_is_no_part_of_an_answer_nor_of_its_confidence(
    upstream: Upstream, provider: str
) -> None:
    upstream.says("small", Answer("Canberra", p=0.97, thinking="Sydney? No."))
    with Cascade(upstream.tier("small", provider=provider), upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.confidence) == ("Canberra", pytest.approx(0.97))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (failure(401, "wrong key"), AuthenticationError),
        (failure(404, "model 'small' not found"), ModelNotFoundError),
        (failure(400, "temperature must be a number"), BadRequestError),
        (failure(429, "slow down"), RateLimitError),
        (failure(503, "loading"), ModelUnavailableError),
        (Answer("x", broken_after=0), ModelUnavailableError),
    ],
)
def test_each_failure_of_a_server_has_an_error_of_its_own(
    upstream: Upstream, provider: str, refusal: Answer, error: type[ModelError]
) -> None:
    upstream.says("only", refusal)
    tier = upstream.tier("only", provider=provider)
    with (
        edition.cascade(tiers=[tier], retries=1) as cascade,
        pytest.raises(error) as raised,
    ):
        cascade.invoke(QUESTION)
    assert raised.value.model == f"{provider}:only"
    assert edition.calls_of(raised.value) == [("expert", "failed")]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_body_that_cannot_be_read_is_an_error_of_unknown_cost(
    upstream: Upstream, provider: str
) -> None:
    upstream.says("only", Answer(raw="<html>"))
    tier = upstream.tier("only", provider=provider, price=Price(input=1, output=1))
    with edition.cascade(tiers=[tier], retries=1) as cascade, pytest.raises(ModelError) as raised:
        cascade.invoke(QUESTION)
    assert isinstance(raised.value, MalformedResponseError)
    assert raised.value.ledger is not None
    assert raised.value.ledger.cost_usd is None


def test_a_server_without_usage_leaves_the_cost_unknown(upstream: Upstream) -> None:
    upstream.says("small", Answer("Canberra", tokens=()))
    small = upstream.tier("small", price=Price(input=1, output=1))
    with Cascade(small, upstream.tier("large")) as cascade:
        ledger = cascade.invoke(QUESTION).ledger
    assert (ledger.cost_usd, ledger.cost_basis) == (None, "unknown")


def test_the_embedded_model_drafts_in_this_process(upstream: Upstream) -> None:
    pytest.importorskip("xllamacpp")
    small = Tier("llamacpp:smollm2-135m", max_tokens=8, temperature=0)
    large = upstream.tier("large")
    with edition.cascade(small, large, threshold=0) as cascade:
        first, second = (cascade.invoke("The capital of France is") for _ in range(2))
    assert first.tier == "small"
    assert first.answer == second.answer != ""
    assert 0 < (first.confidence or 0) < 1
    assert upstream.seen == []
    (draft,) = [entry for entry in edition.entries_of(first) if entry.node == "draft"]
    assert 0 < (draft.output_tokens or 0) <= 8


class Said(BaseChatModel):
    """A chat model as anybody may write one."""

    text: str = "Canberra"
    heard: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "said"

    def _generate(self, messages: list[BaseMessage], *given: Any, **more: Any) -> ChatResult:
        del given, more
        self.heard.append(messages)
        usage = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
        message = AIMessage("True" if len(messages) > 1 else self.text, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


def test_any_langchain_chat_model_drafts(upstream: Upstream) -> None:
    model = Said()
    small = Tier(model, price=Price(input=1, output=1))
    with Cascade(small, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.tier, result.calibrated) == ("Canberra", "small", False)
    assert model.heard[0][-1].text == QUESTION
    costs = {e.node: str(e.cost_usd) for e in edition.entries_of(result) if e.model}
    assert costs == {"draft": "0.000011", "self_check": "0.000011"}


def test_any_langchain_chat_model_is_the_large_one(upstream: Upstream) -> None:
    upstream.says("small", "Sydney", p=0.3)
    with Cascade(upstream.tier("small"), FakeListChatModel(responses=["Canberra"])) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.tier) == ("Canberra", "large")


def test_an_openai_model_of_langchains_is_a_tier(upstream: Upstream) -> None:
    openai = pytest.importorskip("langchain_openai")
    upstream.says("small", "Canberra", p=0.97)
    model = openai.ChatOpenAI(model="small", base_url=upstream.openai_url, api_key="k")
    with Cascade(model, upstream.tier("large")) as cascade:
        assert cascade.invoke(QUESTION).answer == "Canberra"


def test_recorded_answers_are_a_model(tmp_path: Any, upstream: Upstream) -> None:
    """`replay:` answers what was recorded, and says so where nothing was."""
    upstream.says("small", "Canberra", p=0.9)
    path, where = tmp_path / "answers.jsonl", {"base_url": upstream.openai_url, "api_key": "k"}
    recorded, large = edition.recorder("openai:small", path, **where), upstream.tier("large")
    with Cascade(recorded, large) as cascade:
        cascade.invoke(QUESTION)
    with Cascade(f"replay:{path}", large) as cascade:
        result = cascade.invoke(QUESTION)
        with pytest.raises(CascadeError):
            Cascade(tiers=[f"replay:{path}"]).invoke("Something else?")
    assert (result.answer, result.confidence) == ("Canberra", pytest.approx(0.9))
    assert upstream.models() == ["small"]


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("nobody:model", UnknownProviderError, "nobody"),
        ("qwen2.5", ConfigurationError, "provider:name"),
        ("llamacpp:/no/such/file.gguf", CascadeError, "/no/such/file.gguf"),
        ("openai:gpt-5.1", ConfigurationError, "OPENAI_API_KEY"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_when_the_cascade_is_made(
    spec: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said.replace(".", r"\.")):
        Cascade(spec, FakeListChatModel(responses=["x"]))


def test_nothing_is_sent_before_a_question(upstream: Upstream) -> None:
    with Cascade(upstream.tier("small"), upstream.tier("large", provider="ollama")):
        pass
    assert json.dumps([seen.body for seen in upstream.seen]) == "[]"
