"""Row 2: drafts by Ollama, OpenAI-compatible servers, llama.cpp in process, LangChain models."""

from __future__ import annotations

import pytest

from cascade import Cascade, ModelError, Price, Tier
from cascade.errors import (
    AuthenticationError,
    BadRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    ModelUnavailableError,
    RateLimitError,
)
from tests.acceptance.setups import entries_of, tries
from tests.acceptance.upstream import Answer, Upstream, failure

QUESTION = "What is the capital of Australia?"
PRICE = Price(input=1, output=10)
each_provider = pytest.mark.parametrize("provider", ["openai", "ollama"])


@each_provider
@pytest.mark.parametrize(("p", "tier"), [(0.97, "small"), (0.4, "large")])
def test_a_server_drafts_and_says_how_sure_it_is(
    upstream: Upstream, provider: str, p: float, tier: str
) -> None:
    upstream.says("small", Answer("Canberra", p=p, tokens=(17, 3)))
    small = upstream.tier("small", provider=provider, price=PRICE)
    with Cascade(small, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, result.escalated) == (tier, tier == "large")
    assert result.confidence == pytest.approx(p)
    assert upstream.models() == ["small", "large"][: 1 + result.escalated]
    (draft,) = [entry for entry in entries_of(result) if entry.node == "draft"]
    assert (draft.input_tokens, draft.output_tokens, str(draft.cost_usd)) == (17, 3, "0.000047")


@each_provider
def test_settings_of_a_tier_reach_its_server(upstream: Upstream, provider: str) -> None:
    small = upstream.tier("small", provider=provider, temperature=0, max_tokens=7)
    with Cascade(small, upstream.tier("large")) as cascade:
        cascade.invoke([("system", "Be short."), ("human", QUESTION)])
    (seen,) = upstream.asked("small")
    sent = seen.body["options"] if provider == "ollama" else seen.body
    assert (seen.texts, sent["temperature"]) == (["Be short.", QUESTION], 0)
    assert 7 in (sent.get("num_predict"), sent.get("max_tokens"), sent.get("max_completion_tokens"))


def test_a_key_goes_to_its_server_and_is_shown_nowhere(upstream: Upstream) -> None:
    tier = upstream.tier("small", api_key="sk-of-the-tests")
    with Cascade(tier, upstream.tier("large")) as cascade:
        cascade.invoke(QUESTION)
        assert "sk-of-the-tests" not in f"{tier!r} {cascade!r} {cascade.tiers!r}"
    assert upstream.asked("small")[0].headers["authorization"] == "Bearer sk-of-the-tests"


@each_provider
def test_thinking_is_no_part_of_an_answer_nor_of_its_confidence(
    upstream: Upstream, provider: str
) -> None:
    upstream.says("small", Answer("Canberra", p=0.97, thinking="Sydney? No."))
    with Cascade(upstream.tier("small", provider=provider), upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.confidence) == ("Canberra", pytest.approx(0.97))


@each_provider
@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (failure(401, "wrong key"), AuthenticationError),
        (failure(404, "model 'only' not found"), ModelNotFoundError),
        (failure(400, "temperature must be a number"), BadRequestError),
        (failure(429, "slow down"), RateLimitError),
        (failure(503, "loading"), ModelUnavailableError),
        (Answer(broken_after=0), ModelUnavailableError),
        (Answer(raw="<html>"), MalformedResponseError),
    ],
)
def test_each_failure_of_a_server_has_an_error_of_its_own(
    upstream: Upstream, provider: str, refusal: Answer, error: type[ModelError]
) -> None:
    upstream.says("only", refusal)
    tiers = [upstream.tier("only", provider=provider, price=PRICE)]
    with Cascade(tiers=tiers, middleware=[tries(1)]) as cascade, pytest.raises(error) as raised:
        cascade.invoke(QUESTION)
    assert raised.value.model == f"{provider}:only"
    (entry,) = entries_of(raised.value)
    known = error in (AuthenticationError, ModelNotFoundError, BadRequestError, RateLimitError)
    assert (entry.outcome, entry.cost_usd == 0) == ("failed", known)


def test_the_embedded_model_drafts_in_this_process(upstream: Upstream) -> None:
    pytest.importorskip("xllamacpp")
    small = Tier("llamacpp:smollm2-135m", max_tokens=8, temperature=0)
    with Cascade(small, upstream.tier("large"), threshold=0) as cascade:
        first, second = (cascade.invoke("The capital of France is") for _ in range(2))
    assert first.answer == second.answer != ""
    assert (first.tier, upstream.seen) == ("small", [])
    assert 0 < (first.confidence or 0) < 1
    (draft,) = [entry for entry in entries_of(first) if entry.node == "draft"]
    assert 0 < (draft.output_tokens or 0) <= 8


def test_any_langchain_chat_model_drafts(upstream: Upstream) -> None:
    upstream.says("chat", lambda seen: Answer("True" if seen.is_check else "Canberra", p=None))
    chat = Tier(upstream.chat("chat"), price=PRICE)
    with Cascade(chat, upstream.tier("large")) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.answer, result.tier, result.calibrated) == ("Canberra", "small", False)
    paid = [entry.node for entry in entries_of(result) if entry.cost_usd]
    assert paid == ["draft", "self_check"]
