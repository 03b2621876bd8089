from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, ConfigurationError, MemoryLedger, Tier
from cascade.errors import ModelUnavailableError
from cascade.middleware import Abort, Audits, Retries, Shadow
from cascade.middleware.audits import Comparison, preferred
from cascade.run import CascadeRuntime, Settings
from cascade.testing import ScriptedModel, reply
from tests.middleware.cascades import PRICE, ask, large, of, pair, small

Q = "Capital of Australia?"
LONG_DRAFT = "It is Canberra, a city that was planned as one."
LONG_LARGE = "Canberra, which was planned as the capital, is the one you mean."


async def compare(
    draft: Any,
    answer: Any,
    audits: Audits | None = None,
    *,
    question: Any = Q,
    cascade: Cascade | None = None,
    **settings: Any,
) -> Comparison:
    kernel = (cascade or pair()).kernel
    run = kernel.begin([HumanMessage(question)], Settings(**settings), "audit")
    given = [reply(text) if isinstance(text, str) else text for text in (draft, answer)]
    return await (audits or Audits()).compare(run, *given, CascadeRuntime(kernel))


@pytest.mark.parametrize(
    ("draft", "answer", "loss"),
    [
        ("The answer is Canberra", "Canberra", 0.0),
        ("Sydney", "Canberra", 1.0),
        ("1,000", "1000.0", 0.0),
        ("123456789012345678", "123456789012345679", 1.0),
        ("B", "(B) Canberra", 0.0),
        ("A. Sydney", "B", 1.0),
        ("in Canberra", "Canberra", None),
        (LONG_DRAFT, LONG_DRAFT, 0.0),
        (LONG_DRAFT, LONG_LARGE, None),
        ("Canberra", " ", None),
        ("", "Canberra", 1.0),
    ],
)
async def test_texts_are_compared_by_wording(draft: str, answer: str, loss: float | None) -> None:
    found = await compare(draft, answer)
    assert found.loss == loss
    assert found.note


@pytest.mark.parametrize(
    ("draft", "answer", "loss"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}', 0.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 1.0),
        ("a is 1", '{"a": 1}', 1.0),
        ('{"a": 1}', "a is 1", None),
    ],
)
async def test_by_a_schema_fields_compare(draft: str, answer: str, loss: float | None) -> None:
    assert (await compare(draft, answer, schema={"type": "object"})).loss == loss


@pytest.mark.parametrize(("city", "loss"), [("Canberra", 0.0), ("Sydney", 1.0)])
async def test_tool_calls_are_compared_by_names_and_arguments(city: str, loss: float) -> None:
    def call(place: str, at: str) -> Any:
        args = {"city": place, "days": 2}
        return reply("", tool_calls=[{"name": "weather", "args": args, "id": at}])

    found = await compare(call("Canberra", "1"), call(city, "2"), Audits(compare="exact"))
    assert found.loss == loss


async def test_a_function_may_be_async_and_sees_the_question_and_both_answers() -> None:
    async def half(question: str, draft: str, answer: str) -> float:
        assert (question, draft, answer) == (Q, "a", "b")
        return -0.5

    assert await compare("a", "b", Audits(compare=half)) == (-0.5, "compared by your function")
    assert (await compare("a", "b", Audits(compare=lambda _q, _d, _l: 1))).loss == 1.0


@pytest.mark.parametrize(
    ("given", "words"), [(lambda *_: 2, "a loss is from -1 to 1"), (lambda *_: 1 / 0, "ZeroDiv")]
)
async def test_a_function_that_fails_gives_no_loss(given: Any, words: str) -> None:
    found = await compare("secret", "b", Audits(compare=given))
    assert found.loss is None
    assert words in found.note
    assert "secret" not in found.note


def judging(says: Any) -> tuple[ScriptedModel, Audits]:
    model = ScriptedModel(says, name="judge")
    return model, Audits(judge=Tier(model, price=PRICE))


def prefers_large(request: Any) -> str:
    text = str(request.messages[-1].text)
    return "A" if text.index(LONG_LARGE) < text.index(LONG_DRAFT) else "B"


