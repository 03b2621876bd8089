import time
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade import Cascade, Price, Tier
from cascade.errors import BadRequestError, ModelUnavailableError
from cascade.middleware import Retries, Sticky
from cascade.models.base import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from tests.middleware.cascades import ask, both_drivers

LONG = "word " * 4_000  # a question of some 5,000 tokens
LARGE = Price(input=10, output=10, cached_input=1)


def says(p: float, *, input_tokens: int = 5_000) -> Any:
    def answer(request: Request) -> Completion:
        doubts = "hard" in str(request.messages[-1].text)
        return reply("Canberra", probability=0.3 if doubts else p, input_tokens=input_tokens)

    return answer


def made(
    large_price: Price = LARGE, name: str = "large", local: bool = True, **given: Any
) -> tuple[Cascade, ScriptedModel, ScriptedModel]:
    drafts = ScriptedModel(says(0.95, **given), name="small", returns_logprobs=True)
    answers = ScriptedModel(says(0.95, **given), name=name)
    small, large = Tier(drafts), Tier(answers, price=large_price, local=local)
    return Cascade(small, large, middleware=[Sticky(), Retries(base_s=0.0)]), drafts, answers


async def talk(cascade: Cascade, *turns: str, driver: str = "loop") -> list[Any]:
    messages, results = list[Any](), list[Any]()
    for turn in turns:
        messages = [*messages, HumanMessage(turn)]
        results.append(await ask(cascade, messages, driver))
        messages = [*messages, results[-1].message]
    return results


@both_drivers
async def test_a_conversation_stays_where_its_prompt_cache_is_worth_more(driver: str) -> None:
    cascade, drafts, answers = made()
    results = await talk(cascade, f"hard {LONG}", "easy", driver=driver)
    assert [result.tier for result in results] == ["large", "large"]
    assert (len(drafts.requests), len(answers.requests)) == (1, 2)
    assert "stays with large, whose provider holds 4,992 tokens" in results[1].decision.reason


async def test_it_goes_back_where_drafts_are_accepted_as_a_rule() -> None:
    cascade, _, _ = made()
    for _ in range(60):
        await ask(cascade, "easy")
    # One draft in thirteen was escalated: going back saves more than the cache is worth.
    results = await talk(cascade, *["easy"] * 12, f"hard {LONG}", "easy")
    assert [result.tier for result in results][-2:] == ["large", "small"]


@pytest.mark.parametrize(
    "options",
    [{"input_tokens": 500}, {"name": "claude"}, {"large_price": Price(per_hour=1)}],
    ids=["too short", "cached when asked alone", "without a price"],
)
async def test_where_no_prompt_cache_is_held_a_conversation_does_not_stay(options: Any) -> None:
    cascade, _, _ = made(**options)
    assert (await talk(cascade, f"hard {LONG}", "easy"))[1].tier == "small"


async def follow_up(cascade: Cascade, first: Any, **settings: Any) -> Any:
    """The second turn, of an easy question."""
    messages = [HumanMessage(f"hard {LONG}"), first.message, HumanMessage("easy")]
    return await ask(cascade, messages, **settings)


async def test_another_process_knows_by_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = await talk(made()[0], f"hard {LONG}")
    cascade, drafts, _ = made()
    assert (await follow_up(cascade, first)).tier == "large"
    assert drafts.requests == []
    later = time.time() + 301
    monkeypatch.setattr("cascade.middleware.sticky.time.time", lambda: later)
    assert (await follow_up(cascade, first)).tier == "small"


async def test_a_question_that_must_stay_here_goes_to_no_model_elsewhere() -> None:
    cascade, _, _ = made(local=False)
    (first,) = await talk(cascade, f"hard {LONG}")
    assert (await follow_up(cascade, first, local_only=True)).tier == "small"


@pytest.mark.parametrize(
    "told",
    [
        {"tier": "elsewhere", "sticky": {"asked": ["elsewhere"], "at": 1, "tokens": [1, 1]}},
        {"tier": "large", "sticky": {"at": 1}},
        {"tier": "large", "sticky": "yes"},
        {"tier": "large", "sticky": {"asked": [], "at": 1, "tokens": [1, 1]}},
        {},
    ],
)
async def test_answers_of_others_say_nothing(told: Any) -> None:
    answer = AIMessage("Canberra", response_metadata=told)
    cascade, _, _ = made()
    assert (await ask(cascade, [HumanMessage(LONG), answer, HumanMessage("easy")])).tier == "small"


@both_drivers
async def test_while_the_large_model_is_down_the_small_one_answers(driver: str) -> None:
    cascade, drafts, answers = made()
    (first,) = await talk(cascade, f"hard {LONG}", driver=driver)
    answers._answers = [ModelUnavailableError("down", model=answers.name)]
    result = await follow_up(cascade, first, driver=driver)
    assert (result.tier, result.degraded, len(drafts.requests)) == ("small", True, 2)
    assert [entry.outcome for entry in result.ledger if entry.model][-1] == "ok"
    answers._answers = [BadRequestError("no", model=answers.name)]
    with pytest.raises(BadRequestError):
        await follow_up(cascade, first, driver=driver)


async def test_a_middle_tier_drafts_where_it_answered_last() -> None:
    models = [
        ScriptedModel(says(p), name=name, returns_logprobs=True)
        for name, p in (("a", 0.5), ("b", 0.95), ("c", 0.95))
    ]
    tiers = [Tier(m, price=price) for m, price in zip(models, (None, LARGE, LARGE), strict=True)]
    cascade = Cascade(tiers=tiers, middleware=[Sticky()])
    results = await talk(cascade, LONG, "easy")
    assert [result.tier for result in results] == ["scripted:b", "scripted:b"]
    assert len(models[0].requests) == 1
