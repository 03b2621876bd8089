"""Row 9: a router before the draft, and the verdict that a cascade should be switched off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.messages import BaseMessage

from cascade import Cascade
from cascade.errors import ConfigurationError
from tests.acceptance import commands
from tests.acceptance.setups import calls_of, entries_of, pair
from tests.acceptance.upstream import Upstream

Q = "Capital of Australia?"


async def test_what_the_router_sends_to_the_large_model_is_not_drafted(upstream: Upstream) -> None:
    result = await pair(upstream, router=lambda _: "large").ainvoke(Q)
    assert (result.answer, result.tier) == (f"large: {Q}", "large")
    assert upstream.models() == ["large"]
    (entry,) = [each for each in entries_of(result) if each.node == "router"]
    assert (entry.tier, entry.cost_usd, entry.saved_usd) == ("large", 0, 0)
    assert calls_of(result) == [("expert", "ok")]


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


async def test_it_may_name_a_tier_in_the_middle(upstream: Upstream) -> None:
    tiers = [upstream.tier(name, name=name) for name in ("small", "medium", "large")]
    result = await Cascade(tiers=tiers, router=lambda _: "medium").ainvoke(Q)
    assert (result.tier, upstream.models()) == ("medium", ["medium"])


async def test_a_tier_that_there_is_not_is_an_error_that_names_those_there_are(
    upstream: Upstream,
) -> None:
    made = pair(upstream, router=lambda _: "huge")
    with pytest.raises(ConfigurationError, match=r"huge.*small.*large"):
        await made.ainvoke(Q)
    assert upstream.seen == []


# --- the verdict (that a cascade saves, and what a plan says: `test_21_command_line`)


def test_a_cascade_that_loses_money_should_be_switched_off(tmp_path: Path) -> None:
    rows = ((commands.sure(i), commands.right(i)) for i in range(400))
    dear = commands.outcomes(tmp_path / "answers.jsonl", rows, cost_usd=0.000009)
    found = commands.cascade("evaluate", dear, *commands.MODELS, "--json").json
    assert found["verdict"] == "off"
    assert "Switch it off" in found["headline"]