@pytest.mark.parametrize(
    ("says", "losses"),
    [("A", {1.0, -1.0}), (prefers_large, {1.0}), ("EQUAL", {0.0}), ("hm", {None})],
)
async def test_a_judge_compares_in_random_order(says: Any, losses: set[float | None]) -> None:
    model, audits = judging(says)
    ledger = MemoryLedger()
    cascade = pair(ledger=ledger)
    texts = LONG_DRAFT, LONG_LARGE
    found = [await compare(*texts, audits, cascade=cascade) for _ in range(40)]
    assert {each.loss for each in found} == losses
    asked = str(model.requests[0].messages[-1].text)
    assert all(text in asked for text in (Q, LONG_DRAFT, LONG_LARGE))
    paid = of(ledger, "audit")
    assert len(paid) == len(model.requests) == 40
    assert all(entry.cost_usd > Decimal(0) for entry in paid)


async def test_a_judge_sees_the_conversation_and_nothing_but_text() -> None:
    model, audits = judging("EQUAL")
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    found = await compare(LONG_DRAFT, LONG_LARGE, audits, question=picture)
    assert (found.loss, model.requests) == (None, [])
    run = pair().kernel.begin([HumanMessage("Hello"), HumanMessage(Q)], kind="audit")
    runtime = CascadeRuntime(pair().kernel)
    await audits.compare(run, reply(LONG_DRAFT), reply(LONG_LARGE), runtime)
    assert "human: Hello\n\nhuman: Capital" in str(model.requests[0].messages[-1].text)


async def test_a_judge_that_is_down_gives_no_loss() -> None:
    down = ModelUnavailableError("down", model="scripted:judge")
    _, audits = judging([down])
    cascade = pair(middleware=[Retries(attempts=1)])
    found = await compare(LONG_DRAFT, LONG_LARGE, audits, cascade=cascade)
    assert found == (None, "the comparison failed: down")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("B", "B"),
        ("**A**", "A"),
        ("First, …\nBoth name it.\nVerdict: A", "A"),
        ("Answer B is better", "B"),
        ("I would say A or B", None),
    ],
)
def test_a_verdict_stands_alone_on_a_line(text: str, verdict: str | None) -> None:
    assert preferred(text) == verdict


def test_a_comparison_that_is_none_or_asks_no_judge_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="compare='semantic'"):
        Audits(compare="semantic")
    with pytest.raises(ConfigurationError, match="asks no judge"):
        Audits(compare="exact", judge=large())


async def test_where_a_router_goes_straight_to_the_large_model_nothing_is_drafted() -> None:
    drafts, answers, ledger = small(), large(), MemoryLedger()
    options: Any = {"middleware": [Shadow()], "ledger": ledger, "router": lambda _: "large"}
    made = pair(drafts, answers, **options)
    result = await ask(made, Q)
    await made.aclose()
    assert (result.tier, result.escalated) == ("large", True)
    assert (len(drafts.requests), len(answers.requests)) == (0, 1)
    assert of(ledger, "shadow") == []


async def test_a_shadow_draft_is_neither_stopped_nor_audited() -> None:
    model = small("no idea what that is", 0.1)
    tier = Tier(model, price=PRICE, max_tokens=10)
    ledger = MemoryLedger()
    stack = [Shadow(), Abort(), Audits(1.0)]
    made = Cascade(tier, Tier(large(), price=PRICE), ledger=ledger, middleware=stack)
    await ask(made, Q)
    await made.aclose()
    assert [e.outcome for e in of(ledger, "shadow") if e.model] == ["ok"]
    assert of(ledger, "audit") == []


async def test_a_larger_share_keeps_the_conversations_that_were_live() -> None:
    shadow = Shadow()
    made = pair(middleware=[shadow])
    live = []
    for share in (0.3, 0.7):
        shadow.live_share = share
        threads: list[Any] = [{"configurable": {"thread_id": str(n)}} for n in range(20)]
        tiers = [(await made.ainvoke(Q, thread)).tier for thread in threads]
        live.append({n for n, tier in enumerate(tiers) if tier == "small"})
    await made.aclose()
    assert set() < live[0] < live[1]
    with pytest.raises(ConfigurationError, match="live_share=50"):
        shadow.live_share = 50


def test_a_cascade_in_which_nothing_may_be_drafted_or_answered_is_refused() -> None:
    far = ScriptedModel("x", name="large", local=False)
    for options in ({"tiers": [large()]}, {"small": small(), "large": far, "local_only": True}):
        for one in (Audits(), Shadow()):
            with pytest.raises(ConfigurationError, match="only one here, or local_only"):
                Cascade(**options, middleware=[one])
