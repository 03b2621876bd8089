"""Both embedded models as agents on tool tasks: escalations, ledger and streams with real calls.

What they can do is printed and not asserted. Of the six tasks here the small one (135M parameters)
did one and the large one (0.5B) the other five. The answer of a tool is that of the agent: asked to
put it into words, the large one calls the tool again, and did two of eight.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool

from cascade import Cascade, MemoryLedger, Price, Tier
from cascade.errors import ModelNotFoundError
from cascade.events import Token
from cascade.integrations.agent_tier import AgentTier
from cascade.models.base import guard
from cascade.models.llamacpp import find_weights

pytest.importorskip("xllamacpp", reason='in a clone, pip install ".[llamacpp]"')
MODELS = Path(__file__).parents[2] / ".models"
LARGE = Path(
    os.environ.get("CASCADE_TEST_LARGE", MODELS / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
)
try:
    find_weights("smollm2-135m")
    find_weights(str(LARGE))
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = [pytest.mark.live, pytest.mark.heavy]

PEOPLE = {"Canberra": 460_000, "Perth": 2_100_000, "Hobart": 250_000}
TASKS = {f"How many people live in {city}?": str(n) for city, n in PEOPLE.items()}
TASKS |= {f"What is {a} + {b}?": str(a + b) for a, b in ((17, 25), (348, 411), (99, 2))}


@tool(return_direct=True)
def population(city: str) -> int:
    """How many people live in a city."""
    return PEOPLE.get(city.strip().title(), 0)


@tool(return_direct=True)
def add(a: float, b: float) -> int:
    """The sum of two numbers."""
    return int(a + b)


def agent(model: str) -> AgentTier:
    options: Any = {"max_tokens": 48, "temperature": 0.0}
    chat = Cascade(tiers=[Tier(model, **options)]).as_chat_model()
    made = create_agent(chat, [population, add], system_prompt="Call the tool that answers.")
    return AgentTier(made.with_config(recursion_limit=8), name=Path(model).stem)


def right(question: str, answer: str) -> bool:
    return TASKS[question] in answer.replace(",", "")


async def test_real_agents_escalate_and_each_call_is_booked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "forbidden", False)
    store = MemoryLedger()
    small = Tier(agent("llamacpp:smollm2-135m"), price=Price(per_hour=0.05))
    large = Tier(agent(f"llamacpp:{LARGE}"), price=Price(per_hour=0.2))
    cascade = Cascade(small, large, signals=["trajectory"], verifier=right, ledger=store)
    solved = escalated = 0
    for question in TASKS:
        *events, result = [event async for event in cascade.astream(question)]
        shown = "".join(event.text for event in events if isinstance(event, Token))
        assert shown == result.answer  # type: ignore[union-attr]
        calls = [entry for entry in result.ledger if entry.model]  # type: ignore[union-attr]
        assert calls
        assert all(entry.cost_usd is not None for entry in calls if entry.outcome == "ok")
        assert {e.node for e in calls} == ({"draft", "expert"} if result.escalated else {"draft"})  # type: ignore[union-attr]
        solved += right(question, result.answer)  # type: ignore[union-attr]
        escalated += result.escalated  # type: ignore[union-attr]
    with capsys.disabled():
        print(f"\n{solved} of {len(TASKS)} solved, {escalated} escalated")
    assert len({entry.id for entry in store.entries}) == len(store.entries)
