"""A pair of models of which the small one is right about as often as it says."""

from __future__ import annotations

import random
from typing import Any

from cascade import Cascade, Price, Tier
from cascade.ledger import MemoryLedger
from cascade.models import Request
from cascade.state import Completion, LedgerEntry
from cascade.testing import ScriptedModel, reply

SMALL_PRICE, LARGE_PRICE = Price(input=1, output=2), Price(input=100, output=200)


def sure(question: str) -> float:
    """The probability of the draft's only token."""
    return 0.35 + 0.64 * random.Random(question).random()


def drafts(request: Request) -> Completion:
    question = str(request.messages[-1].text)
    p = sure(question)
    right = random.Random(question + "?").random() < p
    return reply("yes" if right else "no", probability=p)


def small(**options: Any) -> ScriptedModel:
    return ScriptedModel(drafts, name="s", returns_logprobs=True, **options)


def large(**options: Any) -> ScriptedModel:
    return ScriptedModel([reply("yes", input_tokens=20)], name="l", **options)


def start(
    mode: str = "shadow",
    *,
    drafter: Any = None,
    expert: Any = None,
    ledger: Any = None,
    small_price: Price | None = SMALL_PRICE,
    **options: Any,
) -> Cascade:
    return Cascade(
        Tier(drafter or small(), price=small_price),
        Tier(expert or large(), price=LARGE_PRICE),
        mode=mode,  # type: ignore[arg-type] # also wrong ones are tried
        ledger=MemoryLedger() if ledger is None else ledger,
        **options,
    )


def entries(cascade: Cascade, node: str | None = None) -> list[LedgerEntry]:
    """What is in the ledger once all work after the replies is done."""
    oversight = cascade._oversight
    assert oversight.background.wait(20)
    store = oversight.recorder.store
    assert isinstance(store, MemoryLedger)
    return [entry for entry in store.entries if node in (None, entry.node)]
