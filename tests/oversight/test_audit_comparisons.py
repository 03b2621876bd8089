"""How a draft is compared with the large model's answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade.agents.comparing import Answers, Comparison
from cascade.models import Request
from cascade.oversight.comparisons import comparison
from cascade.state import Completion
from cascade.testing import reply
from cascade.tiers import OpenTier


async def nobody(tier: OpenTier, request: Request) -> Completion:
    raise AssertionError(f"{tier.name} was asked {request.messages}")


def answers(draft: str | Completion, large: str | Completion, **more: Any) -> Answers:
    first, second = (reply(a) if isinstance(a, str) else a for a in (draft, large))
    return Answers("run", [HumanMessage("?")], first, second, **more)


async def compared(how: Any, draft: str | Completion, large: str | Completion) -> Comparison:
    return await comparison(how, None, has_schema=False)(answers(draft, large), nobody)


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "id": "1", "type": "tool_call"}


def calling(*calls: dict[str, Any]) -> Completion:
    return reply("", tool_calls=calls)  # type: ignore[arg-type]


LONG = "Canberra is the capital of Australia, since it lies between Sydney and Melbourne."


@pytest.mark.parametrize(
    ("how", "draft", "large", "loss"),
    [
        ("exact", "The answer is Canberra.", "canberra", 0),
        ("exact", "Sydney", "Canberra", 1),
        ("exact", "Sydney", "  ", None),
        ("numeric", "so we have 1,000 eggs", "#### 1000", 0),
        ("numeric", "there are 17", "there are 18", 1),
        ("numeric", "none", "there are 18", 1),
        ("numeric", "18", "many", None),
        ("schema", '{"a": 1, "b": "x"}', '{"b": "x", "a": 1.0}', 0),
        ("schema", '{"a": 1}', '{"a": 2}', 1),
        ("schema", '{"a": 1, "b": 2}', '{"a": 1}', 1),
        ("schema", '{"a": 1}', '{"a": 1, "b": 2}', 1),
        ("schema", "a is 1", '{"a": 1}', 1),
        ("schema", '{"a": 1}', "a is 1", None),
        ("auto", "Canberra", "canberra.", 0),
        ("auto", "Sydney", "Canberra", 1),
        ("auto", "Canberra", "It is Canberra.", None),
        ("auto", "The capital is Sydney", "Sydney", None),
        ("auto", "?!", "Canberra", 1),
        ("auto", "It costs $5.", "5", 0),
        ("auto", "5.50", "It costs $5.5", 0),
        ("auto", "17", "18", 1),
        ("auto", "1.1 km", "1100", 1),
        ("auto", "50%", "0.5", 0),
        ("auto", "4930123456789", "4930123456788", 1),
        ("auto", "1" * 400, "1" * 399 + "2", 1),
        ("auto", "1" * 400, "1" * 400 + ".", 0),
        ("auto", "In 1998 Bob", "In 1998 Alice", 1),
        ("auto", "eighteen", "18", 1),
        ("auto", LONG, LONG + "\n", 0),
        ("auto", LONG, "Canberra", None),
        ("auto", calling(call("f", a=1, b=2)), calling(call("f", b=2, a=1)), 0),
        ("auto", calling(call("f"), call("g")), calling(call("g"), call("f")), 0),
        ("auto", calling(call("f", a=1)), calling(call("f", a=2)), 1),
        ("auto", calling(call("f"), call("f")), calling(call("f")), 1),
        ("auto", calling(call("f")), "I cannot do that", 1),
    ],
)
async def test_a_comparison_finds(
    how: str, draft: str | Completion, large: str | Completion, loss: float | None
) -> None:
    found = await compared(how, draft, large)
    assert found.loss == loss
    assert found.note


async def test_what_nobody_can_compare_says_how_it_could_be() -> None:
    assert "Audits(judge=" in (await compared("auto", LONG, "It is Sydney. " * 10)).note


async def test_with_a_schema_answers_are_compared_by_fields() -> None:
    compare = comparison("auto", None, has_schema=True)
    found = await compare(answers('{"a": 1}', ' {"a": 1} '), nobody)
    assert (found.loss, "fields" in found.note) == (0, True)
    # A question of its own, without the schema of the others.
    found = await compare(answers("Sydney", "Canberra", has_schema=False), nobody)
    assert (found.loss, "exactly" in found.note) == (1, True)


def half(question: str, draft: str, large: str) -> float:
    assert (question, draft, large) == ("?", "a", "b")
    return 0.5


async def minus(question: str, draft: str, large: str) -> float:
    await asyncio.sleep(0)
    return -1


@pytest.mark.parametrize(("function", "loss"), [(half, 0.5), (minus, -1.0)])
async def test_a_users_own_comparison_is_called(function: Any, loss: float) -> None:
    assert (await compared(function, "a", "b")).loss == loss


@pytest.mark.parametrize("returned", [7, "good", None, float("nan")])
async def test_what_is_no_loss_is_unknown_and_said(
    returned: object, caplog: pytest.LogCaptureFixture
) -> None:
    found = await compared(lambda *_: returned, "a", "b")
    assert found.loss is None
    assert "from -1 to 1" in found.note
    assert "from -1 to 1" in caplog.text


async def test_a_comparison_that_raises_costs_the_loss_and_not_the_audit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: str) -> float:
        raise KeyError("secret text of an answer")

    found = await compared(broken, "a", "b")
    assert (found.loss, found.note) == (None, "your comparison raised KeyError")
    assert "Traceback" in caplog.text
