"""What an entry says where another model answered than was asked."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage

from cascade import Price, Tier
from cascade.agents.entries import Accounts, Call
from cascade.models import Request
from cascade.state import LedgerEntry, Run
from cascade.testing import ScriptedModel, reply
from cascade.tiers import OpenTier, open_tier

RUN = Run("run", "question")
NOTE = "answered by 'gpt-4o-mini', which was not asked"


def entry_of(tier: OpenTier, answered_by: str) -> LedgerEntry:
    call = Call(tier, Request((HumanMessage("?"),)), "draft", RUN, None, 0.0)
    return Accounts().answered(call, reply("Canberra", model=answered_by), 1.0)


def hosted(price: Price | None = None) -> OpenTier:
    return open_tier(Tier("openai:gpt-4o", api_key="k", price=price))


@pytest.fixture(autouse=True)
def _openai_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_a_list_price_of_the_model_that_was_asked_is_an_estimate_then() -> None:
    entry = entry_of(hosted(), "gpt-4o-mini")
    assert entry.cost_usd is not None
    assert (entry.note, entry.cost_basis, entry.basis) == (NOTE, "estimated", "estimated")


def test_a_price_of_the_users_own_is_that_of_the_tier() -> None:
    entry = entry_of(hosted(Price(input=1, output=1)), "gpt-4o-mini")
    assert (entry.note, entry.cost_basis, entry.basis) == (NOTE, "measured", "measured")


def test_a_version_of_the_model_is_what_was_asked() -> None:
    entry = entry_of(hosted(), "gpt-4o-2024-08-06")
    assert (entry.note, entry.cost_basis) == ("", "measured")


def test_a_scripted_model_answers_as_it_likes() -> None:
    tier = open_tier(Tier(ScriptedModel("x"), price=Price(input=1, output=1)))
    assert entry_of(tier, "another").note == ""
