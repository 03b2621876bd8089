"""Row 9: a router before the draft, and the verdict that a cascade should be switched off."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError
from tests.acceptance import commands
from tests.acceptance.setups import calls_of, cascade, entries_of, pair
from tests.acceptance.upstream import Upstream

Q = "Capital of Australia?"


async def test_what_the_router_sends_to_the_large_model_is_not_drafted(upstream: Upstream) -> None:
    result = await pair(upstream, router=lambda _: "large").ainvoke(Q)
    assert (result.answer, result.tier) == (f"large: {Q}", "large")
    assert upstream.models() == ["large"]


@pytest.mark.parametrize("named", [None, "small"])
@pytest.mark.parametrize("p", [0.95, 0.3])
async def test_what_it_leaves_or_gives_to_the_small_model_is_judged_as_ever(
    upstream: Upstream, named: str | None, p: float
) -> None:
    result = await pair(upstream, p, router=lambda _: named).ainvoke(Q)
    assert result.tier == ("small" if p > 0.8 else "large")


async def test_it_may_be_asynchronous_and_sees_the_conversation(upstream: Upstream) -> None:
    seen: list[str] = []

    async def router(messages: Sequence[BaseMessage]) -> str | None:
        seen.extend(str(message.text) for message in messages)
        return "large"

    talk = [("human", "Hello"), ("ai", "Hello!"), ("human", Q)]
    result = await pair(upstream, router=router).ainvoke(talk)
    assert (result.tier, seen) == ("large", ["Hello", "Hello!", Q])


async def test_its_way_is_in_the_ledger_and_costs_nothing(upstream: Upstream) -> None:
    result = await pair(upstream, router=lambda _: "large").ainvoke(Q)
    (entry,) = [each for each in entries_of(result) if each.node == "router"]
    assert (entry.tier, entry.cost_usd, entry.saved_usd) == ("large", 0, 0)
    assert calls_of(result) == [("expert", "ok")]


async def test_it_may_name_a_tier_in_the_middle(upstream: Upstream) -> None:
    tiers = [upstream.tier(name, name=name) for name in ("small", "medium", "large")]
    result = await cascade(tiers=tiers, router=lambda _: "medium").ainvoke(Q)
    assert (result.tier, upstream.models()) == ("medium", ["medium"])


async def test_a_tier_that_there_is_not_is_an_error_that_names_those_there_are(
    upstream: Upstream,
) -> None:
    made = pair(upstream, router=lambda _: "huge")
    with pytest.raises(ConfigurationError, match=r"huge.*small.*large"):
        await made.ainvoke(Q)
    assert upstream.seen == []


# --- the verdict


def recording(path: Path, *, draft_usd: float, large_usd: float, helps: bool = True) -> Path:
    """300 recorded answers of a small model whose confidence is right, or says nothing."""
    chance = random.Random(7)
    lines = []
    for number in range(300):
        sure = chance.random()
        right = chance.random() < (sure if helps else 0.3)
        models = {
            name: {
                "correct": correct,
                "confidence": sure if name == "small" else None,
                "input_tokens": 20,
                "output_tokens": 5,
                "cost_usd": cost,
            }
            for name, correct, cost in (("small", right, draft_usd), ("large", 1, large_usd))
        }
        del models["large"]["confidence"]
        row = {"dataset": "d", "id": str(number), "prompt": f"question {number}", "models": models}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def evaluated(path: Path) -> dict[str, Any]:
    names = ("--small", "small", "--large", "large", "--within", "0.05")
    found: dict[str, Any] = commands.cascade("evaluate", path, *names, "--json").json
    return found


def test_a_cascade_that_saves_is_recommended(tmp_path: Path) -> None:
    found = evaluated(recording(tmp_path / "a.jsonl", draft_usd=0.00001, large_usd=0.0001))
    assert found["verdict"] == "cascade"
    assert "large alone" in found["headline"]


def test_a_cascade_that_loses_money_should_be_switched_off(tmp_path: Path) -> None:
    dear = recording(tmp_path / "a.jsonl", draft_usd=0.0001, large_usd=0.00005, helps=False)
    found = evaluated(dear)
    assert found["verdict"] == "off"
    assert "Switch it off" in found["headline"]


def test_a_plan_says_whether_it_pays_before_anything_is_recorded() -> None:
    tokens = ("--input-tokens", "1000", "--output-tokens", "500")
    dear = ("--small-price", "8,16", "--large-price", "10,20", "--accept", "0.3")
    assert "Switch it off" in commands.cascade("plan", *tokens, *dear).out
    cheap = ("--small-price", "0.1,0.2", "--large-price", "10,20", "--accept", "0.6")
    assert "It saves" in commands.cascade("plan", *tokens, *cheap).out
