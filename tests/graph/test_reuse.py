"""Escalations that reuse the draft: the large model approves it in a word, or corrects it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import RetryPolicy

from cascade import Cascade, Price, Tier
from cascade.agents.reusing import Review
from cascade.collect import collect
from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.evaluation import TranscriptWriter
from cascade.evaluation.scorers import get_scorer
from cascade.events import Decided, Token
from cascade.ledger.runs import runs_of
from cascade.models import Request
from cascade.policies.reuse import Reuse, is_cheaper
from cascade.result import CascadeResult
from cascade.state import Completion, Draft, Usage
from cascade.testing import ScriptedModel, reply

LONG = "Canberra is the capital of Australia, and " + "so on and " * 60 + "so forth."
DRAFT = reply(LONG, probability=0.3)
PRICES = {"small": Price(input=1, output=2), "large": Price(input=10, output=40)}


def approves(request: Request) -> Completion:
    """A large model that lets every draft stand that it is shown."""
    question = request.messages[:-1]
    word = Review.of(Draft("small", DRAFT), question).word
    assert word in request.messages[-1].text
    return reply(word, input_tokens=400, output_tokens=6)


def corrects(request: Request) -> Completion:
    return reply("It is Canberra.", input_tokens=400, output_tokens=90)


def made(large: Callable[[Request], Any], **options: Any) -> tuple[Cascade, ScriptedModel]:
    model = ScriptedModel(large)
    small = Tier(ScriptedModel([DRAFT]), price=PRICES["small"])
    given = {"reuse": "correct", **options}
    return Cascade(small, Tier(model, price=PRICES["large"]), **given), model


async def test_an_approved_draft_is_the_large_models_answer() -> None:
    cascade, large = made(approves)
    result = await cascade.ainvoke("Capital of Australia?")
    assert result.answer == LONG
    assert (result.tier, result.escalated, result.degraded) == ("large", True, False)
    assert result.decision.action == "escalate"
    assert result.decision.reason.endswith("large approved the draft")
    assert len(large.requests) == 1
    assert result.message.response_metadata["tier"] == "large"
    assert result.message.usage_metadata is not None
    assert result.message.usage_metadata["output_tokens"] == 6


async def test_a_corrected_draft_is_the_large_models_own_text() -> None:
    cascade, _ = made(corrects)
    result = await cascade.ainvoke("Capital of Australia?")
    assert (result.answer, result.tier) == ("It is Canberra.", "large")
    assert result.decision.reason.endswith("large corrected the draft")


async def test_an_approval_saves_what_was_not_written_by_an_estimate() -> None:
    cascade, _ = made(approves)
    result = await cascade.ainvoke("Capital of Australia?")
    review = next(e for e in result.ledger if e.node == "review")
    cost = (400 * Decimal(10) + 6 * Decimal(40)) / 1_000_000
    assert review.cost_usd == cost
    assert review.saved_usd is not None
    assert review.baseline_usd is not None
    assert review.baseline_usd > cost, "130 words at $40 are dearer than reading them"
    assert review.saved_usd == review.baseline_usd - cost
    assert review.basis == "estimated"
    assert result.ledger.baseline_usd == review.baseline_usd
    assert result.ledger.saved_basis == "estimated"
    assert result.ledger.cost_basis == "measured"
    nodes = [entry.node for entry in result.ledger]
    assert nodes == ["draft", "self_check", "verify", "review"]
    by_node = result.ledger.by_node()
    assert result.ledger.saved_usd == sum(
        (total.saved_usd or Decimal(0) for total in by_node.values()), Decimal(0)
    )


async def test_the_approval_is_never_its_own_baseline() -> None:
    """Were it, reading drafts would look free, and a question whose answer is short a gain."""
    short = reply("Canberra", probability=0.3)
    large = ScriptedModel(
        lambda request: reply(
            Review.of(Draft("small", short), request.messages[:-1]).word,
            input_tokens=400,
            output_tokens=6,
        )
    )
    small = Tier(ScriptedModel([short]), price=PRICES["small"])
    result = await Cascade(small, Tier(large, price=PRICES["large"]), reuse="correct").ainvoke("?")
    review = next(e for e in result.ledger if e.node == "review")
    assert result.answer == "Canberra"
    assert review.saved_usd is not None
    assert review.saved_usd < 0


async def test_a_ledger_tells_a_reviewed_run_as_escalated_and_claims_no_measurement() -> None:
    cascade, _ = made(approves)
    result = await cascade.ainvoke("?")
    (run,) = runs_of((entry, {}) for entry in result.ledger).values()
    assert run.outcome == "escalated"
    assert run.large_usd is None, "what the large model alone costs was not measured"


async def events_of(cascade: Cascade) -> list[Any]:
    return [event async for event in cascade.astream("?")]


async def test_a_stream_shows_an_approved_draft_and_never_the_word() -> None:
    cascade, _ = made(approves)
    events = await events_of(cascade)
    assert [type(event) for event in events] == [Decided, Token, CascadeResult]
    assert events[1] == Token(LONG, "large")


async def test_a_stream_shows_a_correction_as_it_arrives() -> None:
    cascade, _ = made(corrects)
    tokens = [event for event in await events_of(cascade) if isinstance(event, Token)]
    assert len(tokens) == 3
    assert "".join(token.text for token in tokens) == "It is Canberra."


async def test_a_large_model_that_is_down_leaves_the_draft_as_ever() -> None:
    def fails(request: Request) -> Exception:
        return ModelUnavailableError("down", model="large")

    cascade, _ = made(fails, retry_policy=RetryPolicy(max_attempts=1))
    result = await cascade.ainvoke("?")
    assert (result.answer, result.degraded) == (LONG, True)
    calls = [(e.node, e.outcome) for e in result.ledger if e.model]
    assert calls[-1] == ("review", "failed")
    (run,) = runs_of((entry, {}) for entry in result.ledger).values()
    assert run.outcome == "degraded"


async def test_a_draft_that_is_ruled_out_is_not_shown() -> None:
    def anew(request: Request) -> Completion:
        assert request.messages[-1].text == "?"
        return reply("the large answer")

    small = ScriptedModel([reply("", probability=0.9)])
    result = await Cascade(small, ScriptedModel(anew), reuse="correct").ainvoke("?")
    assert result.answer == "the large answer"
    assert [e.node for e in result.ledger][-1] == "expert"


async def test_the_draft_of_an_earlier_question_is_not_shown() -> None:
    def large(request: Request) -> Completion:
        if request.messages[-1].text == "straight":
            return reply("the large answer")
        return corrects(request)

    def route(messages: Sequence[BaseMessage]) -> str | None:
        return "large" if messages[-1].text == "straight" else None

    cascade, model = made(large, router=route)
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke({"messages": [HumanMessage("drafted?")]}, config)
    state = await graph.ainvoke({"messages": [HumanMessage("straight")]}, config)
    assert state["messages"][-1].text == "the large answer"
    assert len(model.requests) == 2


async def test_answers_that_keep_to_a_schema_are_written_anew() -> None:
    def anew(request: Request) -> Completion:
        assert request.messages[-1].text == "?"
        return reply('{"city": "Canberra"}')

    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    small = ScriptedModel([reply('{"city": "Sydney"}', probability=0.3)])
    result = await Cascade(
        small, ScriptedModel(anew), reuse="correct", response_format=schema
    ).ainvoke("?")
    assert result.parsed == {"city": "Canberra"}


async def test_a_hedge_that_is_under_way_is_taken_instead() -> None:
    """It is paid for, and was asked before there was a draft."""

    def anew(request: Request) -> Completion:
        assert request.messages[-1].text == "?"
        return reply("the large answer")

    small = ScriptedModel([DRAFT], delay_s=0.3)
    large = ScriptedModel(anew, delay_s=0.5)
    cascade = Cascade(small, large, reuse="correct", deadline=3600, hedge=3599.9)
    result = await cascade.ainvoke("?")
    assert result.answer == "the large answer"
    assert len(large.requests) == 1


async def test_examples_are_not_collected_with_drafts_before_the_large_models_eyes(
    tmp_path: Path,
) -> None:
    large = ScriptedModel(corrects, name="large")
    cascade = Cascade(ScriptedModel([DRAFT]), large, reuse="correct")
    with (
        TranscriptWriter(tmp_path / "out.jsonl") as writer,
        pytest.raises(ConfigurationError, match="without reuse="),
    ):
        await collect([], cascade, get_scorer("exact"), writer)


def evidence(**changed: Any) -> Reuse:
    given: dict[str, Any] = {
        "small": "scripted:scripted",
        "large": "scripted:scripted",
        "n": 100,
        "approval_rate": 0.7,
        "quality": (0.0, -0.01, 0.01),
        "cost": (-0.4, -0.5, -0.3),
    }
    return Reuse(**{**given, **changed})


async def test_a_comparison_in_a_file_shows_the_drafts_that_are_cheaper_to_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "reuse.json"
    evidence().save(path)
    cascade, _ = made(approves, reuse=path)
    assert (await cascade.ainvoke("?")).answer == LONG
    cascade, large = made(corrects, reuse=str(path))
    small = Tier(ScriptedModel([reply("Canberra", probability=0.3)]), price=PRICES["small"])
    cascade = Cascade(small, Tier(large, price=PRICES["large"]), reuse=str(path))
    result = await cascade.ainvoke("?")
    assert [e.node for e in result.ledger][-1] == "expert", "one word is cheaper written"


async def test_a_comparison_that_shows_no_gain_shows_no_draft() -> None:
    cascade, _ = made(corrects, reuse=evidence(cost=(-0.1, -0.3, 0.1)))
    result = await cascade.ainvoke("?")
    assert [e.node for e in result.ledger][-1] == "expert"
    assert "not shown to pay" in evidence(cost=(-0.1, -0.3, 0.1)).verdict


async def test_a_review_of_unknown_usage_is_of_unknown_saving() -> None:
    def silent(request: Request) -> Completion:
        answer = approves(request)
        return Completion(answer.text, answer.model, Usage())

    cascade, _ = made(silent)
    result = await cascade.ainvoke("?")
    assert result.answer == LONG
    assert (result.ledger.cost_usd, result.ledger.saved_usd) == (None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("auto", "needs evidence"),
        ("no-such-file.json", "cannot be read"),
        (0.5, "give 'correct'"),
        (evidence(large="openai:gpt-5.1"), "Compare again"),
        (evidence(version=99), "instruction 99"),
    ],
)
def test_what_is_no_evidence_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        made(corrects, reuse=given)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match="is no comparison"):
        made(corrects, reuse=path)


@pytest.mark.parametrize(
    ("approval", "prompt", "draft", "large", "cheaper"),
    [
        (1.0, 1000, 400, 400, True),
        (0.5, 1000, 400, 400, True),
        (0.0, 1000, 400, 400, False),
        (1.0, 1000, 20, 20, False),  # reading it and the instruction costs more than 20 tokens
        (0.3, 100, 400, 400, False),
        (1.0, 0, 1, 1, False),
    ],
)
def test_when_reading_a_draft_is_cheaper_than_writing(
    approval: float, prompt: int, draft: int, large: int, cheaper: bool
) -> None:

    def cost(used: Usage) -> float:
        return (used.input_tokens or 0) * 10 + (used.output_tokens or 0) * 40

    assert is_cheaper(approval, prompt, draft, large, cost) is cheaper
    assert is_cheaper(approval, prompt, draft, large, lambda used: None) is None


def taking(seconds: float, answers: Callable[[Request], Completion], **said: Any) -> Any:
    """An answer that took so long."""
    return lambda request: replace(answers(request), latency_ms=seconds * 1000, **said)


def test_a_word_of_approval_does_not_make_the_large_model_look_quick() -> None:
    """A deadline and a hedge go by how long an answer takes that may have to be written anew."""
    script = [taking(0.5, approves), taking(3, corrects), taking(0.2, approves)]

    def large(request: Request) -> Completion:
        answer: Completion = script.pop(0)(request)
        return answer

    cascade, _ = made(large, deadline=60)
    seen = []
    for _ in range(3):
        cascade.invoke("?")
        seen.append(cascade._deadline.expected_s("large"))
    assert seen == [pytest.approx(0.5), pytest.approx(1.0), pytest.approx(1.0)]


def test_an_answer_from_the_cache_of_a_tier_does_not_either() -> None:
    cascade, _ = made(taking(0.001, corrects, cached=True), deadline=60, reuse=None)
    assert cascade.invoke("?").tier == "large"
    assert cascade._deadline.expected_s("large") is None
