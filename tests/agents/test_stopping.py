"""A draft that cannot be accepted any more is stopped, paid as far as it went, and escalated."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from cascade import Cascade, CascadeResult, Price, Tier
from cascade.confidence.calibrating import LabelledDraft, MadeFor, calibrate
from cascade.confidence.calibration import Calibration, ModelIdentity
from cascade.confidence.logprobs import logprob_features
from cascade.errors import AuthenticationError, ConfigurationError, ModelUnavailableError
from cascade.events import Token
from cascade.models import Model
from cascade.models.openai import OpenAIModel
from cascade.policies import ThresholdPolicy
from cascade.questions import to_task
from cascade.setup import task_hash
from cascade.state import CHECKPOINT_TYPES, Decision, LedgerEntry
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tier
from tests.servers import replies
from tests.servers.fake import FakeServer

WORDS = 60
LONG = " ".join(f"word{i}" for i in range(WORDS))
DOUBTFUL = reply(LONG, probability=0.5)
SURE = reply(LONG, probability=0.95)
PRICE = Price(input=1, output=10)
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def pair(draft: Any, *, large: Any = "large", max_tokens: int | None = 64, **options: Any) -> Any:
    small = draft if isinstance(draft, Model) else ScriptedModel([draft])
    tier = Tier(small, max_tokens=max_tokens, price=options.pop("price", PRICE))
    options.setdefault("abort", True)
    return Cascade(tier, ScriptedModel([large]), **options)


def draft_entry(result: CascadeResult) -> LedgerEntry:
    return next(entry for entry in result.ledger.entries if entry.node == "draft")


def test_it_stops_where_certain_tokens_could_not_lift_the_score_to_the_threshold() -> None:
    result = pair(DOUBTFUL).invoke("?")
    # 21·ln ½ is the first sum below 64·ln 0.8
    assert math.ceil(64 * math.log(0.8) / math.log(0.5)) == 21
    entry = draft_entry(result)
    assert (entry.output_tokens, entry.outcome) == (21, "cancelled")
    assert entry.note.startswith("stopped after 21 tokens: 43 certain tokens more")
    assert (result.answer, result.tier, result.escalated) == ("large", "large", True)
    assert result.decision is not None
    assert result.decision.reason == entry.note
    assert result.confidence is None


def test_a_draft_that_can_still_be_accepted_is_heard_to_its_end() -> None:
    for draft in (SURE, reply(LONG, probability=[0.05] + [0.999] * (WORDS - 1))):
        stopping, waiting = pair(draft).invoke("?"), pair(draft, abort=False).invoke("?")
        assert stopping.answer == waiting.answer == LONG
        assert stopping.confidence == waiting.confidence
        assert draft_entry(stopping).outcome == "ok"


@pytest.mark.parametrize("probability", [0.75, 0.79, 0.8, 0.81, 0.85])
@pytest.mark.parametrize("max_tokens", [WORDS, 64, 200])
def test_answers_are_the_same_with_it_and_without(probability: float, max_tokens: int) -> None:
    draft = reply(LONG, probability=probability)
    with_it = pair(draft, max_tokens=max_tokens).invoke("?")
    without = pair(draft, max_tokens=max_tokens, abort=False).invoke("?")
    assert (with_it.answer, with_it.tier) == (without.answer, without.tier)


def test_what_was_paid_is_assumed_from_what_was_heard() -> None:
    entry = draft_entry(pair(DOUBTFUL).invoke("q" * 40))
    assert (entry.cost_usd, entry.cost_basis) == (None, "unknown")
    # 40 characters are taken for 11 tokens
    assert entry.assumed_usd == (11 * Decimal(1) + 21 * Decimal(10)) / 1_000_000


def test_a_price_by_the_hour_takes_the_wall_time() -> None:
    entry = draft_entry(pair(DOUBTFUL, price=Price(per_hour=3600)).invoke("?"))
    assert entry.cost_usd == pytest.approx(Decimal(entry.latency_ms / 1000), abs=Decimal("1e-6"))
    assert (entry.cost_basis, entry.basis) == ("estimated", "estimated")
    assert entry.saved_usd == -(entry.cost_usd or 0)


async def test_nothing_of_a_stopped_draft_is_shown() -> None:
    events = [event async for event in pair(DOUBTFUL).astream("?")]
    assert {event.tier for event in events if isinstance(event, Token)} == {"large"}


def test_a_stopped_draft_is_no_answer_when_the_large_model_fails() -> None:
    failure = ModelUnavailableError("down", model="large")
    cascade = pair(DOUBTFUL, large=failure)
    with pytest.raises(ModelUnavailableError) as raised:
        cascade.invoke("?")
    assert raised.value.ledger is not None
    assert raised.value.ledger.entries[0].outcome == "cancelled"
    assert pair(DOUBTFUL, large=failure, abort=False).invoke("?").degraded


async def test_a_resumed_run_does_not_pay_for_it_again() -> None:
    small = ScriptedModel([DOUBTFUL])
    large = ScriptedModel(["large"], failures=[AuthenticationError("no", model="large")])
    cascade = Cascade(Tier(small, max_tokens=64), large, abort=True)
    serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver(serde=serde))
    thread: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(AuthenticationError):
        await graph.ainvoke({"messages": [HumanMessage("?")]}, thread)
    state = await graph.ainvoke(None, thread)
    assert state["messages"][-1].text == "large"
    assert state["draft"].stopped.startswith("stopped after 21 tokens")
    assert len(small.requests) == 1


def test_no_signal_is_taken_of_a_stopped_draft() -> None:
    result = pair(DOUBTFUL, signals=["logprobs", "p_true"]).invoke("?")
    assert [entry.node for entry in result.ledger.entries if entry.model] == ["draft", "expert"]
    verify = next(entry for entry in result.ledger.entries if entry.node == "verify")
    assert (verify.action, verify.signals) == ("escalate", None)


def test_each_tier_that_drafts_is_listened_to() -> None:
    tiers = [
        Tier(ScriptedModel([DOUBTFUL], name=name), name=name, max_tokens=limit)
        for name, limit in (("tiny", 64), ("middle", None), ("third", 80))
    ]
    cascade = Cascade(tiers=[*tiers, ScriptedModel(["large"])], abort=True)
    drafts = [e for e in cascade.invoke("?").ledger.entries if e.node == "draft"]
    assert [(e.tier, e.outcome, e.output_tokens) for e in drafts] == [
        ("tiny", "cancelled", 21),
        ("middle", "ok", WORDS),
        ("third", "cancelled", 26),
    ]


def test_a_draft_that_may_call_tools_is_not_stopped() -> None:
    cascade = pair(DOUBTFUL).with_task(to_task([TOOL], None))
    assert draft_entry(cascade.invoke("?")).outcome == "ok"


def test_a_limit_that_the_request_overrides_proves_nothing() -> None:
    task = replace(to_task([], None), extra={"max_tokens": 4000})
    assert draft_entry(pair(DOUBTFUL).with_task(task).invoke("?")).outcome == "ok"


async def test_a_question_that_has_to_stay_here_gets_its_whole_draft() -> None:
    large = ScriptedModel(["large"], local=False)
    small = Tier(ScriptedModel([DOUBTFUL]), max_tokens=64)
    cascade = Cascade(small, large, abort=True)
    result = await cascade.ainvoke("?", {"configurable": {"local_only": "answer"}})
    assert (draft_entry(result).outcome, result.answer) == ("ok", LONG)


def test_a_draft_is_not_stopped_where_its_time_is_up_for_another() -> None:
    small = ScriptedModel([DOUBTFUL])
    large = ScriptedModel(["large"], delay_s=0.4)
    cascade = Cascade(Tier(small, max_tokens=64), large, deadline=0.7, abort=True)
    assert draft_entry(cascade.invoke("?")).outcome == "cancelled"
    small._delay_s = 0.4  # leaves less than the large model takes
    result = cascade.invoke("?")
    assert (draft_entry(result).outcome, result.answer) == ("ok", LONG)


def test_a_tracer_sees_what_there_was_of_it() -> None:
    tracer = RunCollectorCallbackHandler()
    pair(DOUBTFUL).invoke("?", {"callbacks": [tracer]})
    (run,) = tracer.traced_runs
    (draft,) = [r for node in run.child_runs for r in node.child_runs if r.run_type == "llm"][:1]
    assert draft.outputs is not None
    assert draft.outputs["llm_output"]["finish_reason"] == "stopped"
    assert draft.error is None


class Unmoved:
    """A policy that accepts everything."""

    def decide(self, situation: Any) -> Decision:
        return Decision(action="accept", reason="whatever", confidence=1.0)


def test_the_policy_says_what_could_be_accepted() -> None:
    assert draft_entry(pair(DOUBTFUL, policy=Unmoved()).invoke("?")).outcome == "ok"
    low, high = (pair(DOUBTFUL, policy=ThresholdPolicy(t)).invoke("?") for t in (0.4, 0.9))
    assert low.tier == "small"
    assert draft_entry(high).output_tokens == math.ceil(64 * math.log(0.9) / math.log(0.5))


# With a calibration -----------------------------------------------------------------------


def drafted(probability: float, dip: float) -> Any:
    """A draft with a stretch of 16 doubtful words in the middle."""
    return reply(LONG, probability=[probability] * 20 + [dip] * 16 + [probability] * 24)


def calibration(n: int = 120) -> Calibration:
    """Right drafts are sure all along; wrong ones have a bad stretch."""
    labelled = []
    for i in range(n):
        right = i % 3 > 0
        answer = drafted(0.97, 0.9 - i / 1000 if right else 0.2 + i / 1000)
        labelled.append(LabelledDraft(logprob_features(answer.logprobs), float(right)))
    small = ScriptedModel([SURE], name="small")
    made_for = MadeFor(
        ModelIdentity(name="scripted:small"),
        None,
        task_hash(to_task([], None), open_tier(Tier(small))),
        None,
        "references",
    )
    return calibrate(labelled, (("logprobs", 0),), made_for)


@pytest.fixture(scope="module")
def known() -> Calibration:
    return calibration()


def calibrated(draft: Any, known: Calibration, **options: Any) -> Cascade:
    small = ScriptedModel([draft], name="small")
    options.setdefault("abort", 0.05)
    return Cascade(small, ScriptedModel(["large"]), calibrator=known, **options)


def test_a_stretch_worse_than_that_of_acceptable_drafts_stops_it(known: Calibration) -> None:
    result = calibrated(drafted(0.97, 0.3), known).invoke("?")
    entry = draft_entry(result)
    assert entry.outcome == "cancelled"
    assert 20 < (entry.output_tokens or 0) < 36
    assert "are at most 5.00% of the drafts that would be accepted" in entry.note
    assert result.tier == "large"


def test_a_draft_like_those_that_were_accepted_is_not_stopped(known: Calibration) -> None:
    result = calibrated(drafted(0.97, 0.88), known).invoke("?")
    assert (result.tier, result.calibrated) == ("small", True)
    short = reply("a b c", probability=0.01)
    assert draft_entry(calibrated(short, known).invoke("?")).outcome == "ok"


def test_where_too_few_would_be_accepted_nothing_is_stopped(known: Calibration) -> None:
    cascade = calibrated(drafted(0.97, 0.3), known, policy=ThresholdPolicy(1.0))
    assert draft_entry(cascade.invoke("?")).outcome == "ok"
    everything = calibrated(drafted(0.97, 0.3), known, policy=ThresholdPolicy(0.0))
    assert everything.invoke("?").tier == "small"


def test_a_task_without_its_calibration_is_not_stopped_by_it(known: Calibration) -> None:
    cascade = calibrated(drafted(0.97, 0.3), known)
    other = cascade.with_task(to_task([], {"type": "object"}))
    assert draft_entry(other.invoke("?")).outcome == "ok"


def test_a_conversation_of_another_kind_is_not_stopped(known: Calibration) -> None:
    strange = known.model_copy(update={"system_hash": "another"})
    cascade = calibrated(drafted(0.97, 0.3), strange)
    assert draft_entry(cascade.invoke("?")).outcome == "ok"


# What cannot work -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"abort": 2}, "abort=2: True, False, or the share"),
        ({"abort": 0.0}, "abort=0.0: True, False, or the share"),
        ({"abort": math.nan}, "abort=nan: True, False, or the share"),
        ({"abort": 0.01}, "needs calibrator"),
        ({"max_tokens": None}, "max_tokens"),
        ({"signals": ["p_true"]}, "signals are p_true"),
        ({"verifier": lambda question, answer: True}, "judges whole drafts"),
        ({"draft": ScriptedModel(["x"])}, "scripted:scripted does not give"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        pair(options.pop("draft", DOUBTFUL), **options)


def test_too_few_drafts_in_the_calibration_are_refused(known: Calibration) -> None:
    with pytest.raises(ConfigurationError, match="120 drafts, and 199 that would be accepted"):
        calibrated(SURE, known, abort=0.005)
    calibrated(SURE, known, abort=True)


# Over HTTP --------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


async def test_the_upstream_request_ends_while_most_of_its_answer_is_unsaid(
    server: FakeServer,
) -> None:
    chunks = spoken(*((f" w{i}", -1.0) for i in range(2000)))
    server.will(replies.sse(chunks, done=False, pause_s=0.005))  # ten seconds in all
    small = OpenAIModel("m", base_url=server.openai_url)
    small.real = False
    cascade = Cascade(Tier(small, max_tokens=64), ScriptedModel(["large"]), abort=True)
    result = await cascade.ainvoke([HumanMessage("?")])
    assert await asyncio.to_thread(server.last.left.wait, 5)
    assert draft_entry(result).output_tokens == math.ceil(-64 * math.log(0.8))
    await cascade.aclose()


def spoken(*tokens: tuple[str, float]) -> list[dict[str, Any]]:
    return [
        replies.openai_delta(content=text, logprobs=[{"token": text, "logprob": value}])
        for text, value in tokens
    ]


async def over_http(server: FakeServer, *tokens: tuple[str, float]) -> CascadeResult:
    server.will(replies.sse([*spoken(*tokens), replies.openai_delta("stop")]))
    small = OpenAIModel("m", base_url=server.openai_url)
    small.real = False
    async with Cascade(Tier(small, max_tokens=64), ScriptedModel(["large"]), abort=True) as cascade:
        return await cascade.ainvoke("?")


async def test_white_space_around_an_answer_is_no_reason(server: FakeServer) -> None:
    """The score of the whole answer does not count it either; what was paid does."""
    words = [(f" w{i}", -0.1) for i in range(20)]
    for tokens in ([("\n", -30.0), *words], [*words, ("\n", -30.0)]):
        result = await over_http(server, *tokens)
        assert (result.tier, result.confidence) == ("small", pytest.approx(math.exp(-0.1)))
    entry = draft_entry(await over_http(server, ("\n", -0.1), *[(" w", -5.0)] * 20))
    assert (entry.outcome, entry.output_tokens) == ("cancelled", 4)
