"""A recorded evaluation on packaged questions: a real small model drafts on this machine.

Each question is asked after some examples of its kind, since a model of 135M parameters continues
patterns and follows no instructions. The large model's answers were recorded once, of a real model
too, and are replayed. All else is `cascade try`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from importlib.resources import files
from itertools import zip_longest
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from pydantic import JsonValue

from cascade.api import Cascade
from cascade.calibrate import SIGNALS, AlwaysEscalate
from cascade.errors import ConfigurationError
from cascade.evaluation.crossfit import LEAST_ROWS
from cascade.evaluation.recordings import Example
from cascade.ledger.prices import Price, find_pricing
from cascade.state import Usage
from cascade.tiers import ModelLike, OpenTier, Tier

SMALL = "llamacpp:smollm2-135m"

PER_HOUR = Decimal("0.05")
"""Assumed dollars per hour in which the small model computes: about what a cloud asks for two
shared cores."""

PRICED_AS = ("together", "Qwen/Qwen1.5-0.5B")
"""The hosted model at whose list price recorded answers are counted: same family, same size.
The recorded model itself is hosted by nobody."""

RECORDED = f"replay:{files('cascade.demo').joinpath('recorded.jsonl')}"

SHORT: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0}
"""Enough for every answer of the examples' form, and little lost when a model rambles."""


def questions(n: int | None = None) -> list[Example]:
    """The first `n` questions in turn over the kinds (all of them without `n`), sorted by kind:
    neighbours share their examples, which llama.cpp then reads once.

    Raises:
        ConfigurationError: `n` is too few to say anything, or more than there are.
    """
    place = files("cascade.demo")
    shown = json.loads(place.joinpath("examples.json").read_text(encoding="utf-8"))
    lines = place.joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    kinds: dict[str, list[Example]] = {}
    for row in map(json.loads, lines):
        messages: list[AnyMessage] = []
        for asked, answered in shown[row["kind"]]:
            messages += [HumanMessage(asked), AIMessage(answered)]
        messages.append(HumanMessage(row["question"]))
        right: JsonValue = [row["answer"], *row["accepted"]]
        kinds.setdefault(row["kind"], []).append(Example(row["id"], tuple(messages), right))
    everything = [e for one_of_each in zip_longest(*kinds.values()) for e in one_of_each if e]
    if n is not None and not LEAST_ROWS <= n <= len(everything):
        raise ConfigurationError(
            f"n={n}: the demo has {len(everything)} questions and needs {LEAST_ROWS} of them."
        )
    return sorted(everything[:n], key=lambda example: example.id)


def recorded_large() -> Tier:
    """The large model's recorded answers, at an assumed price."""
    listed, million = find_pricing(*PRICED_AS), 1_000_000
    asked = listed.cost(Usage(input_tokens=million, output_tokens=0), None)
    written = listed.cost(Usage(input_tokens=0, output_tokens=million), None)
    price = None if asked is None or written is None else Price(input=asked, output=written)
    return Tier(RECORDED, name="large", price=price, **SHORT)


def open_cascade(small: ModelLike = SMALL) -> Cascade:
    """The cascade of a small model and the recorded one, each of which is asked every question."""
    if not isinstance(small, Tier):
        # One at a time, so that a draft's busy time is its own.
        own = {"n_parallel": 1} if str(small).startswith("llamacpp:") else {}
        small = Tier(small, name="small", price=Price(per_hour=PER_HOUR), options=own, **SHORT)
    return Cascade(small, recorded_large(), policy=AlwaysEscalate(), signals=SIGNALS)


def assumed(tiers: Sequence[OpenTier]) -> tuple[str, str]:
    """The prices that were not measured, in words."""
    first, last = (tier.model.name for tier in tiers)
    return (
        f"{first} costs ${PER_HOUR:f} per hour in which it computes (an assumption for "
        "hardware and power; its time is measured)",
        f"{last}: at the list price of {PRICED_AS[1]} (an assumption: nobody hosts it itself)",
    )
